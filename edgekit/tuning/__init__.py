"""Find the layers that INT8 harms or slows down: simulation, sensitivity, placement by profile, and repair."""
