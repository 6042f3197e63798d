"""The file that keeps what libraries print while a run folder is open, and their last words where they abort."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

NAME = "library-output.log"
"""Name of the file inside the hidden folder of a run."""
VARIABLE = "EDGEKIT_LIBRARY_LOG"
"""Environment variable that tells child processes the file of their parent; nobody else needs to set it."""
MOST_BYTES = 16 << 20
"""Size from which the file is begun anew: several commands may work in one run folder, one after the other."""

_file: Path | None = None


@contextmanager
def kept_in(file: Path) -> Iterator[None]:
    """Append everything that is kept off both streams inside the block to `file`."""
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
    """The file that is written now; None if no run folder is open, here or in the process that started this one."""
    if _file is not None:
        return _file
    return Path(os.environ[VARIABLE]) if VARIABLE in os.environ else None


def environment() -> dict[str, str]:
    """What a child process needs to write the same file."""
    file = current()
    return {} if file is None else {VARIABLE: str(file)}


def descriptor() -> int:
    """A new descriptor that appends to the file, or else one of the null device. The caller closes it."""
    file = current()
    if file is not None:
        with suppress(OSError):  # the disk may be full, or the folder gone
            return os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    return os.open(os.devnull, os.O_WRONLY)


def note(title: str, text: str = "") -> None:
    """Append a line that says what follows, and the text. Does nothing where no file is written."""
    if current() is None:
        return
    lines = [f"== {title}", *text.splitlines()]
    opened = descriptor()
    try:
        with suppress(OSError):
            os.write(opened, "".join(f"{line}\n" for line in lines).encode(errors="backslashreplace"))
    finally:
        os.close(opened)
