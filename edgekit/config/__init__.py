"""Runtimes, recipes and device classes."""
