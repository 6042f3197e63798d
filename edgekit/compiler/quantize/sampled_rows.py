"""The number of rows of a layer's inputs that a fit samples."""

ROWS_PER_INPUT = (32, 200)
"""Rows sampled per input of a layer to estimate second moments: of a layer with many inputs, and of one with few, which
takes more at little cost. More rows change little."""
ENOUGH_ROWS = 20_000
"""Rows from which on a layer needs no more than the smaller number per input."""


def most_rows(inputs: int) -> int:
    """Largest number of rows that a fit takes from all images for a layer with this many inputs."""
    least, most = (each * inputs for each in ROWS_PER_INPUT)
    return max(least, min(most, ENOUGH_ROWS))
