"""Evaluation by several processes: the same answers, whoever dies; what is done is kept."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from edgekit.cli.main import main
from edgekit.errors import EngineError, UsageError
from edgekit.measure import evaluate_bundles as bundles
from edgekit.measure import shards
from edgekit.measure.cluster import DaskExecutor, executor_of
from tests.helpers.waiting import wait_until


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "SHARD", 7)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    with executor_of(2, None) as executor:
        yield executor


@pytest.fixture
def command(finished_run: Path, photos: Path) -> list[str]:
    paths = [str(finished_run / name) for name in ("onnx-float", "onnx-int8", "tflite-int8")]
    return ["evaluate", *paths, "--data", str(photos), "--threads", "1", "--json"]


def evaluated(command: list[str], capfd: Any, code: int = 0) -> Any:
    assert main(command) == code
    return json.loads(capfd.readouterr().out)


def count(piece: int) -> int:
    return piece * piece


def die(piece: Path) -> int:
    """Kill the process, the first time."""
    if not piece.exists():
        piece.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return 7


def die_always(piece: int) -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return piece


def refuse(piece: int) -> int:
    raise EngineError(f"no {piece}")


def workers_of(cluster: DaskExecutor) -> set[int]:
    """Process ids."""
    return set(cluster._client.run(os.getpid).values())


def test_every_piece_comes_back(cluster: DaskExecutor) -> None:
    assert dict(cluster.map(count, range(100))) == {index: index * index for index in range(100)}
    assert dict(cluster.map(count, [])) == {}
    (only,) = cluster.map(refuse, [3])
    assert str(only[1]) == "no 3"
    assert isinstance(only[1], EngineError)


def test_a_worker_that_dies_costs_its_piece_alone(cluster: DaskExecutor, tmp_path: Path) -> None:
    before = workers_of(cluster)
    assert dict(cluster.map(die, [tmp_path / "died"])) == {0: 7}
    assert before - workers_of(cluster), "one of them is another now"


def test_a_piece_that_kills_every_worker_is_an_error(cluster: DaskExecutor) -> None:
    (only,) = cluster.map(die_always, [1])
    assert isinstance(only[1], EngineError)
    assert "workers died of a shard" in str(only[1])


def test_two_workers_give_what_one_process_gives(command: list[str], capfd: Any) -> None:
    alone = evaluated(command, capfd)
    assert alone["evaluation"]["count"] == 40
    assert evaluated([*command, "--workers", "2"], capfd) == alone


def test_a_worker_killed_midway_changes_nothing(
    command: list[str], cluster: DaskExecutor, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    """Through a scheduler's address, as where it runs on another machine; this one has a certificate of its own."""
    alone = evaluated(command, capfd)
    killed: list[int] = []
    real = cluster.map

    def murderous(work: Callable[[Any], Any], pieces: Sequence[Any]) -> Iterator[tuple[int, Any]]:
        for found in real(work, pieces):
            if not killed:
                killed.append(min(workers_of(cluster)))
                os.kill(killed[0], signal.SIGKILL)
            yield found

    from contextlib import nullcontext

    monkeypatch.setattr(cluster, "map", murderous)
    monkeypatch.setattr(bundles, "executor_of", lambda workers, scheduler: nullcontext(cluster))
    assert evaluated(command, capfd) == alone
    assert killed


def test_a_schedulers_address(command: list[str], tmp_path: Path, capfd: Any) -> None:
    """Scheduler and worker as commands of their own, as a user starts them on other machines."""
    file = tmp_path / "scheduler.json"
    alone = evaluated(command, capfd)
    with ExitStack() as stack:
        for name, *more in (
            ("dask_scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", str(file)),
            ("dask_worker", "--scheduler-file", str(file), "--nthreads", "1", "--no-dashboard", "--host", "127.0.0.1"),
        ):
            started = [sys.executable, "-W", "ignore", "-m", f"distributed.cli.{name}", *more]
            process = subprocess.Popen(started, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=tmp_path)
            stack.callback(process.wait)
            stack.callback(process.terminate)
        wait_until(file.exists, "the scheduler wrote its address")
        address = json.loads(file.read_text())["address"]
        assert evaluated([*command, "--scheduler", address], capfd) == alone


def test_what_is_done_is_kept(command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any) -> None:
    alone = evaluated(command, capfd)
    kept = [*command, "-o", str(tmp_path / "run")]
    done: list[int] = []
    real, kills = shards.answer, iter([signal.SIGINT])

    def interrupted(shard: Any) -> Any:
        if len(done) == 8 and (kill := next(kills, None)):
            os.kill(os.getpid(), kill)
        done.append(len(shard.hashes))
        return real(shard)

    monkeypatch.setattr(shards, "answer", interrupted)
    assert main(kept) == 130
    capfd.readouterr()
    assert len(done) == 8
    assert evaluated(kept, capfd) == alone
    assert len(done) == 18, "six shards of three bundles, each once"
    assert json.loads((tmp_path / "run" / "evaluation.json").read_text()) == alone
    evaluated([*kept, "--num-eval-samples", "7"], capfd)
    assert len(done) == 18, "the first shard of each is the same"
    evaluated([*kept, "--num-eval-samples", "8"], capfd)
    assert len(done) == 21


def test_unreadable_images_are_passed_over_alike(command: list[str], photos: Path, tmp_path: Path, capfd: Any) -> None:
    import shutil

    data = tmp_path / "data"
    shutil.copytree(photos, data)
    (data / "class_3" / "0.png").write_bytes(b"broken")
    changed = [str(data) if each == str(photos) else each for each in command]
    alone = evaluated(changed, capfd)
    assert alone["evaluation"]["count"] == 39
    assert evaluated([*changed, "--workers", "2"], capfd) == alone


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--scheduler", "tcp://127.0.0.1:1"], "no Dask scheduler answers at 'tcp://127.0.0.1:1'"),
        (["--scheduler", "nonsense://x"], "no Dask scheduler answers"),
        (["--scheduler", "tcp://127.0.0.1:1", "--workers", "2"], "give one of them"),
        (["--workers", "0"], "--workers"),
    ],
)
def test_bad_input(command: list[str], more: list[str], said: str, monkeypatch: pytest.MonkeyPatch, capfd: Any) -> None:
    from edgekit.measure import cluster

    monkeypatch.setattr(cluster, "CONNECT_S", 1)
    assert main([*command, *more]) == 2
    err = capfd.readouterr().err
    assert said in err
    assert "Traceback" not in err


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(UsageError), executor_of(2, "tcp://x"):
        pass
    from edgekit.errors import MissingExtraError

    with pytest.raises(MissingExtraError, match=r"edgekit-deploy\[scale\]"), executor_of(2, None):
        pass
