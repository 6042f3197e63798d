"""The log of libraries' output while a run folder is open, including the last lines of a process that aborts."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

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
