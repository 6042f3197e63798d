"""Measure what a recipe costs and find a better one: simulation, sensitivity of layers, and the search for a recipe."""
