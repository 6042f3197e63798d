"""Child processes that run Python code of edgekit, the log of what libraries print, and the signals that end a command.

A child imports the same packages as its parent, and nothing from the current folder, where a json.py would replace the
standard library's. The output of a child's libraries goes to the parent's log, which is open while a run folder is, and
has the last lines of a process that aborts.

Ctrl-C and the signals of `kill`, `timeout` and a closed terminal raise KeyboardInterrupt, so that connections are
closed and temporary files deleted. C++ code that calls back into Python swallows a KeyboardInterrupt or turns it into
another error, and the work would continue. The signal handler therefore also records the signal, and every piece of
work checks the record when it ends.
"""

import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import current_thread, main_thread
from types import FrameType, MappingProxyType

from edgekit.errors import printable

NAME = "library-output.log"
"""Name of the log file inside a run's hidden folder."""
VARIABLE = "EDGEKIT_LIBRARY_LOG"
"""Environment variable that passes the path of the log to child processes. Users don't need to set it."""
MOST_BYTES = 16 << 20
"""Size in bytes above which the next command starts a new file. Several commands may use one run folder in turn."""

_file: Path | None = None


@contextmanager
def kept_in(file: Path) -> Iterator[None]:
    """Append all output that is silenced inside the block to `file`."""
    global _file
    with suppress(OSError):
        if file.stat().st_size > MOST_BYTES:
            file.unlink()
    before, _file = _file, file.absolute()
    try:
        yield
    finally:
        _file = before


def current() -> Path | None:
    """The current log file; None if no run folder is open, neither here nor in the parent process."""
    if _file is not None:
        return _file
    return Path(os.environ[VARIABLE]) if VARIABLE in os.environ else None


def environment() -> dict[str, str]:
    """Environment variables with which a child process writes to the same file."""
    file = current()
    return {} if file is None else {VARIABLE: str(file)}


def descriptor() -> int:
    """Open a descriptor that appends to the log file, or to the null device if there is none. The caller closes it."""
    file = current()
    if file is not None:
        with suppress(OSError):  # the disk may be full, or the folder deleted
            return os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    return os.open(os.devnull, os.O_WRONLY)


def note(title: str, text: str = "") -> None:
    """Append a heading and the text, which may be a board's, without what controls a terminal."""
    if current() is None:
        return
    lines = [printable(line) for line in (f"== {title}", *text.splitlines())]
    opened = descriptor()
    try:
        with suppress(OSError):
            os.write(opened, "".join(f"{line}\n" for line in lines).encode())
    finally:
        os.close(opened)


SAFE_PATH = "PYTHONSAFEPATH"
"""Environment variable with the effect of Python's option -P, for children that libraries start."""


def run_python(arguments: Sequence[str], timeout: float | None = None) -> subprocess.CompletedProcess[str]:
    """Run Python with these arguments until it exits, and capture both streams as text.

    Raises subprocess.TimeoutExpired after `timeout` seconds, and nothing for an exit status other than 0. Its stderr is
    also appended to the `library_log`.
    """
    stderr: str | bytes | None = None
    end = "timed out"
    try:
        done = subprocess.run(
            _command(arguments), capture_output=True, text=True, timeout=timeout, check=False, env=_environment()
        )
        stderr, end = done.stderr, f"exit status {done.returncode}"
    except subprocess.TimeoutExpired as error:
        stderr = error.stderr
        raise
    finally:
        text = stderr.decode(errors="replace") if isinstance(stderr, bytes) else stderr or ""
        note(f"python {shlex.join(arguments)}: {end}", text)
    return done


def start_python(
    arguments: Sequence[str], variables: Mapping[str, str] = MappingProxyType({})
) -> "subprocess.Popen[bytes]":
    """Start Python with these arguments and additional environment variables. stdin and stdout are pipes."""
    return subprocess.Popen(
        _command(arguments),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=_environment() | dict(variables),
    )


@contextmanager
def child_environment() -> Iterator[None]:
    """Give every Python that a library starts inside the block the environment that this module gives its children."""
    wanted = {SAFE_PATH: "1", **environment()}
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def signal_name(number: int) -> str:
    """Name of the signal that ended a process, such as SIGKILL."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _command(arguments: Sequence[str]) -> list[str]:
    return [sys.executable, "-P", *arguments]


def _environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))} | environment()


SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
"""Signals that end a command. Windows has no SIGHUP."""
_received = False


@contextmanager
def noting(*signals: signal.Signals) -> Iterator[None]:
    """Record these signals, or all `SIGNALS`, inside the block, but not those that the process ignores.

    Does nothing in another thread than the main one. Blocks may be nested; the record ends with the outermost.
    """
    global _received
    if current_thread() is not main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in signals or SIGNALS}
    noted = {number: handler for number, handler in before.items() if handler not in (signal.SIG_IGN, None)}
    for number in noted:
        signal.signal(number, _note)
    try:
        yield
    finally:
        for number, handler in noted.items():
            signal.signal(number, handler)
        if _note not in noted.values():
            _received = False


@contextmanager
def interruptible() -> Iterator[None]:
    """Re-raise KeyboardInterrupt if a signal arrived inside the block, even if the block swallowed it."""
    try:
        yield
    except Exception:
        check()
        raise
    check()


def check() -> None:
    """Raise KeyboardInterrupt if a signal was recorded."""
    if _received:
        raise KeyboardInterrupt


def _note(number: int, frame: FrameType | None) -> None:
    global _received
    _received = True
    raise KeyboardInterrupt
