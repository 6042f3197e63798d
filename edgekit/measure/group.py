"""Measures accuracy, latency, memory and INT8 kernels of a group of bundles, which are timed in turns.

All measurements use the same sessions as apps do. A bundle that fails loses only its own measurement.
"""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import TypeVar

from edgekit.errors import EdgekitError
from edgekit.measure.baselines import Group
from edgekit.measure.evaluation_images import EvaluationImages
from edgekit.measure.group_times import GroupTimes, time_group
from edgekit.measure.measurement import failed_measurement, measurement_of
from edgekit.measure.opened_bundle import CheckedBundle, OpenedBundle, open_bundle
from edgekit.measure.settings import Timing
from edgekit.report.device import DeviceFacts
from edgekit.report.measurement import Failure, Measurement, Stage
from edgekit.support.progress import Reporter, each_bundle

B = TypeVar("B", bound=CheckedBundle)


def measure_group(
    group: Group, timing: Timing, device: DeviceFacts, reporter: Reporter, images: EvaluationImages | None = None
) -> dict[str, Measurement]:
    """Measure each bundle, with timing in turns in this process. An error of a bundle, or a bug, costs its row.

    Float bundles also run in bf16 or f16 where their runtime would choose that: the baseline of an INT8 speed-up is the
    fastest float. With images, the bundles are also evaluated. Without images, they are timed on a golden sample.
    """
    with ExitStack() as stack:

        def opening(name: str) -> OpenedBundle:
            return open_bundle(name, group, timing, images, stack, reporter)

        def times_of(opened: Mapping[str, OpenedBundle]) -> GroupTimes:
            return time_group(opened, timing, images, reporter)

        return measure_with(opening, times_of, group, device, reporter, images)


def measure_with(
    opening: Callable[[str], B],
    times_of: Callable[[Mapping[str, B]], GroupTimes],
    group: Group,
    device: DeviceFacts,
    reporter: Reporter,
    images: EvaluationImages | None,
) -> dict[str, Measurement]:
    """Measure each bundle wherever `opening` opens and checks it by its name, and `times_of` times those that work.

    An error of a bundle, or a bug, costs its row. An error of the device is raised.
    """
    try:
        measured, failures = _measured(opening, times_of, group, device, reporter, images)
    except Exception as error:  # a bug in what the bundles share
        if isinstance(error, EdgekitError):
            raise
        reporter.failed(f"measuring {', '.join(group)}", error)
        measured, failures = {}, dict.fromkeys(group, Failure.of("benchmark", error))
    return {
        name: failed_measurement(name, bundle, failures[name], device, images) if name in failures else measured[name]
        for name, bundle in group.items()
    }


def _measured(
    opening: Callable[[str], B],
    times_of: Callable[[Mapping[str, B]], GroupTimes],
    group: Group,
    device: DeviceFacts,
    reporter: Reporter,
    images: EvaluationImages | None,
) -> tuple[dict[str, Measurement], dict[str, Failure]]:
    """Measurements of the bundles that work, and why the others don't."""
    stage: Stage = "benchmark" if images is None else "evaluate"
    opened, unopened = each_bundle(group, opening, reporter)
    times = times_of(opened)
    timed = [name for name in opened if name not in times.failures]

    def measurement(name: str) -> Measurement:
        return measurement_of(name, group, opened[name], times, device, images)

    measured, unmeasured = each_bundle(timed, measurement, reporter)
    failures = {name: Failure.of(stage, error) for name, error in unopened.items()}
    failures |= {name: Failure.of("benchmark", error) for name, error in {**times.failures, **unmeasured}.items()}
    return measured, failures
