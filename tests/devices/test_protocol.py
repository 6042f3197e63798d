"""Measurements whose agent dies, falls silent, or doesn't end properly."""

import os
import signal
from pathlib import Path
from types import SimpleNamespace

import pytest

from edgekit.devices import remote
from edgekit.devices.messages import MeasureJob
from edgekit.devices.remote import open_board, run_agent
from edgekit.devices.transport import connect
from edgekit.errors import ConnectionCutError, DeviceCrashError, DeviceError, DeviceFullError, FrozenError
from edgekit.measure.bundles import MeasureSpec
from edgekit.measure.settings import Timing
from edgekit.report.row import Measurement
from edgekit.runtime.bundle import read_bundle
from edgekit.support.progress import BugElsewhere, Reporter
from edgekit.support.worker import Call, Outcome, SentError, encode
from tests.helpers.refusals import refuses
from tests.helpers.ssh_server import Server, agents_at_work, signal_agents
from tests.helpers.waiting import when

TIMING = Timing(threads=1, warmup=1, iterations=5)
LONG = Timing(threads=1, warmup=1, iterations=500_000)


def test_a_killed_agent(lent_board: Server, pair: list[Path]) -> None:
    bundles = {"int8": read_bundle(pair[1])}
    with open_board(lent_board.device(), Reporter(quiet=True)) as opened:
        with (
            when(lambda: agents_at_work(lent_board), lambda: signal_agents(lent_board, signal.SIGKILL)),
            refuses(DeviceCrashError, "SIGKILL"),
        ):
            opened.rows(bundles, MeasureSpec(LONG))
        assert len(opened.rows(bundles, MeasureSpec(TIMING))) == 1, "the connection still works"


def test_a_connection_that_is_cut_under_the_agent(lent_board: Server, pair: list[Path]) -> None:
    with (
        open_board(lent_board.device(), Reporter(quiet=True)) as opened,
        when(lambda: agents_at_work(lent_board), lent_board.cut),
        pytest.raises(ConnectionCutError),
    ):
        opened.rows({"int8": read_bundle(pair[1])}, MeasureSpec(LONG))


@pytest.mark.slow
def test_an_agent_that_falls_silent(lent_board: Server, pair: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "SILENCE_S", 12)
    stopped: list[int] = []
    with (
        open_board(lent_board.device(), Reporter(quiet=True)) as opened,
        when(lambda: agents_at_work(lent_board), lambda: stopped.extend(signal_agents(lent_board, signal.SIGSTOP))),
        pytest.raises(FrozenError),
    ):
        opened.rows({"int8": read_bundle(pair[1])}, MeasureSpec(LONG))
    for pid in stopped:
        os.kill(pid, signal.SIGKILL)


def test_an_agent_that_does_not_read_its_job(board: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "SILENCE_S", 1)
    with refuses(FrozenError, "the measurement sent no message for 1 s"):
        run_fake_agent(board, "exec sleep 60", Reporter(quiet=True), {"x" * 8_000_000: {}})


def test_a_deadlock_behind_signs_of_life(board: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "IDLE_S", 1)
    script = f"{said(Call('stage', ('time int8', None)))}; while sleep 0.2; do {said(Call('alive', (2.5,)))}; done"
    with refuses(FrozenError, "the measurement computed nothing for 1 s in the stage 'time int8'"):
        run_fake_agent(board, script, Reporter(quiet=True))


