"""Options of the search for a recipe."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Search:
    """Options of `edgekit tune` in addition to those of the job."""

    trials: int | None = None
    """Maximum number of recipes to try for each target; None for the whole plan."""
    minutes: float | None = None
    """Time limit of the search in minutes; None for no limit."""
    memory_mb: int | None = None
    """Memory limit of a worker process in MB. A trial that exceeds it fails. None for no limit."""
    workers: int = 1
    """Number of worker processes."""
    storage: str | None = None
    """SQLite file of the study, as a path or sqlite:///PATH; None for one in the run folder."""
    num_tuning_samples: int | None = None
    """Number of images to search on; None for half of the images that calibration leaves."""
    silence_s: int = 60
    """Seconds without a heartbeat after which a worker counts as lost and its trial is repeated."""
