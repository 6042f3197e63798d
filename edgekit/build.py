"""All bundles of a run: those with the right fingerprint are kept, the others are made."""

from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import numpy as np
from torch.fx import GraphModule

from edgekit.backends import load_backend
from edgekit.bundle import Bundle, read_bundle
from edgekit.errors import BundleError, StageError
from edgekit.graph import export_graph
from edgekit.libraries import quiet
from edgekit.progress import Reporter
from edgekit.stages import Precision, Prepared, compile_stage, fingerprint, quantize_stage, torch_logits

if TYPE_CHECKING:
    from edgekit.pipeline import Job


PARITY_IMAGES = 8


class PreparedGraphs:
    """Graphs of one job: the network is exported once, when the first is asked for."""

    def __init__(self, job: "Job", reporter: Reporter) -> None:
        self.job, self.reporter = job, reporter
        self.graph: GraphModule | None = None
        preprocessing, chosen = job.network.preprocessing, job.calibration.samples[:PARITY_IMAGES]
        self.pixels = np.stack([preprocessing.crop(job.calibration_dataset.image(sample)) for sample in chosen])
        self.logits = torch_logits(job.network, self.pixels)

    def prepare(self, target: str, precision: Precision) -> Prepared:
        """The rewritten graph of one bundle, calibrated if it is int8."""
        job, name = self.job, f"{target}-{precision}"
        size = job.network.preprocessing
        if self.graph is None:
            with self.reporter.stage("export"), quiet():
                self.graph = export_graph(job.network.module, (1, 3, size.height, size.width))
        calibration, digest = [], ""
        if precision == "int8":
            images = (job.calibration_dataset.image(sample) for sample in job.calibration.samples)
            calibration, digest = [size(image) for image in images], job.calibration.sha256
        with self.reporter.stage(f"{name}: {'calibrate' if digest else 'rewrite'}", len(calibration) or None) as step:
            return quantize_stage(
                job.network, self.graph, target, precision, job.recipe, job.device_class,
                self.pixels, self.logits, calibration, digest, step,
            )  # fmt: skip


def build_all(job: "Job", targets: tuple[str, ...], folder: Path, reporter: Reporter) -> dict[str, Bundle | StageError]:
    """Bundles by name, in the report's order; for one that failed, its error."""
    for target in targets:
        load_backend(target)  # a missing package shows before the work
    built: dict[str, Bundle | StageError] = {}
    graphs = PreparedGraphs(job, reporter)
    for target, precision in product(targets, get_args(Precision)):
        name = f"{target}-{precision}"
        wanted = fingerprint(job.network, target, precision, job.recipe, job.calibration.sha256, job.device_class)
        kept = _kept(folder / name, wanted)
        if kept is not None:
            reporter.say(f"{name}: kept from an earlier run")
            built[name] = kept
            continue
        try:
            prepared = graphs.prepare(target, precision)
            with reporter.stage(f"{name}: compile"):
                built[name], difference = compile_stage(prepared, folder / name)
            reporter.say(f"{name}: {difference:.1e} of the largest logit from torch on {len(graphs.pixels)} images")
        except StageError as error:
            built[name] = error
            reporter.warn(f"{name}: {error}")
    return built


def _kept(path: Path, wanted: str) -> Bundle | None:
    """The bundle at `path` if it is whole and made from the same things."""
    try:
        bundle = read_bundle(path)
    except BundleError:
        return None
    return bundle if bundle.manifest.fingerprint == wanted else None
