"""The state of a repair: which layers to try in float, the attempts so far, and which of them to ship.

It is stored in the run folder next to the attempts' bundles, so that the same command resumes. It depends on no bound:
a command with another `--max-drop` decides anew, and makes only the attempts that are missing.
"""

import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from edgekit.config.precisions import PRECISIONS
from edgekit.devices.registry import THIS
from edgekit.errors import BundleError
from edgekit.measure import machine
from edgekit.measure.settings import Gates, Timing
from edgekit.pipeline.evaluation_images import ReferenceInputs, reference_inputs
from edgekit.pipeline.graphs import JobGraphs
from edgekit.pipeline.job_images import JobImages
from edgekit.pipeline.options import Options
from edgekit.pipeline.relabel import differs_in_labels
from edgekit.pipeline.request import BuildSpec, BundleInputs
from edgekit.report.device import DeviceFacts
from edgekit.report.measurement import Measurement
from edgekit.report.recipe_search import RepairAttempt, is_within
from edgekit.runtime.bundle import Bundle, read_bundle
from edgekit.support.files import replacing, writing
from edgekit.support.hashes import Inputs, code_sha256
from edgekit.support.run_folder import ATTEMPTS, RunFolder

ROOMS = ("measure", "pipeline", "tuning")
"""Folders of the package whose code ranks layers, and makes and measures attempts."""


@dataclass(frozen=True)
class Ranking:
    """The layers to keep in float in each attempt."""

    images: int
    """Number of calibration images on which INT8 was simulated to choose the layers."""
    attempts: tuple[tuple[str, ...], ...]
    """Names of the layers for each attempt, the noisiest first. Each attempt keeps more of them than the one before."""


RankLayers = Callable[[JobGraphs, str], Ranking]
"""Ranks the layers of a job for one target. Raises StageError."""


@dataclass(frozen=True)
class RepairInputs(Inputs):
    """Inputs of the figures of a repair's attempts, except for the layers of each."""

    bundles: tuple[BundleInputs, ...]
    """Inputs of the float bundle, and of the recipe's own int8 bundle, without the names of classes."""
    reference: ReferenceInputs
    """Inputs of torch's predictions for the evaluation images."""
    timing: Timing
    """Settings with which the attempts are timed."""
    device: DeviceFacts | None
    """This machine if it measures the attempts, otherwise None."""
    address: str | None
    """Address of the device that measures them, otherwise None."""
    code_sha256: str
    """Hash of edgekit's code in `ROOMS`."""


def repair_inputs(spec: BuildSpec, images: JobImages, target: str, options: Options) -> RepairInputs:
    """Inputs of the repair of a job's int8 bundle for one target."""
    first = options.devices[0]
    return RepairInputs(
        bundles=tuple(replace(spec.request(target, precision).inputs, labels=()) for precision in PRECISIONS),
        reference=reference_inputs(spec.network, images),
        timing=options.timing,
        device=machine.describe() if first == THIS else None,
        address=first.url,
        code_sha256=code_sha256(ROOMS),
    )


@dataclass(frozen=True)
class RepairState:
    """One target's repair as far as it has come."""

    ranking: Ranking
    attempts: tuple[RepairAttempt, ...]
    """The recipe's own bundle, then the attempts that have been measured, in the ranking's order."""
    device: DeviceFacts
    """The device that measured them."""
    engine: str | None
    """Distribution that ran the bundles there, with its version."""

    def decision(self, gates: Gates) -> int | None:
        """Position of the attempt to ship; None if another one has to be made.

        It is the first one that keeps the bounds, with the whole interval of the drop if the user stated that bound. If
        the attempts are used up, or one was no longer faster than float, it is the first of those that were whose
        measured drop is within the bound, or else the most accurate.
        """
        for index, attempt in enumerate(self.attempts):
            if keeps_drop(attempt, gates) and is_fast(attempt, gates):
                return index
        last = self.attempts[-1]
        if len(self.attempts) <= len(self.ranking.attempts) and (last.error is not None or is_fast(last, gates)):
            return None
        drops = {
            index: attempt.drop_top1_points
            for index, attempt in enumerate(self.attempts)
            if attempt.drop_top1_points is not None and (index == 0 or is_fast(attempt, gates))
        }
        return min(drops, key=lambda index: (max(drops[index], gates.max_drop), index))

    def shipped(self, gates: Gates) -> RepairAttempt:
        """The attempt to ship; the recipe's own bundle while that isn't decided."""
        return self.attempts[self.decision(gates) or 0]

    def keeps_drop(self, gates: Gates) -> bool:
        """Whether the drop of the attempt to ship keeps the bound."""
        return keeps_drop(self.shipped(gates), gates)

    def is_of(self, measured: Measurement) -> bool:
        """Whether the device and the runtime that measured the attempts also measured this row."""
        return (self.device, self.engine) == (measured.device, measured.engine)


