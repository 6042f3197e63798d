"""Several streams side by side: their times, their threads, and streams that fail."""

import threading

import numpy as np
import pytest

from edgekit.errors import EngineError
from edgekit.measure import latency
from edgekit.measure.latency import measure_throughput, run_side_by_side
from edgekit.measure.settings import Timing
from edgekit.runtime.bundle import read_bundle
from tests.helpers.tiny import SIDE, MakeBundle

IMAGE = np.zeros((1, 3, SIDE, SIDE), np.float32)


def test_streams_run_at_the_same_time() -> None:
    together = threading.Barrier(3, timeout=60)
    times = run_side_by_side([together.wait] * 3, 2, 1)
    assert [len(stream) for stream in times] == [1, 1, 1]


def test_the_first_stream_with_enough_times_ends_the_others() -> None:
    done = threading.Event()
    count = [0]

    def fast() -> None:
        count[0] += 1
        if count[0] == 5:
            done.set()

    slow, quick = run_side_by_side([done.wait, fast], 0, 5)
    assert (len(slow), len(quick)) == (1, 5)
    assert (slow >= 0).all()


@pytest.mark.parametrize("warmup", [0, 1], ids=["timed", "warm-up"])
def test_a_stream_that_fails_ends_the_others(warmup: int) -> None:
    error = EngineError("the runtime failed")

    def fail() -> None:
        raise error

    with pytest.raises(EngineError) as caught:
        run_side_by_side([lambda: None, fail, lambda: None], warmup, 10**9)
    assert caught.value is error


@pytest.mark.parametrize("target", ["openvino", "onnx", "tflite"])
def test_sessions_of_every_runtime(target: str, make_bundle: MakeBundle) -> None:
    timing = Timing(threads=1, warmup=1, iterations=4, streams=3)
    measured = measure_throughput(read_bundle(make_bundle(target)), IMAGE, timing)
    assert (measured.streams, measured.threads) == (3, 1)
    assert 4 <= measured.count <= 12
    assert measured.images_per_second > 0
    assert 0 < measured.p50_ms <= measured.p99_ms


@pytest.mark.parametrize(
    ("threads", "streams", "each"), [(None, 1, 4), (None, 2, 2), (None, 3, 1), (None, 8, 1), (2, 8, 2)]
)
def test_streams_share_the_cores(
    threads: int | None, streams: int, each: int, make_bundle: MakeBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(latency, "check_threads", lambda threads: threads or 4)
    timing = Timing(threads=threads, warmup=0, iterations=1, streams=streams)
    assert measure_throughput(read_bundle(make_bundle("onnx")), IMAGE, timing).threads == each


def test_the_figures_of_the_times(make_bundle: MakeBundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latency, "run_side_by_side", lambda *_: [np.array([4.0, 6.0]), np.array([10.0])])
    timing = Timing(threads=1, warmup=0, iterations=2, streams=2)
    measured = measure_throughput(read_bundle(make_bundle("onnx")), IMAGE, timing)
    assert measured.images_per_second == pytest.approx(1000 / 5 + 1000 / 10)
    assert (measured.p50_ms, measured.count) == (6.0, 3)
    assert measured.p99_ms == pytest.approx(9.92)
