"""Exports networks as graphs, rewrites the graphs and quantizes them."""
