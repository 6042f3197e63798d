"""Executors: workers may die without changing the result of an evaluation, and completed work is stored."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import Executor
from contextlib import ExitStack, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import distributed
import pytest

from edgekit.cli.main import main
from edgekit.errors import EngineError, MissingExtraError, UsageError
from edgekit.measure import accuracy, evaluation, executors
from edgekit.measure.executors import DaskWorkers, Processes, ThisProcess, executor_of
from edgekit.support.libraries import install_command, quiet
from tests.helpers.refusals import refuses
from tests.helpers.tiny import MakeBundle
from tests.helpers.waiting import wait_until

RANDOM = {"model": {"weights": "random"}}
"""What a bundle says of its network, whose accuracy is not judged then."""


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accuracy, "SHARD", 7)


@pytest.fixture(scope="module")
def workers() -> Iterator[Executor]:
    with executor_of(2, None) as executor:
        yield executor


@pytest.fixture(scope="module")
def dask() -> Iterator[Executor]:
    """Workers of Dask that are threads of this process."""
    with (
        quiet(),
        distributed.LocalCluster(n_workers=2, processes=False, dashboard_address=None) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield DaskWorkers(client)


@pytest.fixture
def command(make_bundle: MakeBundle, photos: Path) -> list[str]:
    paths = [str(make_bundle(target, target, precision="float", provenance=RANDOM)) for target in ("onnx", "tflite")]
    return ["evaluate", *paths, "--data", str(photos), "--threads", "1", "--json"]


def evaluated(command: list[str], capfd: Any, code: int = 0) -> Any:
    assert main(command) == code
    return json.loads(capfd.readouterr().out)


def count(piece: int) -> int:
    return piece * piece


def die(piece: Path) -> int:
    """Kill the process at the first call."""
    if not piece.exists():
        piece.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return 7


def die_always(piece: int) -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return piece


def refuse(piece: int) -> int:
    raise EngineError(f"no {piece}")


def pid(piece: int) -> int:
    time.sleep(0.1)
    return os.getpid()


@pytest.mark.parametrize("name", ["workers", "dask", ""])
def test_results_come_in_the_order_of_the_pieces_and_errors_are_raised(name: str, request: Any) -> None:
    executor: Executor = request.getfixturevalue(name) if name else ThisProcess()
    assert list(executor.map(count, range(100))) == [index * index for index in range(100)]
    assert list(executor.map(count, [])) == []
    with refuses(EngineError, "no 3"):
        list(executor.map(refuse, [3]))


def test_a_piece_of_a_worker_that_dies_is_done_by_another(workers: Executor, tmp_path: Path) -> None:
    others = workers.map(pid, range(2))
    assert list(workers.map(die, [tmp_path / "died", tmp_path])) == [7, 7]
    assert len({*others}) == 2
    assert list(workers.map(count, range(4))) == [0, 1, 4, 9]


def test_workers_that_died_while_they_had_nothing_to_do_are_replaced() -> None:
    with executor_of(1, None) as executor:
        (process,) = executor.map(pid, [0])
        os.kill(process, signal.SIGKILL)
        (worker,) = executor._idle  # type: ignore[attr-defined]
        wait_until(lambda: worker._broken, "its pool has seen that the worker died")
        assert list(executor.map(count, [3])) == [9]


def test_a_piece_that_kills_every_worker_is_an_error(workers: Executor) -> None:
    with refuses(EngineError, "killed 3 workers"):
        list(workers.map(die_always, [1]))
    assert list(workers.map(count, [2])) == [4]


def test_a_piece_that_kills_dasks_workers_is_an_error(dask: DaskWorkers, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_: Any) -> Iterator[int]:
        raise distributed.KilledWorker("piece", SimpleNamespace(address="tcp://1"), 3)
        yield 0

    monkeypatch.setattr(dask._executor, "map", killed)
    with refuses(EngineError, "killed several workers"):
        list(dask.map(count, [1]))


def test_workers_end_with_their_executor_while_they_work() -> None:
    with executor_of(1, None) as executor:
        (process,) = executor.map(pid, [0])
        executor.submit(time.sleep, 60)
    wait_until(lambda: not Path(f"/proc/{process}").exists(), "the worker ended")


def test_workers_that_do_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise BlockingIOError("Resource temporarily unavailable")

    monkeypatch.setattr("concurrent.futures.ProcessPoolExecutor.submit", fail)
    with executor_of(3, None) as executor, refuses(UsageError, "--workers", "Resource temporarily unavailable"):
        list(executor.map(count, [1]))


def test_two_workers_and_one_process_give_the_same_result(command: list[str], capfd: Any) -> None:
    alone = evaluated(command, capfd)
    assert alone["evaluation"]["count"] == 40
    assert evaluated([*command, "--workers", "2"], capfd) == alone


def test_a_worker_killed_midway_does_not_change_the_result(
    command: list[str], workers: Processes, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    alone = evaluated(command, capfd)
    processes = {*workers.map(pid, range(2))}
    real = workers.map

    def murderous(work: Any, pieces: Iterable[Any]) -> Iterator[Any]:
        for result in real(work, pieces):
            if processes:
                os.kill(processes.pop(), signal.SIGKILL)
            yield result

    monkeypatch.setattr(workers, "map", murderous)
    monkeypatch.setattr(evaluation, "executor_of", lambda *_: nullcontext(workers))
    assert evaluated(command, capfd) == alone
    assert not processes


@pytest.mark.slow
def test_a_schedulers_address(command: list[str], tmp_path: Path, capfd: Any) -> None:
    """Scheduler and worker run as separate commands, as a user starts them on other machines."""
    file = tmp_path / "scheduler.json"
    alone = evaluated(command, capfd)
    with ExitStack() as stack:
        for name, *more in (
            ("dask_scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", str(file)),
            ("dask_worker", "--scheduler-file", str(file), "--nthreads", "1", "--no-dashboard", "--host", "127.0.0.1"),
        ):
            arguments = [sys.executable, "-W", "ignore", "-m", f"distributed.cli.{name}", *more]
            process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=tmp_path)
            stack.callback(process.wait)
            stack.callback(process.terminate)
        wait_until(lambda: file.exists() and file.stat().st_size > 0, "the scheduler wrote its address")
        address = json.loads(file.read_text())["address"]
        assert evaluated([*command, "--scheduler", address], capfd) == alone


def test_completed_shards_are_not_run_again(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    alone = evaluated(command, capfd)
    resumable = [*command, "-o", str(tmp_path / "run")]
    done: list[int] = []
    real, kills = accuracy.answer, iter([signal.SIGINT])

    def interrupted(shard: Any) -> Any:
        if len(done) == 8 and (kill := next(kills, None)):
            os.kill(os.getpid(), kill)
        done.append(len(shard.dataset.samples))
        return real(shard)

    monkeypatch.setattr(accuracy, "answer", interrupted)
    assert main(resumable) == 130
    capfd.readouterr()
    assert len(done) == 8
    assert evaluated(resumable, capfd) == alone
    assert len(done) == 12, "six shards of each of two bundles, each run once"
    assert json.loads((tmp_path / "run" / "evaluation.json").read_text()) == alone
    evaluated([*resumable, "--num-eval-samples", "7"], capfd)
    assert len(done) == 12, "the first shard of each bundle is the same"
    evaluated([*resumable, "--num-eval-samples", "8"], capfd)
    assert len(done) == 14


def test_unreadable_images_are_skipped_with_and_without_workers(
    command: list[str], photos: Path, tmp_path: Path, capfd: Any
) -> None:
    data = tmp_path / "data"
    shutil.copytree(photos, data)
    (data / "class_3" / "0.png").write_bytes(b"broken")
    changed = [str(data) if each == str(photos) else each for each in command]
    alone = evaluated(changed, capfd)
    assert alone["evaluation"]["count"] == 39
    assert evaluated([*changed, "--workers", "2"], capfd) == alone


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--scheduler", "tcp://127.0.0.1:1"], "no Dask scheduler with workers answers at 'tcp://127.0.0.1:1'"),
        (["--scheduler", "nonsense://x"], "tcp://HOST:8786"),
        (["--scheduler", "tcp://127.0.0.1:1", "--workers", "2"], "--workers and --scheduler were given together"),
        (["--workers", "0"], "--workers"),
    ],
)
def test_bad_input(
    command: list[str], more: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    monkeypatch.setattr(executors, "CONNECT_S", 1)
    assert main([*command, *more]) == 2
    err = capfd.readouterr().err
    assert message in err
    assert "Traceback" not in err


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(UsageError), executor_of(2, "tcp://x"):
        pass
    with executor_of(1, None) as executor:
        assert list(executor.map(count, [3])) == [9]
    with pytest.raises(MissingExtraError) as caught, executor_of(None, "tcp://x"):
        pass
    assert install_command("scale") in caught.value.fix
