"""Evaluation by several processes: workers may die without changing the result, and completed work is stored."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import distributed
import pytest

from edgekit.cli.main import main
from edgekit.errors import EngineError, MissingExtraError, UsageError
from edgekit.measure import accuracy
from edgekit.measure import accuracy as clusters
from edgekit.measure import evaluation as bundles
from edgekit.measure.accuracy import DaskExecutor, executor_of
from edgekit.support.libraries import install_command, quiet
from tests.helpers.refusals import refuses
from tests.helpers.waiting import wait_until


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accuracy, "SHARD", 7)


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


def workers_of(cluster: DaskExecutor) -> set[int]:
    """Process ids of the workers."""
    return set(cluster._client.run(os.getpid).values())


def test_every_piece_comes_back(cluster: DaskExecutor) -> None:
    assert dict(cluster.map(count, range(100))) == {index: index * index for index in range(100)}
    assert dict(cluster.map(count, [])) == {}
    ((_, error),) = cluster.map(refuse, [3])
    assert isinstance(error, EngineError)
    assert error.problem == "no 3"


def test_a_piece_of_a_worker_that_dies_is_done_by_another(cluster: DaskExecutor, tmp_path: Path) -> None:
    before = workers_of(cluster)
    assert dict(cluster.map(die, [tmp_path / "died"])) == {0: 7}
    assert before - workers_of(cluster), "the dead worker was replaced"


def test_a_piece_that_kills_every_worker_is_an_error(cluster: DaskExecutor) -> None:
    ((_, error),) = cluster.map(die_always, [1])
    assert isinstance(error, EngineError)
    assert "killed several workers" in error.problem


def test_a_cluster_without_workers_does_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clusters, "LOOK_S", 0.05)
    monkeypatch.setattr(clusters, "WITHOUT_WORKERS_S", 0.1)
    with (
        quiet(),
        distributed.LocalCluster(n_workers=0, processes=False, dashboard_address=None) as empty,
        distributed.Client(empty) as client,
        refuses(EngineError, "no worker"),
    ):
        list(DaskExecutor(client).map(count, [1]))


def test_local_workers_that_do_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(**_: object) -> None:
        raise RuntimeError("Cluster failed to start: no memory")

    monkeypatch.setattr("distributed.LocalCluster", fail)
    with refuses(UsageError, "--workers", 3, "no memory"):
        executor_of(3, None).__enter__()


def test_two_workers_and_one_process_give_the_same_result(command: list[str], capfd: Any) -> None:
    alone = evaluated(command, capfd)
    assert alone["evaluation"]["count"] == 40
    assert evaluated([*command, "--workers", "2"], capfd) == alone


def test_a_worker_killed_midway_does_not_change_the_result(
    command: list[str], cluster: DaskExecutor, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    """The executor is the fixture's cluster, in place of the one that the command would start."""
    alone = evaluated(command, capfd)
    killed: list[int] = []
    real = cluster.map

    def murderous(work: Callable[[Any], Any], pieces: Sequence[Any]) -> Iterator[tuple[int, Any]]:
        for result in real(work, pieces):
            if not killed:
                killed.append(min(workers_of(cluster)))
                os.kill(killed[0], signal.SIGKILL)
            yield result

    from contextlib import nullcontext

    monkeypatch.setattr(cluster, "map", murderous)
    monkeypatch.setattr(bundles, "executor_of", lambda workers, scheduler: nullcontext(cluster))
    assert evaluated(command, capfd) == alone
    assert killed


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
    assert len(done) == 18, "six shards of each of three bundles, each run once"
    assert json.loads((tmp_path / "run" / "evaluation.json").read_text()) == alone
    evaluated([*resumable, "--num-eval-samples", "7"], capfd)
    assert len(done) == 18, "the first shard of each bundle is the same"
    evaluated([*resumable, "--num-eval-samples", "8"], capfd)
    assert len(done) == 21


def test_unreadable_images_are_skipped_with_and_without_workers(
    command: list[str], photos: Path, tmp_path: Path, capfd: Any
) -> None:
    import shutil

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
        (["--scheduler", "tcp://127.0.0.1:1"], "no Dask scheduler answers at 'tcp://127.0.0.1:1'"),
        (["--scheduler", "nonsense://x"], "tcp://HOST:8786"),
        (["--scheduler", "tcp://127.0.0.1:1", "--workers", "2"], "--workers and --scheduler were both given"),
        (["--workers", "0"], "--workers"),
    ],
)
def test_bad_input(
    command: list[str], more: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    from edgekit.measure import accuracy as cluster

    monkeypatch.setattr(cluster, "CONNECT_S", 1)
    assert main([*command, *more]) == 2
    err = capfd.readouterr().err
    assert message in err
    assert "Traceback" not in err


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(UsageError), executor_of(2, "tcp://x"):
        pass
    with pytest.raises(MissingExtraError) as caught, executor_of(2, None):
        pass
    assert install_command("scale") in caught.value.fix
