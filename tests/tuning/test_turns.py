"""Workers compute side by side, and each one times alone."""

import select
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edgekit.devices.registry import THIS, Device
from edgekit.measure.settings import Gates
from edgekit.models.options import ModelOptions
from edgekit.pipeline.options import Options
from edgekit.tuning import worker
from edgekit.tuning.space import Choices
from edgekit.tuning.turns import Turns

OTHER = """
import sys
from pathlib import Path
from edgekit.tuning.turns import Turns
print("asks", flush=True)
with getattr(Turns(Path(sys.argv[1])), sys.argv[2])():
    print("has its turn", flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize(("mine", "others"), [("timing", "computing"), ("computing", "timing"), ("timing", "timing")])
def test_timing_excludes_all_other_work(mine: str, others: str, tmp_path: Path) -> None:
    command = [sys.executable, "-c", OTHER, str(tmp_path / "tune.db"), others]
    with getattr(Turns(tmp_path / "tune.db"), mine)():
        other = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
        assert other.stdout
        assert other.stdout.readline() == b"asks\n"
        assert select.select([other.stdout], [], [], 1)[0] == [], "it has to wait"
    assert other.stdout.readline() == b"has its turn\n"
    other.communicate(timeout=20)


def test_two_workers_compute_at_once(tmp_path: Path) -> None:
    command = [sys.executable, "-c", OTHER, str(tmp_path / "tune.db"), "computing"]
    with (
        Turns(tmp_path / "tune.db").computing(),
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other,
    ):
        assert other.stdout
        assert [other.stdout.readline() for _ in range(2)] == ["asks\n", "has its turn\n"]
        other.kill()


def test_a_trial_is_built_and_measured_in_different_turns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Measuring must not begin before another worker has calibrated, nor the other way round."""
    turns, seen = Turns(tmp_path / "tune.db"), []
    held = turns._held

    def noted(alone: bool) -> Any:
        seen.append("timing" if alone else "computing")
        return held(alone)

    def measure_group(*_: object) -> dict[str, str]:
        seen.append("measured")
        return {"onnx-int8": "its measurement"}

    def note(name: str, result: object) -> Any:
        def call(*_: object) -> object:
            seen.append(name)
            return result

        return call

    monkeypatch.setattr(turns, "_held", noted)
    monkeypatch.setattr(worker, "build_one", note("float built", "float"))
    monkeypatch.setattr(worker, "compile_stage", note("compiled", ("int8", 0)))
    monkeypatch.setattr(worker, "with_choices", note("recipe", None))
    monkeypatch.setattr(worker, "measure_group", measure_group)
    monkeypatch.setattr(worker, "figures", lambda *arguments: arguments)
    graphs: Any = SimpleNamespace(job=SimpleNamespace(recipe=None), graph_to_compile=note("calibrated", None))
    graphs.with_recipe = lambda _: graphs
    bench = worker.Bench(graphs, "onnx", Options(ModelOptions("x"), tmp_path), tmp_path, None, turns)  # type: ignore[arg-type]
    bench.measure(Choices("mse", False, "none", 0))
    assert seen == ["recipe", "computing", "float built", "calibrated", "compiled", "timing", "measured"]


def test_speed_is_judged_only_where_the_trials_run(tmp_path: Path) -> None:
    """With another device, this machine times the trials, and only the result is timed on the device."""
    gates = Gates(min_speedup=1.5)
    board = Device("pi5", "ssh://pi5", "raspberry-pi-5")
    for devices, least in (((THIS,), 1.5), ((board, THIS), 0), ((THIS, board), 1.5)):
        options = Options(ModelOptions("x"), tmp_path, gates=gates, devices=devices)
        assert worker.trial_gates(options).min_speedup == least
