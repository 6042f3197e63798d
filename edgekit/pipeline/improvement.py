"""Improvements of bundles after they were measured, such as layers kept in float, and the bundles that they try."""

import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from edgekit.config.recipes import Recipe
from edgekit.devices.registry import Device
from edgekit.errors import BundleError
from edgekit.job import Job
from edgekit.measure.measure_bundles import BuiltBundles
from edgekit.pipeline.graphs import JobGraphs
from edgekit.pipeline.job_images import JobImages
from edgekit.pipeline.request import BuildSpec, BundleInputs
from edgekit.report.measurement import Measurement
from edgekit.report.row import Row
from edgekit.runtime.bundle import Bundle, read_bundle
from edgekit.support.files import digest, replacing, writing
from edgekit.support.progress import Reporter
from edgekit.support.run_folder import ATTEMPTS, RunFolder


class Measure(Protocol):
    """Measures bundles on a device, one measurement each; with a number of threads, only their times with it."""

    def __call__(self, device: Device, bundles: BuiltBundles, threads: int | None = None) -> Sequence[Measurement]: ...


@dataclass
class Improvement:
    """The bundles of one job as its recipe makes them. A subclass replaces some by better ones after measuring."""

    job_recipe: Recipe
    """The job's recipe."""

    @property
    def recipe(self) -> Recipe:
        """The recipe of the bundles in the run folder, with what the improvement has changed so far."""
        return self.job_recipe

    def improve(
        self,
        built: BuiltBundles,
        measured: Sequence[Measurement],
        measure: Measure,
        graphs: JobGraphs,
        compare: Measure | None = None,
    ) -> list[Measurement]:
        """Improve the bundles. `measured` has the measurements of all bundles for each device in turn.

        Returns them with those of the new bundles in place of the old ones. `graphs` made the bundles. `compare`
        measures on other images than those of the verdict, if there are any.
        """
        return list(measured)

    def described(self, row: Row) -> Row:
        """The row with the improvement of its bundle, if there was one."""
        return row


Improve = Callable[[BuildSpec, JobImages, Job, RunFolder, Reporter], Improvement]
"""Makes the improvement of a job, from the network and the images that were loaded for it."""


def attempt_path(run: RunFolder, name: str, layers: Sequence[str]) -> Path:
    """Folder of the bundle that was tried instead of the run's bundle `name`, with these layers in float."""
    return run.state / ATTEMPTS / f"{name}-{digest(*layers)[:12]}"


def copy_bundle(source: Path, place: Path) -> Bundle:
    """Replace what is at `place` by a copy of the bundle at `source`."""
    with writing(place):
        place.parent.mkdir(parents=True, exist_ok=True)
        with replacing(place) as temporary:
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
                copy_bundle(source, run.path / name)


def _is_made_from(path: Path, inputs: BundleInputs) -> bool:
    """Whether there is an intact bundle at `path` from these inputs."""
    try:
        return read_bundle(path).manifest.fingerprint == inputs.key
    except BundleError:
        return False
