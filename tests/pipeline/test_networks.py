"""Networks as users write them, through the real pipeline: what is asked for on each runtime, and what it runs.

`pytest tests/pipeline/test_networks.py -s` prints a table at the end.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from edgekit.config.runtimes import RUNTIMES
from edgekit.images.dataset import crop_samples
from edgekit.job import Job
from edgekit.measure.accuracy import snr_db
from edgekit.models.network import torch_logits
from edgekit.models.options import ModelOptions
from edgekit.pipeline.builder import Builder
from edgekit.pipeline.graphs import PARITY, JobGraphs, difference
from edgekit.pipeline.job_images import JobImages
from edgekit.pipeline.loading import load_job
from edgekit.pipeline.request import BuildSpec
from edgekit.runtime.bundle import Bundle
from edgekit.runtime.profile import profile_bundle
from edgekit.runtime.session import Session
from edgekit.support.progress import Reporter
from tests.helpers.networks import NETWORKS, SIZE

pytestmark = pytest.mark.slow
SNR_DB = 5
"""Lowest signal-to-noise ratio in decibels of the differences between images. Random weights amplify INT8's noise."""


@dataclass(frozen=True)
class Row:
    """What became of a network on one runtime."""

    network: str
    runtime: str
    parity: float
    """Largest difference of the float logits from torch's, as a share of the largest."""
    snr_db: float
    """Of the INT8 logits."""
    asked: frozenset[tuple[str, bool]]
    """Layers of the manifest, and whether it calls them INT8."""
    ran: frozenset[tuple[str, bool]]
    """Layers of the runtime's profile, and whether they ran in INT8."""
    counts: tuple[int, int, int]
    """Numbers of layers, of those that the manifest calls INT8, and of those that ran in INT8."""
    source: str
    """How the profile knows: it observed the kernels, inferred them, or can't see those of some products."""

    def __str__(self) -> str:
        figures = (f"{self.parity:.0e}", *map(str, self.counts), self.source, f"{self.snr_db:.1f}")
        return f"| {' | '.join((self.network, self.runtime, *figures))} |"


@pytest.fixture(scope="module")
def table() -> Iterator[list[Row]]:
    rows: list[Row] = []
    yield rows
    titles = ("network", "runtime", "float parity", "layers", "asked for INT8", "ran in INT8", "profile", "dB")
    print("", *(f"| {' | '.join(line)} |" for line in (titles, ["---"] * len(titles))), *rows, sep="\n")


@pytest.fixture(scope="module", params=NETWORKS)
def deployed(
    request: pytest.FixtureRequest, pictures: Path, tmp_path_factory: pytest.TempPathFactory, table: list[Row]
) -> dict[str, Row | Exception]:
    """What became of a network on each runtime, or why there is no bundle."""
    model = ModelOptions("tests.helpers.networks:build", None, {"name": request.param}, imgsz=SIZE, crop_pct=1.0)
    reporter = Reporter(quiet=True)
    spec, chosen = load_job(Job(model, pictures, num_calibration_samples=8, num_eval_samples=8), reporter)
    built = Builder(JobGraphs(spec, reporter)).build(tuple(RUNTIMES), tmp_path_factory.mktemp("bundles"))
    rows = {
        target: row_of(request.param, spec, chosen, target, built[f"{target}-float"], built[f"{target}-int8"])
        for target in RUNTIMES
    }
    table += [row for row in rows.values() if isinstance(row, Row)]
    return rows


def row_of(
    name: str,
    spec: BuildSpec,
    chosen: JobImages,
    target: str,
    exact: Bundle | Exception,
    quantized: Bundle | Exception,
) -> Row | Exception:
    for bundle in (exact, quantized):
        if isinstance(bundle, Exception):
            return bundle
    assert isinstance(exact, Bundle)
    assert isinstance(quantized, Bundle)
    pixels = crop_samples(chosen.dataset, chosen.evaluation.samples, spec.network.preprocessing).pixels
    expected = torch_logits(spec.network, pixels)
    images = spec.network.preprocessing.normalize(pixels)
    profile, layers = profile_bundle(quantized, threads=1, runs=1), quantized.manifest.layers
    seen = [op for op in profile.ops if op.reason is None or "fused subgraph" not in op.reason]
    unseen = {op.name for op in profile.ops} - {op.name for op in seen}
    return Row(
        name,
        target,
        difference(run(exact, images), expected),
        snr_db(expected - expected.mean(0), (logits := run(quantized, images)) - logits.mean(0)),
        frozenset((layer["name"], layer["int8"]) for layer in layers if layer["name"] not in unseen),
        frozenset((op.name, op.int8) for op in seen),
        (len(layers), sum(layer["int8"] for layer in layers), sum(op.int8 for op in profile.ops)),
        "inferred" if profile.method.startswith("Inferred") else f"{len(unseen)} unseen" if unseen else "observed",
    )


def run(bundle: Bundle, images: NDArray[np.float32]) -> NDArray[np.float32]:
    with Session(bundle, threads=1) as session:
        return session(images)


@pytest.mark.parametrize("target", RUNTIMES)
def test_what_is_asked_for_is_what_runs(deployed: dict[str, Row | Exception], target: str) -> None:
    row = deployed[target]
    assert isinstance(row, Row), row
    assert row.parity <= PARITY
    assert SNR_DB < row.snr_db < 80
    assert row.asked == row.ran
