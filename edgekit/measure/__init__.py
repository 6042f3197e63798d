"""Accuracy, latency, memory and what ran in int8, measured through a bundle's session."""
