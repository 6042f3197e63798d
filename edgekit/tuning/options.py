"""Options of the search for a recipe."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Search:
    """Options of `edgekit tune` in addition to those of the job."""

    trials: int | None = None
    """Maximum number of recipes to try for each target; None for the whole plan."""
    minutes: float | None = None
    """Minutes after which no further trial starts; None for no limit."""
    num_tuning_samples: int | None = None
    """Number of images to search on; None for half of the images that calibration leaves."""
