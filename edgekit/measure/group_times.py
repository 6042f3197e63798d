"""Times of a group of bundles, which take turns, and their energy and throughput."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import cycle

import numpy as np
from numpy.typing import NDArray

from edgekit.images.decoding import open_image
from edgekit.measure.accuracy import EvaluationImages
from edgekit.measure.baselines import F32, Call, label_of
from edgekit.measure.energy import EnergyMeter
from edgekit.measure.latency import Times
from edgekit.measure.opened_bundle import OpenedBundle, computes_in
from edgekit.measure.settings import Timing
from edgekit.measure.throughput import measure_streams
from edgekit.measure.timing import Timed, time_end_to_end, time_in_turns
from edgekit.report.times import Energy, Throughput
from edgekit.runtime.session import Session
from edgekit.support.progress import Reporter, each_bundle


@dataclass(frozen=True)
class GroupTimes:
    """Times of a group of bundles."""

    timed: Timed[Call]
    """Times of the models alone, for the bundles that didn't fail."""
    end_to_end: Mapping[str, Times]
    """Times that include decoding and preprocessing, by the name of the bundle."""
    energy: Mapping[str, Energy]
    """Energy of an inference, by the name of the bundle."""
    throughput: Mapping[str, Throughput]
    """Throughput of several streams, by the name of the bundle; empty unless the timing asks for it."""
    failures: Mapping[str, Exception]
    """Errors of the other bundles, by name."""


def time_group(
    opened: Mapping[str, OpenedBundle], timing: Timing, images: EvaluationImages | None, reporter: Reporter
) -> GroupTimes:
    """Time the open bundles. One that fails in f32 or end to end has no times, so that it can't be a baseline."""
    if not opened:
        return GroupTimes(Timed(), {}, {}, {}, {})
    threads = max(entry.session.threads for entry in opened.values())
    title = f"{', '.join(opened)}: time"
    inputs = {name: entry.example(images) for name, entry in opened.items()}
    meter = EnergyMeter(reporter)
    timed = time_in_turns(dict(_calls(opened, inputs)), threads, timing, title, reporter)
    for call, error in timed.failures.items():
        reporter.failed(label_of(call), error)
    failures = {name: error for (name, computed_in), error in timed.failures.items() if computed_in == F32}
    end_to_end: dict[str, Times] = {}
    if images is not None:
        calls = {name: _end_to_end(o.session, images.files) for name, o in opened.items() if name not in failures}
        end_to_end, errors = time_end_to_end(calls, timing)
        for name, error in errors.items():
            reporter.failed(f"{name} end to end", error)
        failures |= errors
    left = [name for name in opened if name not in failures]
    energy, errors = each_bundle(
        left, lambda name: meter.measure(_call(opened[name].session, inputs[name])), reporter, "under load"
    )
    failures |= errors
    streams = {name: (opened[name].bundle, inputs[name]) for name in energy}
    throughput, errors = measure_streams(streams, timing, reporter)
    failures |= errors
    valid = {call: times for call, times in timed.times.items() if call[0] not in failures}
    return GroupTimes(replace(timed, times=valid), end_to_end, energy, throughput, failures)


def _calls(
    opened: Mapping[str, OpenedBundle], inputs: Mapping[str, NDArray[np.float32]]
) -> Iterator[tuple[Call, Callable[[], object]]]:
    """Calls to time: each model alone, first all in f32, then bf16 or f16."""
    for name, entry in opened.items():
        yield (name, F32), _call(entry.session, inputs[name])
    for name, entry in opened.items():
        if entry.low is not None:
            yield (name, computes_in(entry.low.session)), _call(entry.low.session, inputs[name])


def _call(session: Session, image: NDArray[np.float32]) -> Callable[[], object]:
    return lambda: session(image)


def _end_to_end(session: Session, files: Sequence[bytes]) -> Callable[[], object]:
    """Build a call that decodes, preprocesses and runs the next file, in an endless cycle."""
    turn = cycle(files)
    return lambda: session(session.preprocess(open_image(next(turn))))
