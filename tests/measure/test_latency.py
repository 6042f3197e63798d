"""Timing in turns, the ratio of two times, and a bundle in a fresh process."""

import gc
import json
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from functools import partial
from itertools import cycle
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest

from edgekit.errors import EngineError, OutputError
from edgekit.measure import latency
from edgekit.measure.fresh_process import Fresh, main, measure_fresh, peak_rss_bytes
from edgekit.measure.latency import (
    FEWEST_FOR_INTERVAL,
    TURNS,
    CallFailed,
    Times,
    Turns,
    alternate,
    are_precise,
    ratio,
    speedup,
)
from edgekit.report.figure import Interval
from tests.helpers.refusals import refuses
from tests.helpers.tiny import MakeBundle


def named_calls(order: list[str], *names: str) -> dict[str, Callable[[], object]]:
    """Calls that note their names."""
    return {name: partial(order.append, name) for name in names}


def with_ends(slow: Times, fast: Times, seed: int = 0) -> tuple[float, Interval]:
    """The ratio of enough rounds, with its interval."""
    point, interval = ratio(slow, fast, seed)
    assert interval is not None
    return point, interval


@pytest.mark.usefixtures("all_lead_runs")
def test_a_turn_begins_with_runs_that_are_not_timed() -> None:
    order: list[str] = []
    turns_ended: list[tuple[int, str, int]] = []
    calls = named_calls(order, "float", "int8")
    times = alternate(
        calls, 2, TURNS.turn + 1, on_turn=lambda name, rounds: turns_ended.append((len(order), name, rounds))
    )
    turns = [1, 1, 1, 1, *[TURNS.lead_runs + TURNS.turn] * 2, *[TURNS.lead_runs + 1] * 2]
    assert order == [name for name, runs in zip(cycle(calls), turns, strict=False) for _ in range(runs)]
    ended = list(zip(np.cumsum(turns).tolist(), cycle(calls), [1] * 4 + [TURNS.turn] * 2 + [1] * 2, strict=False))
    assert turns_ended == ended, "after each turn of each call, so that untimed runs follow"
    assert {name: values.shape for name, values in times.items()} == {
        "float": (TURNS.turn + 1,),
        "int8": (TURNS.turn + 1,),
    }
    assert all((values >= 0).all() for values in times.values())


def test_a_slow_call_has_one_run_that_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latency, "TURNS", Turns(lead_ms=0.0))
    order: list[str] = []
    alternate(named_calls(order, "float", "int8"), warmup=0, iterations=1)
    assert order == ["float", "float", "int8", "int8"]


def test_every_call_has_a_turn_however_short_the_time_is() -> None:
    times = alternate(named_calls([], "float", "int8"), warmup=0, iterations=1, seconds=0)
    assert [len(values) for values in times.values()] == [TURNS.turn, TURNS.turn]


def test_garbage_collection_is_off_while_timing_and_on_again_after_an_error() -> None:
    enabled: list[bool] = []

    def call() -> None:
        enabled.append(gc.isenabled())
        raise EngineError("broken")

    assert gc.isenabled()
    with pytest.raises(CallFailed):
        alternate({"a": call}, 0, 1)
    assert enabled == [False]
    assert gc.isenabled()


@pytest.mark.parametrize("good_calls", [0, 2, 2 + TURNS.lead_runs])
def test_a_call_that_fails_is_named(good_calls: int) -> None:
    """It fails in warm-up, at the start of its turn, or when it is timed."""
    done: list[str] = []
    error = EngineError("broken")

    def second() -> None:
        if done.count("second") == good_calls:
            raise error
        done.append("second")

    with pytest.raises(CallFailed) as caught:
        alternate({"first": lambda: done.append("first"), "second": second, "third": lambda: None}, 2, 5)
    assert (caught.value.key, caught.value.error) == ("second", error)


def test_a_programming_error_is_blamed_on_a_call_only_if_it_comes_from_one() -> None:
    def mistaken() -> None:
        raise ZeroDivisionError

    with pytest.raises(CallFailed) as caught:
        alternate({"a": lambda: None, "b": mistaken}, 0, 1)
    assert caught.value.key == "b"
    assert isinstance(caught.value.error, ZeroDivisionError)
    with pytest.raises(ZeroDivisionError):
        alternate({"a": lambda: None}, 0, 1, on_turn=lambda *_: mistaken())