@pytest.mark.parametrize(
    ("cpu_per_s", "step_every_s", "frozen_after_s"),
    [
        (0.0, None, remote.IDLE_S),
        (0.001, None, remote.IDLE_S),
        (0.5, None, remote.STEP_S),
        (0.0, 200, None),
        (0.5, 200, None),
    ],
)
def test_how_long_an_agent_may_take_for_a_step(
    cpu_per_s: float, step_every_s: int | None, frozen_after_s: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0
    monkeypatch.setattr(remote, "time", SimpleNamespace(monotonic=lambda: now))
    pace = remote.Pace("board", "the trial")
    for now in range(0, remote.STEP_S + 100, 5):
        if step_every_s and now % step_every_s == 0:
            pace.check(Call("step", (1.0,)))
        try:
            pace.check(Call("alive", (now * cpu_per_s,)))
        except FrozenError:
            assert frozen_after_s is not None
            assert frozen_after_s < now <= frozen_after_s + 5 + 1 / max(cpu_per_s, 1)
            return
    assert frozen_after_s is None


ROWS = 'printf \'{"type": "answer", "value": []}\\n\''
"""The shell command of a fake agent that sends its result."""


@pytest.mark.parametrize(
    ("script", "kind", "part"),
    [
        ("exit 0", ConnectionCutError, "the answer is incomplete"),
        ('printf \'{"type": "answer", "val\'', ConnectionCutError, "the answer is incomplete"),
        ('printf \'{"type": "call", "name": "say", "args": ["\\303\'', ConnectionCutError, "the answer is incomplete"),
        (f"{ROWS}; kill -SEGV $$", DeviceCrashError, "SIGSEGV"),
        ("kill -ILL $$", DeviceCrashError, "SIGILL"),
        ("kill -SEGV $$", DeviceCrashError, "SIGSEGV"),
        ("echo 'OSError: No space left on device' >&2; exit 1", DeviceFullError, "edgekit devices clean board"),
        (
            'printf \'{"type": "answer", "error": {"error": "BundleError", "problem": "refused"}}\\n\'',
            DeviceError,
            "board: refused",
        ),
        ("echo boom >&2; exit 3", DeviceError, "exit status 3: boom"),
    ],
)
def test_ends_of_an_agent(board: Server, script: str, kind: type[DeviceError], part: str) -> None:
    with pytest.raises(kind) as caught:
        run_fake_agent(board, script, Reporter(quiet=True))
    assert type(caught.value) is kind
    assert part in str(caught.value)


def said(message: Call | Outcome) -> str:
    """The shell command of a fake agent that sends a message."""
    return f"printf '%s\\n' '{encode(message).decode().strip()}'"


def test_a_bug_on_the_device_is_not_blamed_on_it(board: Server, capfd: pytest.CaptureFixture[str]) -> None:
    trace = "Traceback (most recent call last):"
    failed = Outcome(error=SentError("KeyError", "KeyError: 7", traceback=trace, bug=True))
    of_a_row = Call("bug", ("int8", "KeyError", "KeyError: 7", trace))
    with pytest.raises(BugElsewhere, match=r"^KeyError: 7\n") as caught:
        run_fake_agent(board, said(failed), Reporter(quiet=True))
    assert trace in caught.value.__notes__[0]
    capfd.readouterr()
    run_fake_agent(board, f"{said(of_a_row)}; {ROWS}", Reporter(quiet=True))
    err = capfd.readouterr().err
    assert trace in err
    assert "board: int8: this is a bug in edgekit" in err


def run_fake_agent(
    server: Server, script: str, reporter: Reporter, bundles: dict[str, dict[str, str]] | None = None
) -> list[Measurement]:
    """Run the host's side of the protocol with this shell script as the agent."""
    fake = server.folder / "fake"
    fake.write_text(f"#!/bin/sh\n{script}\n")
    fake.chmod(0o755)
    job = MeasureJob(name="board", device_class=None, cache=str(server.cache), bundles=bundles or {}, timing=TIMING)
    with connect(server.device()) as connection:
        return run_agent(connection, str(fake), job, list[Measurement], reporter)


def test_lines_that_are_not_messages_are_ignored(board: Server, capfd: pytest.CaptureFixture[str]) -> None:
    noise = "echo 'a library says hello'; echo; printf '\\377\\n'; echo '{\"type\": \"unheard of\"}'"
    stage = f"{said(Call('stage', ('time', 3)))}; {said(Call('step', (3.0,)))}"
    warning = f"{said(Call('warn', ('it is hot',)))}; {said(Call('alive', (0.0,)))}"
    answer = run_fake_agent(board, f"{noise}; {stage}; {noise}; {warning}; {ROWS}; {noise}", Reporter())
    assert answer == []
    lines = capfd.readouterr().err.splitlines()
    assert "warning: board: it is hot" in lines
    assert [line for line in lines if line.startswith("board: time: 3 in ")]


def test_an_answer_that_does_not_match_the_job_is_an_error(
    lent_board: Server, pair: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    with refuses(ConnectionCutError, "does not match"):
        run_fake_agent(lent_board, said(Outcome({"bundle": None})), Reporter(quiet=True))
    with open_board(lent_board.device(), Reporter(quiet=True)) as opened:
        monkeypatch.setattr(remote, "run_agent", lambda *_: [])
        with pytest.raises(ConnectionCutError):
            opened.rows({"int8": read_bundle(pair[1])}, MeasureSpec(TIMING))
