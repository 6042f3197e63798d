"""Measurements with plausible figures. A test sets the figures that matter to it."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import pytest

from edgekit.config.runtimes import Precision
from edgekit.measure import bundles
from edgekit.measure.accuracy import EvaluationImages
from edgekit.measure.bundles import BuiltBundles, Here, MeasureSpec, measure
from edgekit.measure.fresh_process import Fresh
from edgekit.measure.gates import Group
from edgekit.measure.settings import Timing
from edgekit.report.figure import Conditions, DeviceFacts, MachineState, Sample
from edgekit.report.row import Accuracy, Failure, Latency, Measurement, Speedup, Stage
from edgekit.support.progress import Reporter

FRESH = Fresh(load_ms=1.0, first_ms=1.0, peak_rss_bytes=1_000_000)


@contextmanager
def without_fresh_processes(fresh: Fresh = FRESH) -> Iterator[None]:
    """Measure bundles in this process alone: a fresh one would import everything again. `fresh` are its figures."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bundles, "measure_fresh", lambda path, threads: fresh)
        yield


def device(name: str = "local", **changes: Any) -> DeviceFacts:
    """A machine with two cores."""
    facts = {"device_class": "x86-64-v4", "cpu": "x", "cores": 2, "memory_bytes": 1}
    return DeviceFacts(name=name, **{**facts, **changes})


def accuracy(drop: float = 0.2, **changes: Any) -> Accuracy:
    """Accuracy on 1,000 images, `drop` percentage points below the reference, with an interval of ± half a point."""
    figures: dict[str, Any] = {
        "top1": 0.8,
        "top5": 0.95,
        "count": 1000,
        "drop_top1_points": drop,
        "drop_ci95_points": (drop - 0.5, drop + 0.5),
        "agreement": 0.97,
        "right_to_wrong": 10 + max(0, round(drop * 10)),
        "wrong_to_right": 10 + max(0, round(-drop * 10)),
        "mcnemar_p": 0.5,
        "versus": "reference",
    }
    return Accuracy(**{**figures, **changes})


def latency(p50: float = 10.0, **changes: Any) -> Latency:
    """Steady latency in milliseconds on one thread."""
    percentiles: dict[str, Any] = {f"p{percent}": p50 for percent in (5, 25, 50, 75, 90, 95, 99)}
    others = {"mean": p50, "std": 0.1, "spread": 0.05, "count": 200, "threads": 1, "load": 20.0, "first": 12.0}
    return Latency(**{**percentiles, **others, **changes})


def speedup(ratio: float, low: float, high: float, versus_precision: str = "f32") -> Speedup:
    """Speedup over the float bundle of the same runtime."""
    return Speedup(versus="onnx-float", versus_precision=versus_precision, ratio=ratio, ci95=(low, high))


def machine_state(**changes: Any) -> MachineState:
    """The state of a machine that reports nothing except `changes`."""
    nothing: dict[str, Any] = dict.fromkeys(MachineState.__dataclass_fields__)
    return MachineState(**{**nothing, **changes})


def conditions(**changes: Any) -> Conditions:
    """Conditions of a cool and idle machine with four CPUs."""
    calm: dict[str, Any] = {
        "before": machine_state(),
        "after": machine_state(),
        "seconds": 2.0,
        "series": (),
        "throttled": (),
        "cpus": 4,
        "other_cpus": 0.1,
    }
    return Conditions(**{**calm, **changes})


def sample(celsius: float | None) -> Sample:
    """A sample with the temperature alone."""
    return Sample(s=1.0, clock_mhz=None, celsius=celsius, throttled=None)


def measurement(precision: Precision = "int8", target: str = "onnx", **changes: Any) -> Measurement:
    """Measurement of a bundle that passes every gate: int8 is 1.5 times as fast as float and 0.2 points worse."""
    figures: dict[str, Any] = {
        "device": device(),
        "bundle": f"{target}-{precision}",
        "size_bytes": 4_000_000,
        "accuracy": accuracy(),
        "latency_ms": latency(),
        "speedup": speedup(1.5, 1.4, 1.6) if precision == "int8" else None,
    }
    return Measurement(target=target, precision=precision, **{**figures, **changes})


def failed(stage: Stage = "compile", target: str = "onnx", on: DeviceFacts | None = None) -> Measurement:
    """Measurement of an int8 bundle for which a stage failed."""
    failure = Failure(stage, "CompileError", "refused")
    return Measurement(target=target, precision="int8", device=on or device(), failure=failure)


def measured_here(
    group: Group, timing: Timing, images: EvaluationImages | None = None, **facts: Any
) -> dict[str, Measurement]:
    """Measure bundles in this process, all in turns."""
    host, reporter = Here(device(**facts), Reporter(quiet=True)), Reporter(quiet=True)
    spec = MeasureSpec(timing, images)
    return dict(zip(group, measure(host.connected, host.row_facts, group, spec, reporter, True), strict=True))


class FakeHost:
    """A host that records which groups it was asked for, and gives one measurement per bundle."""

    def __init__(self, failure: Failure | None = None, name: str = "local", address: str = "") -> None:
        self.groups: list[list[str]] = []
        self.row_facts = device(name)
        self._failure, self._address = failure, address

    def versions(self, group: Group) -> Mapping[str, str]:
        return {"onnxruntime": "1.0", "address": self._address}

    def rows(self, group: Group, spec: MeasureSpec) -> dict[str, Measurement]:
        self.groups.append(list(group))
        return {name: self._measured(name) for name in group}

    def measure(self, built: BuiltBundles, spec: MeasureSpec, reporter: Reporter | None = None) -> list[Measurement]:
        """Measure bundles on this host, or resume their measurements."""
        return measure(lambda: nullcontext(self), self.row_facts, built, spec, reporter or Reporter(quiet=True))

    def _measured(self, name: str) -> Measurement:
        if self._failure:
            return replace(failed(), failure=self._failure)
        thermal = conditions(series=(sample(48.25), sample(None)), throttled=("throttled",))
        target, _, precision = name.rpartition("-")
        return measurement("int8" if precision == "int8" else "float", target, thermal=thermal)
