"""Files that an interruption leaves whole, and texts that name them without their folders."""

import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PureWindowsPath
from typing import Any

from edgekit.errors import OutputError


def write_json(path: Path, value: Any) -> None:
    """Write a temporary file and rename it to `path`; OutputError if that fails."""
    text = json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    with writing(path):
        replace_text(path, text)


def replace_text(path: Path, text: str) -> None:
    """Write a temporary file in UTF-8 and rename it, so that readers see the old or the new file. Raises OSError."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="")


def append_text(path: Path, text: str) -> None:
    """Append lines in UTF-8 to a file, which may be new, so that readers see it without them or with all of them.

    The lines begin on a new line. Raises OSError.
    """
    path = path.resolve()  # a link stays one
    before = path.read_bytes() if path.exists() else b""
    separator = b"\n" if before and not before.endswith(b"\n") else b""
    with replacing(path) as temporary:
        temporary.write_bytes(before + separator + text.encode())
        if before:
            shutil.copymode(path, temporary)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a temporary path next to `path` for a new file or folder, which replaces `path` when the block ends.

    If the block or the rename raises, the new file or folder is removed and the old one is restored. A killed process
    leaves `.NAME.tmp-PID` or `.NAME.old-PID` behind. Raises OSError.
    """
    temporary, old = (path.with_name(f".{path.name}.{role}-{os.getpid()}") for role in ("tmp", "old"))
    _remove(temporary)
    try:
        yield temporary
        if temporary.is_dir() and path.is_dir():
            _swap(temporary, path, old)
        else:
            temporary.replace(path)
    finally:
        _remove(temporary)


def _swap(temporary: Path, path: Path, old: Path) -> None:
    """Replace one folder with another. No system call does that in one step, unless the old folder is empty."""
    _remove(old)
    try:
        path.rename(old)
        temporary.rename(path)
    finally:
        if old.exists() and not path.exists():
            old.rename(path)
        _remove(old)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn errors of the file system into OutputError."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        fix = "Free some space, or choose another folder with --output DIR"
        raise OutputError(f"can't write '{path}': {reason}", fix=fix) from error


_OPTION = re.compile(r"--[\w-]+=|-\w=?(?=[/\\.~])|[A-Za-z_]\w*=")
"""An option or key in front of its value: `--data=photos`, `-oruns/demo`, `checkpoint=best.pth`."""
_NAMED = re.compile(r"ssh://|[A-Za-z][\w+-]+:(?![/\\])")
"""Start of a value that contains no local path: an address, or a source such as `open_clip:NAME`."""


def shareable_command(arguments: Sequence[str]) -> tuple[str, ...]:
    """The arguments of a command line, each path without its folders."""
    return tuple(map(_without_folders, arguments))


def _without_folders(argument: str) -> str:
    option = _OPTION.match(argument)
    start = option[0] if option else ""
    value = argument[len(start) :]
    # A path of this system has the separators of Windows or a subset of them.
    return argument if _NAMED.match(value) else start + (PureWindowsPath(value).name or value)


def without_folders(text: str, folders: Iterable[Path]) -> str:
    """The text with the paths of files in these folders relative to the folder."""
    for folder in folders:
        for prefix in (str(folder.absolute()), str(folder)):
            text = text.replace(prefix + os.sep, "")
    return text
