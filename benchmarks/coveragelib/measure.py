"""Takes one model through edgekit's pipeline for each runtime, and says what came of it."""

import re
import resource
import tempfile
import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.coveragelib.stock import stock_snr_db
from benchmarks.rows import Row, keep_rows
from edgekit.config.runtimes import RUNTIMES, Precision
from edgekit.errors import EdgekitError, ModelError
from edgekit.job import Job
from edgekit.measure.accuracy import snr_db
from edgekit.models.network import torch_logits
from edgekit.models.options import ModelArgs, ModelOptions
from edgekit.pipeline.build import build_one
from edgekit.pipeline.graphs import JobGraphs
from edgekit.pipeline.job_images import JobImages
from edgekit.pipeline.loading import load_job
from edgekit.pipeline.request import BuildSpec
from edgekit.runtime.bundle import Bundle
from edgekit.runtime.profile import profile_bundle
from edgekit.runtime.session import open_session
from edgekit.support.libraries import first_line
from edgekit.support.progress import Reporter

SIDES = (128, 160, 192, 224, 256)
"""Input sides in pixels that are tried in turn."""
LOW_SNR_DB = 15.0
"""Below this signal-to-noise ratio, the row also has that of `nncf.quantize` for the same network."""


@dataclass(frozen=True)
class Request:
    """A model, and the images to measure it with."""

    facts: Row
    """What its rows say about the model before it is built."""
    model: str
    data: Path
    side: int | None
    """Default input side in pixels; None for the model's own."""
    full_size: bool = False
    """Whether to keep that side instead of a smaller one."""
    model_args: ModelArgs | None = None
    calibrate: int = 8
    count: int = 16
    targets: tuple[str, ...] = tuple(RUNTIMES)


def measure_within(request: Request, rows: Path, memory_gib: float) -> None:
    """Run `measure` with a memory limit. Call it in a separate process, because a converter may crash or hang."""
    most = int(memory_gib * 2**30)
    resource.setrlimit(resource.RLIMIT_DATA, (most, most))
    torch.set_num_threads(1)
    measure(request, rows)


def measure(request: Request, rows: Path) -> None:
    """Measure a model, and save a row for each runtime in the file `rows`."""
    start, facts = time.monotonic(), {**request.facts, "model": request.model}
    try:
        measured = _Measured(request)
    # Also edgekit's own mistakes: the row names them.
    except Exception as error:
        failed = {**facts, "seconds": round(time.monotonic() - start, 1), **failure("load", error)}
        keep_rows(rows, [{**failed, "target": target} for target in request.targets], ("target",))
        return
    for target in request.targets:
        row = {**facts, **measured.facts, "target": target, **measured.row(target)}
        keep_rows(rows, [{**row, "seconds": round(time.monotonic() - start, 1)}], ("target",))
        start = time.monotonic()


def failure(stage: str, error: Exception) -> Row:
    """The stage that failed, and the error. Whatever isn't an EdgekitError is a mistake of edgekit's."""
    text = error.problem if isinstance(error, EdgekitError) else first_line(error)
    text = re.sub(r"\S*/site-packages/", "", " ".join(text.split()))
    return {"stage": stage, "error": type(error).__name__, "reason": text[:300]}


class _Measured:
    """One loaded model."""

    def __init__(self, request: Request) -> None:
        self._reporter = Reporter(quiet=True)
        self._spec, chosen = self._prepare(request)
        network = self._spec.network
        self._size = network.preprocessing
        self._pixels = chosen.dataset.crop(chosen.evaluation.samples, self._size).pixels
        self._expected = torch_logits(network, self._pixels)
        self._graphs = JobGraphs(self._spec, self._reporter)
        _ = self._graphs.simplified
        self.facts: Row = {
            "params": network.params, "input": self._size.height, "recipe": self._spec.recipe.name,
            "calibration_images": request.calibrate, "images": request.count,
            "answers": len(set(self._expected.argmax(1).tolist())),
        }  # fmt: skip

    def _prepare(self, request: Request) -> tuple[BuildSpec, JobImages]:
        """Load the model at the smallest side that it accepts."""
        sides = [side for side in SIDES if request.side and side < request.side and not request.full_size]
        for side in (*sides, request.side):
            options = ModelOptions(request.model, weights="random", imgsz=side, model_args=request.model_args or {})
            counted = Job(
                options,
                request.data,
                num_calibration_samples=request.calibrate,
                num_eval_samples=request.count,
            )
            try:
                return load_job(counted, self._reporter)
            except ModelError:
                if side == request.side:
                    raise
        raise AssertionError

    def row(self, target: str) -> Row:
        """Figures of one runtime, or the stage that failed and why."""
        row: Row = {}
        with tempfile.TemporaryDirectory() as folder:
            for precision in ("float", "int8"):
                try:
                    row |= self._figures(target, precision, Path(folder) / precision)
                # Also edgekit's own mistakes: the row names them.
                except Exception as error:
                    return row | failure(precision, error)
        return row

    def _figures(self, target: str, precision: Precision, folder: Path) -> Row:
        bundle = build_one(self._graphs, target, precision, folder)
        logits, size = self._logits(bundle), {f"{precision}_bytes": bundle.size_bytes}
        if precision == "float":
            difference = np.abs(logits - self._expected).max() / np.abs(self._expected).max()
            return {"float_parity": float(f"{difference:.1e}"), **size}
        snr = snr_db(self._expected, logits)
        figures: Row = {
            "agreement": round(float((logits.argmax(1) == self._expected.argmax(1)).mean()), 4),
            "snr_db": round(snr, 1),
            "int8_share_of_macs": round(profile_bundle(bundle, 1, 1).share_of_macs, 3),
            **size,
        }
        return figures | self._stock if snr < LOW_SNR_DB else figures

    def _logits(self, bundle: Bundle) -> NDArray[np.float32]:
        with open_session(bundle, 1) as session:
            return np.concatenate([session(self._size.normalize(crop[None])) for crop in self._pixels])

    @cached_property
    def _stock(self) -> Row:
        """Signal-to-noise ratio of `nncf.quantize` with the same images, or null and the reason."""
        spec = self._spec
        crops = spec.calibration_dataset.crop(spec.calibration.samples, self._size).pixels
        calibration, images = ([self._size.normalize(crop[None]) for crop in each] for each in (crops, self._pixels))
        try:
            snr = stock_snr_db(self._graphs.simplified, calibration, images, self._expected)
        # NNCF or OpenVINO may fail where edgekit works.
        except Exception as error:
            return {"nncf_snr_db": None, "nncf_reason": failure("nncf", error)["reason"]}
        return {"nncf_snr_db": snr}