def test_an_error_that_concerns_the_whole_command_passes_through() -> None:
    def call() -> None:
        raise OutputError("no space")

    with pytest.raises(OutputError):
        alternate({"a": call}, 0, 1)


def test_the_ratio_of_medians_lies_in_its_interval() -> None:
    random = np.random.default_rng(1)
    slow, fast = random.normal(4, 0.2, 200), random.normal(2, 0.2, 200)
    point, (low, high) = with_ends(slow, fast)
    assert point == pytest.approx(np.median(slow) / np.median(fast))
    assert low < point < high
    assert 1.9 < low < high < 2.1
    assert ratio(slow, fast) == (point, (low, high)), "the same times must give the same interval"


@pytest.mark.parametrize(
    ("fast", "noise", "expected"),
    [
        (5.0, 0.01, True),
        (5.0, 0.2, False),  # the interval is wide
        (8.0, 0.01, True),  # equally fast, which is as precise
    ],
)
def test_when_the_ratios_are_precise(fast: float, noise: float, expected: bool) -> None:
    random = np.random.default_rng(1)
    times = {name: p50 * random.normal(1, noise, 100) for name, p50 in (("a", 20.0), ("b", 8.0), ("c", fast))}
    assert are_precise(times, within=0.03) is expected


def test_neither_a_single_call_nor_a_few_rounds_are_precise() -> None:
    assert not are_precise({"int8": np.ones(100)}, within=0.03)
    assert not are_precise({"float": np.ones(FEWEST_FOR_INTERVAL - 1), "int8": np.ones(FEWEST_FOR_INTERVAL - 1)}, 0.03)


def test_speedup_is_the_ratio_and_names_its_baseline() -> None:
    slow, fast = np.full(40, 6.0), np.full(40, 2.0)
    over_bf16 = speedup("onnx-float", slow, fast, "bf16")
    assert (over_bf16.ratio, over_bf16.ci95) == (3.0, (3.0, 3.0))
    assert (over_bf16.versus, over_bf16.versus_precision, over_bf16.baseline) == (
        "onnx-float",
        "bf16",
        "onnx-float in bf16",
    )
    assert speedup("a", slow, fast).baseline == "a"


def test_the_interval_is_wider_where_neighbouring_rounds_are_correlated() -> None:
    """On a machine that is slow for a while, rounds are not independent, and the interval must be wider."""
    random = np.random.default_rng(2)
    bursts = np.repeat(random.normal(0, 0.5, 40), 10)
    noise = random.normal(0, 0.05, (2, 400))
    together = np.diff(with_ends(4 + bursts + noise[0], np.full(400, 2.0))[1])
    shuffled = np.diff(with_ends(4 + random.permutation(bursts) + noise[0], np.full(400, 2.0))[1])
    assert together > 1.5 * shuffled


@pytest.mark.parametrize("rounds", [30, 200])
def test_the_interval_covers_the_true_ratio(rounds: int) -> None:
    """The machine drifts, and a round occasionally takes half as long again."""
    random = np.random.default_rng(0)
    covered = []
    for seed in range(120):
        drift = np.repeat(random.normal(0, 0.03, rounds), 10)[:rounds]
        times = np.exp(drift + random.normal(0, 0.02, (2, rounds)))
        times *= np.where(random.random((2, rounds)) < 0.05, 1 + random.exponential(0.5, (2, rounds)), 1)
        _, (low, high) = with_ends(3 * times[0], 2 * times[1], seed)
        covered.append(low <= 1.5 <= high)
    assert np.mean(covered) >= 0.96  # intervals a fifth narrower would cover fewer


def test_the_ratio_of_shared_drift_is_one() -> None:
    drift = np.linspace(2, 6, 200)
    point, (low, high) = with_ends(drift, drift)
    assert (point, low, high) == (1, 1, 1)


@pytest.mark.parametrize("rounds", [1, 2, FEWEST_FOR_INTERVAL - 1])
def test_few_rounds_have_no_interval(rounds: int) -> None:
    assert ratio(np.full(rounds, 4.0), np.full(rounds, 2.0)) == (2.0, None)
    assert ratio(np.full(FEWEST_FOR_INTERVAL, 4.0), np.full(FEWEST_FOR_INTERVAL, 2.0)) == (2.0, (2.0, 2.0))


