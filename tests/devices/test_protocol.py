"""What becomes of a measurement whose agent dies, falls silent, or doesn't end as it should."""

import os
import signal
from pathlib import Path

import pytest

from edgekit.devices import protocol as dialogue
from edgekit.devices.protocol import run_agent
from edgekit.devices.remote import open_board
from edgekit.devices.transport import connect
from edgekit.errors import ConnectionCutError, DeviceCrashError, DeviceError, DeviceFullError, FrozenError
from edgekit.measure.settings import Settings
from edgekit.runtime.bundle import read_bundle
from edgekit.support.progress import Reporter
from tests.helpers.ssh_server import Server, agents, agents_at_work
from tests.helpers.waiting import when

SETTINGS = Settings(threads=1, warmup=1, iterations=5)
LONG = Settings(threads=1, warmup=1, iterations=500_000)


def test_a_killed_agent(lent_board: Server, pair: list[Path]) -> None:
    bundles = {"int8": read_bundle(pair[1])}

    def kill() -> None:
        for pid in agents(lent_board):
            os.kill(pid, signal.SIGKILL)

    with open_board(lent_board.device(), False, Reporter(quiet=True)) as opened:
        with (
            when(lambda: agents_at_work(lent_board), kill),
            pytest.raises(DeviceCrashError, match=r"board: the measurement was killed \(SIGKILL\)"),
        ):
            opened.measure(bundles, LONG)
        assert len(opened.measure(bundles, SETTINGS)) == 1, "the connection is still there"


def test_a_connection_that_is_cut_under_the_agent(lent_board: Server, pair: list[Path]) -> None:
    with (
        open_board(lent_board.device(), False, Reporter(quiet=True)) as opened,
        when(lambda: agents_at_work(lent_board), lent_board.cut),
        pytest.raises(ConnectionCutError, match="run the same command again"),
    ):
        opened.measure({"int8": read_bundle(pair[1])}, LONG)


def test_an_agent_that_falls_silent(lent_board: Server, pair: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dialogue, "SILENCE_S", 12)
    stopped: list[int] = []

    def stop() -> None:
        stopped.extend(agents(lent_board))
        for pid in stopped:
            os.kill(pid, signal.SIGSTOP)

    with (
        open_board(lent_board.device(), False, Reporter(quiet=True)) as opened,
        when(lambda: agents_at_work(lent_board), stop),
        pytest.raises(FrozenError, match="the measurement was silent for 12 s"),
    ):
        opened.measure({"int8": read_bundle(pair[1])}, LONG)
    for pid in stopped:
        os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize(
    ("script", "kind", "part"),
    [
        ("echo '{\"rows\": []}'", ConnectionCutError, "no end record"),
        ("echo '{\"rows\"'", ConnectionCutError, "no end record"),
        ("kill -ILL $$", DeviceCrashError, "SIGILL"),
        ("kill -SEGV $$", DeviceCrashError, "SIGSEGV"),
        ("echo 'OSError: No space left on device' >&2; exit 1", DeviceFullError, "edgekit devices clean board"),
        ('echo \'{"error": "refused"}\'', DeviceError, "board: refused"),
        ("echo boom >&2; exit 3", DeviceError, "exit status 3: boom"),
    ],
)
def test_ends_of_an_agent(lent_board: Server, script: str, kind: type[DeviceError], part: str) -> None:
    fake = lent_board.folder / "fake"
    fake.write_text(f"#!/bin/sh\n{script}\n")
    fake.chmod(0o755)
    with connect(lent_board.device()) as connection:
        with pytest.raises(kind) as caught:
            run_agent(connection, str(fake), {"cache": str(lent_board.cache)}, Reporter(quiet=True))
        assert type(caught.value) is kind
        assert part in str(caught.value)
