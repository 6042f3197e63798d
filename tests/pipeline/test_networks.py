"""Networks as users write them, through the real pipeline: what is asked for on each runtime, and what it runs."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from edgekit.config.runtimes import RUNTIMES
from edgekit.job import Job
from edgekit.measure.accuracy import snr_db
from edgekit.models.network import torch_logits
from edgekit.models.options import ModelOptions
from edgekit.pipeline.builder import Builder
from edgekit.pipeline.graphs import PARITY, JobGraphs, difference
from edgekit.pipeline.loading import load_job
from edgekit.runtime.bundle import Bundle
from edgekit.runtime.profile import profile_bundle
from edgekit.runtime.session import Session
from edgekit.support.progress import Reporter
from tests.helpers.networks import CLASSES, NETWORKS, SIZE

pytestmark = pytest.mark.slow
SNR_DB = 5
"""Lowest signal-to-noise ratio in decibels of the differences between images. Random weights amplify INT8's noise."""
GROUPS = [list(NETWORKS)[first::8] for first in range(8)]
"""Names of networks that are built side by side. Neighbours in the list are alike: a converter merges equal layers."""


@dataclass(frozen=True)
class Built:
    """Networks side by side, with their bundles and what torch computes."""

    names: list[str]
    bundles: dict[str, Bundle | Exception]
    images: NDArray[np.float32]
    expected: NDArray[np.float32]


@pytest.fixture(scope="module", params=GROUPS, ids=" + ".join)
def built(request: pytest.FixtureRequest, pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Built:
    names = {"names": " + ".join(request.param)}
    model = ModelOptions("tests.helpers.networks:build", None, names, imgsz=SIZE, crop_pct=1.0)
    reporter = Reporter(quiet=True)
    spec, chosen = load_job(Job(model, pictures, num_calibration_samples=8, num_eval_samples=8), reporter)
    bundles = Builder(JobGraphs(spec, reporter)).build(tuple(RUNTIMES), tmp_path_factory.mktemp("bundles"))
    pixels = chosen.dataset.crop(chosen.evaluation.samples, spec.network.preprocessing).pixels
    expected = torch_logits(spec.network, pixels)
    return Built(request.param, bundles, spec.network.preprocessing.normalize(pixels), expected)


@pytest.mark.parametrize("target", RUNTIMES)
def test_what_is_asked_for_is_what_runs(built: Built, target: str) -> None:
    exact, quantized = built.bundles[f"{target}-float"], built.bundles[f"{target}-int8"]
    assert isinstance(exact, Bundle), exact
    assert isinstance(quantized, Bundle), quantized
    for name, wanted, in_float, in_int8 in zip(
        built.names, *map(of_each, (built.expected, run(exact, built), run(quantized, built))), strict=True
    ):
        assert difference(in_float, wanted) <= PARITY, name
        assert SNR_DB < snr_db(wanted - wanted.mean(0), in_int8 - in_int8.mean(0)) < 80, name
    ops = profile_bundle(quantized, threads=1, runs=1).ops
    seen = [op for op in ops if op.reason is None or "fused subgraph" not in op.reason]
    unseen = {op.name for op in ops} - {op.name for op in seen}
    asked = {(layer["name"], layer["int8"]) for layer in quantized.manifest.layers if layer["name"] not in unseen}
    assert asked == {(op.name, op.int8) for op in seen}


def of_each(logits: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    """The logits of each network."""
    return np.split(logits, logits.shape[1] // CLASSES, 1)


def run(bundle: Bundle, built: Built) -> NDArray[np.float32]:
    with Session(bundle, threads=1) as session:
        return session(built.images)