def test_the_interval_is_that_of_the_resampled_blocks() -> None:
    random = np.random.default_rng(3)
    slow, fast = random.normal(4, 0.2, 57), random.normal(2, 0.2, 57)
    _, interval = ratio(slow, fast, seed=4)
    blocks = [np.stack([block[:5] for block in np.array_split(times, 10)]) for times in (slow, fast)]
    chosen = np.random.default_rng(4).integers(0, 10, (2000, 10))
    a, b = (np.median(rows[chosen].reshape(2000, -1), axis=1) for rows in blocks)
    student_t = 2.262  # 95 %, nine degrees of freedom
    tail = 100 * NormalDist().cdf(-student_t * (10 / 9) ** 0.5)
    assert interval == pytest.approx(np.percentile(a / b, (tail, 100 - tail)), rel=1e-3)


@pytest.mark.parametrize("rounds", [2000, 2001])
def test_the_medians_of_a_long_run_come_from_quantiles(rounds: int) -> None:
    slow, fast = np.random.default_rng(3).normal(4, 0.2, (2, rounds))
    exact = with_ends(slow, fast)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(latency, "VALUES", rounds)
        assert with_ends(slow, fast)[1] == pytest.approx(exact[1], abs=2e-4)


def test_the_interval_of_a_long_run_takes_little_memory() -> None:
    """A run of ten minutes has hundreds of thousands of rounds, and a device has little memory."""
    slow, fast = np.random.default_rng(5).normal(4, 0.2, (2, 20_000))
    tracemalloc.start()
    _, (low, high) = with_ends(slow, fast)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert low < 1 < high
    assert peak < 200 * slow.nbytes, "2000 resamples of all times must not be held at once"


def test_fresh_process_of_a_bundle(make_bundle: MakeBundle) -> None:
    ballast = np.ones(1 << 30, np.uint8)  # must not count for the fresh process, although ru_maxrss survives exec
    fresh = measure_fresh(make_bundle("onnx"), threads=1)
    assert peak_rss_bytes() > ballast.nbytes
    assert fresh.peak_rss_bytes is not None
    assert fresh.peak_rss_bytes < ballast.nbytes / 2
    assert fresh.load_ms > 0
    assert fresh.first_ms > 0


def test_files_of_the_current_folder_do_not_replace_packages(
    make_bundle: MakeBundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = make_bundle("onnx").resolve()
    (tmp_path / "numpy.py").write_text("raise SystemExit('the wrong numpy')")
    monkeypatch.chdir(tmp_path)
    assert measure_fresh(bundle, threads=1).load_ms > 0


def test_a_broken_bundle_gives_the_cause(make_bundle: MakeBundle) -> None:
    path = make_bundle("onnx")
    (path / "model.onnx").write_bytes(b"no model")
    with refuses(EngineError, "'bundle'", "model.onnx"):
        measure_fresh(path, threads=1)


def test_a_missing_bundle(tmp_path: Path) -> None:
    with refuses(EngineError, "gone"):
        measure_fresh(tmp_path / "gone", threads=1)


def test_a_process_that_does_not_end(make_bundle: MakeBundle) -> None:
    with refuses(EngineError, "0 s"):
        measure_fresh(make_bundle("onnx"), threads=1, timeout=0.01)


def test_a_process_that_dies_silently(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def dead(*_: Any, **__: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess([], -9, "", "")

    monkeypatch.setattr(subprocess, "run", dead)
    with refuses(EngineError, "SIGKILL"):
        measure_fresh(tmp_path, threads=1)


def test_module_prints_json(make_bundle: MakeBundle, capsys: pytest.CaptureFixture[str]) -> None:
    main([str(make_bundle("onnx")), "1"])
    Fresh(**json.loads(capsys.readouterr().out))


def test_it_imports_nothing_heavy() -> None:
    """It runs on devices, which have no torch."""
    code = "import sys, edgekit.measure.latency; assert not {'torch', 'nncf', 'typer', 'rich'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
