"""A bundle is timed with the number of threads that is fastest, and fewer win a tie."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from edgekit.measure import bundles, latency
from edgekit.measure.accuracy import EvaluationImages
from edgekit.measure.latency import Times, fastest_threads, fewest_of_the_fastest, is_certain, promising
from edgekit.measure.settings import Timing
from edgekit.report.figure import Conditions
from edgekit.report.row import Measurement, ThreadTime
from edgekit.runtime.bundle import Bundle, read_bundle, with_manifest
from edgekit.support.progress import Reporter
from tests.helpers.measurements import conditions, measured_here
from tests.helpers.tiny import MakeBundle

TRIED = (ThreadTime(1, 1.25), ThreadTime(2, 1.0))
QUIETLY = Reporter(quiet=True)


@pytest.mark.parametrize(
    ("p50", "cores", "looked_at"),
    [
        ({4: 1.4, 2: 1.1, 1: 1.0}, 4, [4, 2, 1]),
        ({4: 10.0, 2: 19.0}, 4, [4, 2]),
        ({6: 1.0, 4: 1.1, 2: 1.2, 1: 1.9}, 6, [6, 4, 2, 1]),
        ({64: 9.0, 32: 5.0, 16: 2.0, 8: 1.8, 4: 3.0}, 64, [64, 32, 16, 8, 4]),
        ({1: 1.0}, 1, [1]),
    ],
)
def test_fewer_threads_are_tried_until_they_are_clearly_slower(
    p50: Mapping[int, float], cores: int, looked_at: list[int]
) -> None:
    assert list(promising(cores, p50.__getitem__)) == looked_at


def times(p50: Mapping[int, float], rounds: int = 60) -> dict[int, Times]:
    random = np.random.default_rng(0)
    return {threads: each * random.lognormal(0, 0.02, rounds) for threads, each in p50.items()}


@pytest.mark.parametrize(
    ("p50", "chosen"),
    [
        ({1: 1.0, 2: 1.2}, 1),
        ({1: 1.0, 2: 1.0}, 1),
        ({1: 1.03, 2: 1.0}, 1),
        ({1: 1.2, 2: 1.0}, 2),
        ({2: 1.2, 4: 1.19, 8: 1.0}, 8),
        ({2: 1.2, 4: 1.0, 8: 0.99}, 4),
    ],
)
def test_more_threads_must_be_clearly_faster(p50: dict[int, float], chosen: int) -> None:
    assert fewest_of_the_fastest(times(p50)) == chosen
    assert fewest_of_the_fastest(times(p50, 5)) == min(times(p50)), "five rounds tell nothing apart"


@pytest.mark.parametrize(
    ("chosen", "changes", "certain"),
    [
        (1, {}, True),
        (1, {"other_cpus": 2.0}, True),  # two threads had their cores, and were no faster
        (2, {"other_cpus": 2.0}, False),
        (1, {"other_cpus": 2.9}, False),
        (4, {"other_cpus": 2.9}, True),
        (1, {"throttled": ("frequency capped",)}, False),
    ],
)
def test_a_busy_machine_favours_no_small_number(chosen: int, changes: dict[str, Any], certain: bool) -> None:
    assert is_certain(chosen, (1, 2, 4), conditions(**changes)) == certain


@pytest.fixture
def state(monkeypatch: pytest.MonkeyPatch) -> list[Conditions]:
    """The conditions that the next comparison meets."""
    met = [conditions()]

    class Sampler:
        def __call__(self) -> None: ...

        def finish(self) -> Conditions:
            return met[0]

    monkeypatch.setattr(latency, "TelemetrySampler", Sampler)
    return met


@pytest.mark.parametrize("target", ["onnx", "openvino", "tflite"])
def test_a_bundle_is_compared_with_itself(target: str, make_bundle: MakeBundle, state: list[Conditions]) -> None:
    bundle = read_bundle(make_bundle(target))
    threads, tried = fastest_threads(bundle, 2, QUIETLY)
    assert [each.threads for each in tried] == [1, 2]
    assert all(each.p50 > 0 for each in tried)
    assert threads in (1, 2)
    state[0] = conditions(other_cpus=3.9)
    assert fastest_threads(bundle, 2, QUIETLY)[0] == 2, "a busy machine tells nothing"
    assert fastest_threads(bundle, 1, QUIETLY) == (1, ())


def measured(bundle: Bundle, images: EvaluationImages | None, threads: int | None = None, **facts: Any) -> Measurement:
    timing = Timing(threads=threads, warmup=1, iterations=4)
    (result,) = measured_here({"onnx-float": bundle}, timing, images, **facts).values()
    return result


@pytest.mark.usefixtures("no_processes")
def test_rows_of_a_report_have_the_fastest_number_unless_it_is_stated(
    make_bundle: MakeBundle, tiny_images: EvaluationImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bundles, "fastest_threads", lambda *_: (2, TRIED))
    bundle = with_manifest(read_bundle(make_bundle("onnx")), threads=1)
    for images, stated, facts, threads, by_threads in (
        (tiny_images, None, {}, 2, TRIED),
        (tiny_images, 1, {}, 1, ()),
        (tiny_images, None, {"emulated": True}, 1, ()),
        (None, None, {}, 1, ()),
        (None, 2, {}, 2, ()),
    ):
        latency = measured(bundle, images, stated, **facts).latency_ms
        assert latency is not None
        assert (latency.threads, latency.by_threads) == (threads, by_threads)
