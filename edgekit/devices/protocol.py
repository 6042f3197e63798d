"""Run the agent on a device: give it a job, read its lines to the end record, show its progress."""

import json
import queue
import tempfile
import threading
from collections.abc import Callable, Mapping
from typing import Any

from edgekit.devices.faults import exit_error
from edgekit.devices.transport import Connection, ending
from edgekit.errors import ConnectionCutError, DeviceError, FrozenError
from edgekit.measure.rows import Row
from edgekit.support import library_log
from edgekit.support.progress import Reporter

SILENCE_S = 120
"""An agent sends a line every few seconds; one that is silent for so long is frozen."""


def run_agent(connection: Connection, python: str, job: Mapping[str, Any], reporter: Reporter) -> list[Row]:
    """Run one job; its rows. A DeviceError if the agent fails, falls silent, or ends without its end record."""
    name = connection.device.name
    with tempfile.TemporaryFile(dir=connection.folder) as stderr:
        # ONNX Runtime and OpenVINO keep notes in the user's home: here it's a folder of ours, and cleaned with it.
        home = f"{job['cache']}/runtimes"
        process = connection.start(
            ["env", f"HOME={home}", f"XDG_CACHE_HOME={home}/.cache", python, "-I", "-m", "edgekit.devices.agent"],
            stderr,
        )
        with process, ending(process):
            assert process.stdin
            assert process.stdout
            try:
                process.stdin.write((json.dumps(job) + "\n").encode())
                process.stdin.flush()
            except BrokenPipeError:
                pass  # its end says why
            found = _listen(name, process.stdout, reporter)
        stderr.seek(0)
        said = stderr.read().decode(errors="replace")
    library_log.note(f"{name}: the measurement ended with status {process.returncode}", said)
    connection.check(process.returncode)
    if "error" in found:
        raise DeviceError(f"{name}: {found['error']}")
    if process.returncode != 0:
        raise exit_error(name, "the measurement", process.returncode, said)
    if "end" not in found or "rows" not in found:
        raise ConnectionCutError(
            f"{name}: its answer has no end record, so it is not whole. Run the same command again."
        )
    rows: list[Row] = found["rows"]
    return rows


def _listen(name: str, pipe: Any, reporter: Reporter) -> dict[str, Any]:
    """Read lines until the end; what the last ones of each kind said. FrozenError if none comes for long."""
    lines: queue.Queue[bytes | None] = queue.Queue()
    threading.Thread(target=_read, args=(pipe, lines.put), daemon=True).start()
    found: dict[str, Any] = {}
    with _Progress(name, reporter) as progress:
        while True:
            try:
                raw = lines.get(timeout=SILENCE_S)
            except queue.Empty:
                raise FrozenError(
                    f"{name}: the measurement was silent for {SILENCE_S} s. See that the device is well; then run the "
                    "same command again."
                ) from None
            if raw is None:
                return found
            try:
                line = json.loads(raw)
            except ValueError:
                continue  # cut in the middle: the end record will be missing
            if isinstance(line, dict):
                progress.show(line)
                found |= {key: line[key] for key in ("rows", "error", "end") if key in line}


def _read(pipe: Any, put: Callable[[bytes | None], None]) -> None:
    try:
        for line in pipe:
            put(line)
    except ValueError:
        pass  # closed: the block was left
    put(None)


class _Progress:
    """The agent's stages, shown by the host's reporter."""

    def __init__(self, name: str, reporter: Reporter) -> None:
        self._name, self._reporter = name, reporter
        self._stage: Any = None
        self._step: Callable[[], None] = lambda: None
        self._done = 0

    def __enter__(self) -> "_Progress":
        return self

    def __exit__(self, *error: object) -> None:
        self._close(*error)

    def show(self, line: Mapping[str, Any]) -> None:
        """Open a stage, go on in it, or pass a warning on."""
        if "warn" in line:
            self._reporter.warn(f"{self._name}: {line['warn']}")
        if "stage" in line:
            self._close(None, None, None)
            self._stage = self._reporter.stage(f"{self._name}: {line['stage']}", line["total"])
            self._step, self._done = self._stage.__enter__(), 0
        for _ in range(self._done, line.get("step", self._done)):
            self._step()
            self._done += 1

    def _close(self, *error: Any) -> None:
        if self._stage is not None:
            stage, self._stage = self._stage, None
            stage.__exit__(*error)