def keeps_drop(attempt: RepairAttempt, gates: Gates) -> bool:
    """Whether the measured drop is within the bound, and its whole interval if the user stated the bound."""
    ends = attempt.drop_ci95_points
    shown = not gates.must_show_drop or (ends is not None and ends[1] <= gates.max_drop)
    return shown and is_within(attempt, gates.max_drop)


def is_fast(attempt: RepairAttempt, gates: Gates) -> bool:
    """Whether the interval of a measured speedup is above the bound. A bound of 0 turns this off."""
    low = attempt.speedup if attempt.speedup_ci95 is None else attempt.speedup_ci95[0]
    return gates.min_speedup <= 0 or low is None or low > gates.min_speedup


def attempt_of(measured: Measurement, layers: Sequence[str] = ()) -> RepairAttempt:
    """The attempt that was measured. The speedup of an emulated device doesn't count."""
    speedup, accuracy, latency = measured.speedup, measured.accuracy, measured.latency_ms
    timed = speedup is not None and not measured.device.emulated
    return RepairAttempt(
        float_layers=tuple(layers),
        drop_top1_points=accuracy.drop_top1_points if accuracy else None,
        drop_ci95_points=accuracy.drop_ci95_points if accuracy else None,
        p50_ms=latency.p50 if latency else None,
        speedup=speedup.ratio if speedup and timed else None,
        speedup_ci95=speedup.ci95 if speedup and timed else None,
        error=str(measured.failure) if measured.failure else None,
    )


@dataclass(frozen=True)
class RepairStore:
    """One target's repair in the run folder: its state, and the bundles of its attempts."""

    run: RunFolder
    target: str
    inputs: Inputs

    @property
    def name(self) -> str:
        """Name of the bundle."""
        return f"{self.target}-int8"

    def load(self) -> RepairState | None:
        """The repair of an earlier command with the same inputs."""
        return self.run.recall(f"repair-{self.target}", self.inputs, RepairState)

    def save(self, state: RepairState) -> None:
        """Replace the stored repair."""
        self.run.remember(f"repair-{self.target}", self.inputs, state)

    def path_of(self, layers: Sequence[str]) -> Path:
        """Folder of the bundle with this number of layers in float."""
        return self.run.state / ATTEMPTS / f"{self.name}-{len(layers)}"

    def keep_own(self) -> None:
        """Copy the recipe's own bundle to the attempts, where a command with a looser bound finds it."""
        place = self.path_of(())
        with writing(place):
            place.parent.mkdir(parents=True, exist_ok=True)
            with replacing(place) as temporary:
                shutil.copytree(self.run.path / self.name, temporary)


def ship(run: RunFolder, name: str, source: Path) -> Bundle:
    """Make the run's bundle called `name` a copy of the bundle at `source`."""
    place = run.path / name
    with writing(place), replacing(place) as temporary:
        shutil.copytree(source, temporary)
    return read_bundle(place)


def restore(spec: BuildSpec, targets: Iterable[str], run: RunFolder) -> None:
    """Put bundles of earlier attempts back into their places where this job would make the same ones."""
    for target in targets:
        name = f"{target}-int8"
        places = sorted((run.state / ATTEMPTS).glob(f"{name}-*"))
        if not places:
            continue
        inputs = spec.request(target, "int8").inputs
        if not _is_made_from(run.path / name, inputs):
            source = next((place for place in places if _is_made_from(place, inputs)), None)
            if source is not None:
                ship(run, name, source)


def _is_made_from(path: Path, inputs: BundleInputs) -> bool:
    """Whether there is an intact bundle at `path` from these inputs, or from others in the names of classes only."""
    try:
        bundle = read_bundle(path)
    except BundleError:
        return False
    return bundle.manifest.fingerprint == inputs.key or differs_in_labels(bundle, inputs)
