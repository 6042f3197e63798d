"""Run the agent on a device: send it a job, read its messages until the end record, and show its progress."""

import queue
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import IO, TypeVar

from edgekit.devices import messages
from edgekit.devices.faults import exit_error
from edgekit.devices.transport import Connection, ending, frozen
from edgekit.errors import ConnectionCutError, DeviceError
from edgekit.support import library_log
from edgekit.support.error_text import BugElsewhere
from edgekit.support.progress import Reporter

SILENCE_S = 120
"""Time without a message after which an agent counts as frozen. It sends one every few seconds."""
IDLE_S = 300
"""Time without progress and computing after which a runtime counts as deadlocked."""
STEP_S = 4 * 3600
"""Time without progress after which a runtime that computes counts as stuck."""
BUSY_S = 1.0
"""Computing time that shows that a runtime isn't deadlocked. The signs of life alone take a thousandth of it each."""
LINE_BYTES = 64 << 20
"""Largest line that is read at once; a longer one is no message."""
WAITING = 100
"""Number of lines that may wait to be read, so that a broken device can't fill this machine's memory."""

A = TypeVar("A", messages.Measured, messages.Inspected, messages.Slotted)


def run_agent(connection: Connection, python: str, job: messages.AgentJob, kind: type[A], reporter: Reporter) -> A:
    """Run one job and return its answer. DeviceError if the agent fails, falls silent, or doesn't end properly."""
    name, work = connection.device.name, "the trial" if isinstance(job, messages.PushJob) else "the measurement"
    with tempfile.TemporaryFile(dir=connection.folder) as stderr:
        # ONNX Runtime and OpenVINO write into the home. This one is in edgekit's folder and is cleaned with it.
        home = f"{job.cache}/runtimes"
        process = connection.start(
            ["env", f"HOME={home}", f"XDG_CACHE_HOME={home}/.cache", python, "-I", "-m", "edgekit.devices.agent"],
            stderr,
        )
        with ending(process):
            assert process.stdin
            assert process.stdout
            # In another thread, because a device whose disk hangs doesn't read it.
            threading.Thread(target=_send, args=(process.stdin, messages.encode(job)), daemon=True).start()
            results: list[messages.Message] = _listen(name, work, process.stdout, reporter)
            with suppress(subprocess.TimeoutExpired):
                process.wait(SILENCE_S)
        stderr.seek(0)
        output = stderr.read().decode(errors="replace")
    library_log.note(f"{name}: {work} ended with status {process.returncode}", output)
    connection.check(process.returncode)
    for message in results:
        if isinstance(message, messages.Failed):
            if message.traceback:
                raise BugElsewhere(message.error, message.problem, message.traceback)
            raise DeviceError(f"{name}: {message.problem}", valid=message.valid, fix=message.fix)
    if process.returncode != 0:
        raise exit_error(name, work, process.returncode, output)
    ends: list[messages.Message | None] = [None, None, *results]
    answer, end = ends[-2:]
    if answer is None or not isinstance(end, messages.Ended):
        raise ConnectionCutError(f"{name}: the answer is incomplete (no end record)", fix="Run the same command again")
    if not isinstance(answer, kind):
        raise mismatch(name)
    return answer


def mismatch(device: str) -> ConnectionCutError:
    """The error for an answer that isn't one to the job."""
    return ConnectionCutError(f"{device}: the answer does not match the job", fix="Run the same command again")


def _listen(name: str, work: str, pipe: IO[bytes], reporter: Reporter) -> list[messages.Message]:
    """Read all messages and return those that aren't progress. FrozenError if none arrives, or nothing is done."""
    lines: queue.Queue[bytes | None] = queue.Queue(WAITING)
    threading.Thread(target=_read, args=(pipe, lines.put), daemon=True).start()
    results: list[messages.Message] = []
    pace = Pace(name, work)
    with messages.ShownProgress(reporter, f"{name}: ") as progress:
        while True:
            try:
                raw = lines.get(timeout=SILENCE_S)
            except queue.Empty:
                raise frozen(name, f"{work} sent no message for {SILENCE_S} s") from None
            if raw is None:
                return results
            message = messages.decode_message(raw)
            if message is None:
                continue  # printed by a library, or cut off, in which case the end record will be missing
            pace.check(message)
            progress.show(message)
            if isinstance(message, messages.Answer | messages.Failed | messages.Ended):
                results.append(message)


class Pace:
    """Tells from an agent's messages whether its work still advances."""

    def __init__(self, device: str, work: str) -> None:
        self._device, self._work, self._stage = device, work, "start"
        self._cpu_s = 0.0
        self._advanced = self._computed = time.monotonic()

    def check(self, message: messages.Message) -> None:
        """Raise FrozenError if there are signs of life, but neither progress nor computing, for too long."""
        now = time.monotonic()
        if not isinstance(message, messages.Alive):
            self._advanced = self._computed = now
            if isinstance(message, messages.StageBegan):
                self._stage = message.title
            return
        if message.cpu_s - self._cpu_s >= BUSY_S:
            self._cpu_s, self._computed = message.cpu_s, now
        for since, limit_s, problem in (
            (self._computed, IDLE_S, "computed nothing"),
            (self._advanced, STEP_S, "made no progress"),
        ):
            if now - since > limit_s:
                raise frozen(self._device, f"{self._work} {problem} for {limit_s} s in the stage '{self._stage}'")


def _send(pipe: IO[bytes], job: bytes) -> None:
    with suppress(OSError, ValueError):  # the exit status tells why
        pipe.write(job)
        pipe.flush()


def _read(pipe: IO[bytes], put: Callable[[bytes | None], None]) -> None:
    try:
        while line := pipe.readline(LINE_BYTES):
            put(line)
    except ValueError:
        pass  # the pipe was closed when the caller's block ended
    put(None)
