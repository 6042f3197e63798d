"""Measure accuracy, latency, memory and the share of INT8 kernels through a bundle's session."""
