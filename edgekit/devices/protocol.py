"""Run the agent on a device: send it a job, read its messages until the end record, and show its progress."""

import queue
import tempfile
import threading
from collections.abc import Callable
from typing import IO

from edgekit.devices.faults import exit_error
from edgekit.devices.messages import (
    AgentJob,
    Ended,
    Failed,
    Inspected,
    Measured,
    Message,
    Slotted,
    decode_message,
    encode,
)
from edgekit.devices.transport import Connection, ending
from edgekit.devices.wire import ShownProgress
from edgekit.errors import ConnectionCutError, DeviceError, FrozenError
from edgekit.support import library_log
from edgekit.support.progress import Reporter
from edgekit.support.tracebacks import BugElsewhere

SILENCE_S = 120
"""Time without a message after which an agent counts as frozen. It sends one every few seconds."""


Answer = Measured | Inspected | Slotted


def run_agent(connection: Connection, python: str, job: AgentJob, reporter: Reporter) -> Answer:
    """Run one job and return its result. DeviceError if the agent fails, falls silent, or sends no end record."""
    name, work = connection.device.name, "the measurement" if job.slot is None else "the trial"
    with tempfile.TemporaryFile(dir=connection.folder) as stderr:
        # ONNX Runtime and OpenVINO write into the home. This one is in edgekit's folder and is cleaned with it.
        home = f"{job.cache}/runtimes"
        process = connection.start(
            ["env", f"HOME={home}", f"XDG_CACHE_HOME={home}/.cache", python, "-I", "-m", "edgekit.devices.agent"],
            stderr,
        )
        with process, ending(process):
            assert process.stdin
            assert process.stdout
            try:
                process.stdin.write(encode(job))
                process.stdin.flush()
            except BrokenPipeError:
                pass  # the exit status tells why
            messages = _listen(name, work, process.stdout, reporter)
        stderr.seek(0)
        output = stderr.read().decode(errors="replace")
    library_log.note(f"{name}: {work} ended with status {process.returncode}", output)
    connection.check(process.returncode)
    for message in messages:
        if isinstance(message, Failed):
            if message.traceback:
                raise BugElsewhere(message.error, message.problem, message.traceback)
            raise DeviceError(f"{name}: {message.problem}", valid=message.valid, fix=message.fix)
    if process.returncode != 0:
        raise exit_error(name, work, process.returncode, output)
    results = [message for message in messages if isinstance(message, Answer)]
    if not results or not isinstance(messages[-1], Ended):
        raise ConnectionCutError(f"{name}: the answer is incomplete (no end record)", fix="Run the same command again")
    return results[-1]


def _listen(name: str, work: str, pipe: IO[bytes], reporter: Reporter) -> list[Message]:
    """Read all messages and return those that aren't progress. FrozenError if none arrives for `SILENCE_S`."""
    lines: queue.Queue[bytes | None] = queue.Queue()
    threading.Thread(target=_read, args=(pipe, lines.put), daemon=True).start()
    messages: list[Message] = []
    with ShownProgress(reporter, f"{name}: ") as progress:
        while True:
            try:
                raw = lines.get(timeout=SILENCE_S)
            except queue.Empty:
                raise FrozenError(
                    f"{name}: {work} sent no message for {SILENCE_S} s",
                    fix="Check the device's power supply, cooling and free memory, then run the same command again",
                ) from None
            if raw is None:
                return messages
            message = decode_message(raw)
            if message is None:
                continue  # printed by a library, or cut off, in which case the end record will be missing
            progress.show(message)
            if isinstance(message, Answer | Failed | Ended):
                messages.append(message)


def _read(pipe: IO[bytes], put: Callable[[bytes | None], None]) -> None:
    try:
        for line in pipe:
            put(line)
    except ValueError:
        pass  # the pipe was closed when the caller's block ended
    put(None)
