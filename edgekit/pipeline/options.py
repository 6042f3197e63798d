"""The options of a job. It imports nothing heavy, so the command line can check its arguments before loading torch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgekit.config.precisions import PRECISIONS, Precision, Scheme
from edgekit.config.runtimes import RUNTIMES, find_runtime
from edgekit.devices.registry import THIS, Device
from edgekit.errors import UsageError
from edgekit.measure.settings import Gates, Timing
from edgekit.models.options import ModelOptions


@dataclass(frozen=True)
class Options:
    """Options of `edgekit deploy`."""

    model: ModelOptions
    data: Path
    calibration_data: Path | None = None
    targets: tuple[str, ...] = field(default_factory=lambda: tuple(RUNTIMES))
    precisions: tuple[Precision, ...] = PRECISIONS
    device_class: str | None = None
    recipe: str | None = None
    scheme: Scheme | None = None
    """Scheme that replaces the recipe's."""
    num_calibration_samples: int | None = None
    calibration_list: Path | None = None
    """A calibration.json whose images and recipe replace the choice by seed."""
    check_stability: bool = False
    """Whether to also calibrate on each half of the images, and compare the results."""
    num_eval_samples: int | None = None
    """Number of evaluation images, or None for all that aren't used for calibration."""
    seed: int = 0
    output: Path | None = None
    timing: Timing = field(default_factory=Timing)
    gates: Gates = field(default_factory=Gates)
    devices: tuple[Device, ...] = (THIS,)
    """Devices to measure on. Bundles are built for the class of the first."""
    force: bool = False
    """Whether to build bundles even if the plan predicts that they won't fit."""
    thumbnails: bool = True
    """Whether the report's page shows thumbnails of images whose predicted class INT8 changed."""
    command: tuple[str, ...] = ()
    as_given: Mapping[str, Any] | None = None
    """The job as JSON values, which the run folder keeps for later commands."""

    @property
    def folder(self) -> Path:
        """Path of the run folder: `output`, or a folder named after the model."""
        return self.output or Path("runs") / self.model.run_name.replace("/", "_").replace(":", "_")


def check_scheme(scheme: Scheme, targets: Sequence[str]) -> None:
    """Raise UsageError, with the targets that can, if one of these targets can't compile the INT8 scheme."""
    unable = [find_runtime(name) for name in targets if scheme not in find_runtime(name).schemes]
    if not unable:
        return
    able = [runtime.name for runtime in RUNTIMES.values() if scheme in runtime.schemes]
    requested = [name for name in able if name in targets]
    titles = " and ".join(runtime.title for runtime in unable)
    raise UsageError(
        f"{titles} can't compile scheme {scheme}",
        valid=f"{', '.join(unable[0].schemes)} for {titles}",
        fix=f"Choose other runtimes with `{' '.join(f'--target {name}' for name in requested or able)}`",
    )
