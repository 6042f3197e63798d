"""Benchmarks: peers, model coverage, scale, and the training of the demo model."""
