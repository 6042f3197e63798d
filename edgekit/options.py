"""What a job was asked for. Imports nothing heavy: the command line checks its arguments before torch is loaded."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgekit.devices.registry import THIS, Device
from edgekit.profiles import PRECISIONS, Precision, Scheme
from edgekit.targets import TARGETS


@dataclass(frozen=True)
class ModelOptions:
    """Which network: the arguments of `load_network`."""

    name: str
    weights: str | None = None
    model_args: dict[str, Any] = field(default_factory=dict)
    imgsz: int | tuple[int, int] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    interpolation: str | None = None
    crop_pct: float | None = None
    labels: Path | None = None


@dataclass(frozen=True)
class Settings:
    """How to measure, and the gates."""

    threads: int | None = None
    warmup: int = 20
    iterations: int = 200
    sustain_s: float | None = None
    """Seconds to time for, in place of `iterations`."""
    max_drop: float = 1.0
    """Percentage points of top-1 that an int8 bundle may lose."""
    must_show_drop: bool = False
    """Whether the 95 % interval must lie within `max_drop`, as where a user states it, or the measured drop alone."""
    min_speedup: float = 1.0
    """An int8 bundle must be faster than its float by more than this factor, interval included; 0 turns it off."""
    must_be_fit: bool = False
    """Whether a latency has to be fit to quote, as where a user states `min_speedup`, or is only remarked on."""


@dataclass(frozen=True)
class Options:
    """A job: what `edgekit deploy` was asked for."""

    model: ModelOptions
    data: Path
    calibration_data: Path | None = None
    targets: tuple[str, ...] = tuple(TARGETS)
    precisions: tuple[Precision, ...] = PRECISIONS
    device_class: str | None = None
    recipe: str | None = None
    scheme: Scheme | None = None
    """In place of the recipe's."""
    num_calibration_samples: int | None = None
    calibration_list: Path | None = None
    """A calibration.json: its images and recipe instead of a choice by seed."""
    check_stability: bool = False
    """Whether to calibrate on two halves of the images too, and compare them."""
    num_eval_samples: int | None = None
    """Images to evaluate on; None for all that calibration leaves."""
    seed: int = 0
    output: Path | None = None
    settings: Settings = field(default_factory=Settings)
    devices: tuple[Device, ...] = (THIS,)
    """Where to measure; the bundles are made for the class of the first."""
    offline: bool = False
    """Fetch a device's packages here instead of there."""
    force: bool = False
    """Begin also what the plan says can't be finished."""
    command: tuple[str, ...] = ()

    @property
    def folder(self) -> Path:
        """The run folder: `output`, or one named after the model."""
        return self.output or Path("runs") / self.model.name.replace("/", "_").replace(":", "_")


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
    """URL of the study's database; None for a SQLite file in the run folder."""
    num_tuning_samples: int | None = None
    """Images to search on; None for half of what calibration leaves."""
    silence_s: int = 60
    """A worker that said nothing for so long is dead: its trial is taken up again."""
