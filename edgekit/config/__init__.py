"""Runtimes, recipes and device classes: what edgekit can be asked for."""
