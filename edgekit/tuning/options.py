"""How to search for a recipe."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Search:
    """How to look for a recipe: what `edgekit tune` was asked for beside the job."""

    trials: int | None = None
    """At most so many recipes for each target; None for the whole plan."""
    minutes: float | None = None
    memory_mb: int | None = None
    """Of one worker process; a trial that takes more is given up."""
    workers: int = 1
    storage: str | None = None
    """SQLite file of the study, as a path or sqlite:///PATH; None for one in the run folder."""
    num_tuning_samples: int | None = None
    """Images to search on; None for half of what calibration leaves."""
    silence_s: int = 60
    """A worker that said nothing for so long is dead: its trial is taken up again."""
