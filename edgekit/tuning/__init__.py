"""What a recipe costs and how to find a better one: simulation, sensitivity of layers, and the search for a recipe."""
