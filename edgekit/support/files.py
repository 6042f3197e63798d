"""Files that an interruption leaves whole, texts that name them without their folders, and hashes, also of values."""

import hashlib
import json
import os
import re
import shlex
import shutil
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from functools import cache
from pathlib import Path, PureWindowsPath
from typing import Any

from edgekit.errors import OutputError, printable


def write_json(path: Path, value: Any) -> None:
    """Write a temporary file and rename it to `path`; OutputError if that fails.

    What isn't UTF-8 in a path stays as JSON's escape, with which `json.loads` gives the same path.
    """
    text = json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    with writing(path):
        replace_text(path, text.encode(errors="backslashreplace").decode())


def replace_text(path: Path, text: str) -> None:
    """Write a temporary file in UTF-8 and rename it, so that readers see the old or the new file. Raises OSError."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="replace", newline="")


def append_text(path: Path, text: str) -> None:
    """Append lines in UTF-8 to a file, which may be new, so that readers see it without them or with all of them.

    The lines begin on a new line. Raises OSError.
    """
    path = path.resolve()  # a link stays one
    before = path.read_bytes() if path.exists() else b""
    separator = b"\n" if before and not before.endswith(b"\n") else b""
    with replacing(path) as temporary:
        temporary.write_bytes(before + separator + text.encode(errors="replace"))
        if before:
            shutil.copymode(path, temporary)


def read_regular(path: Path, most_bytes: int) -> bytes:
    """The bytes of a regular file: a pipe or a device might have no end. OSError for anything else or a larger file."""
    status = path.stat()
    if not stat.S_ISREG(status.st_mode) or status.st_size > most_bytes:
        raise OSError(f"not a regular file of at most {most_bytes} bytes")
    return path.read_bytes()


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
def writing(path: Path, option: str = "--output") -> Iterator[None]:
    """Turn errors of the file system into OutputError, which names the option that states the place."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        fix = f"Free some space, or choose another place with {option}"
        raise OutputError(f"can't write '{path}': {reason}", fix=fix) from error


def check_file(option: str, path: Path | None) -> None:
    """Raise OutputError unless a file can be written there. Writes nothing."""
    if path is None:
        return
    try:
        problem, fix = _obstacle(path)
    except OSError as error:
        problem, fix = error.strerror or str(error), "Choose another file"
    if problem:
        raise OutputError(
            f"{option} can't write '{path}': {problem}", valid="the path of a file in an existing folder", fix=fix
        )


def _obstacle(path: Path) -> tuple[str, str]:
    """The problem that prevents a file from being written, and its fix; two empty strings without a problem."""
    folder = path.absolute().parent
    if path.is_dir():
        return "it is a folder", f"Name a file in it, such as {path / 'NAME'}"
    if path.exists() and not path.is_file():
        return "it is not a regular file", "Choose another file"
    if not folder.is_dir():
        return f"the folder '{folder}' does not exist", f"Run: mkdir -p {shlex.quote(str(folder))}"
    if not os.access(folder, os.W_OK | os.X_OK) or (path.exists() and not os.access(path, os.R_OK | os.W_OK)):
        return "you have no permission", "Choose another file, or change the permissions"
    return "", ""


_OPTION = re.compile(r"--[\w-]+=|-\w=?(?=[/\\.~])|[A-Za-z_]\w*=")
"""An option or key in front of its value: `--data=photos`, `-oruns/demo`, `checkpoint=best.pth`."""
_NAMED = re.compile(r"ssh://|[A-Za-z][\w+-]+:(?![/\\])")
"""Start of a value that contains no local path: an address, or a source such as `open_clip:NAME`."""


def shareable_command(arguments: Sequence[str]) -> tuple[str, ...]:
    """The arguments of a command line, each path without its folders."""
    return tuple(printable(_without_folders(argument)) for argument in arguments)


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
            text = text.replace(printable(prefix) + os.sep, "")
    return text


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(*parts: Any) -> str:
    """SHA-256 of values in hexadecimal, used as the key of a stored result that depends on them.

    The order of a mapping's keys makes no difference, and tuples count as lists. Raises TypeError for a value that JSON
    can't represent, because its text could differ between processes.
    """
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


@cache
def code_sha256(rooms: tuple[str, ...]) -> str:
    """SHA-256 of edgekit's own code in these rooms. A process reads each room once."""
    return sources_sha256(Path(__file__).resolve().parent.parent, rooms)


def sources_sha256(package: Path, rooms: Iterable[str]) -> str:
    """SHA-256 of the Python files in a package's rooms. It depends on their paths inside the package only."""
    files = [file for room in rooms for file in (package / room).rglob("*.py")]
    hashes = {file.relative_to(package).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
    return hashlib.sha256("".join(f"{name} {digest}\n" for name, digest in sorted(hashes.items())).encode()).hexdigest()


class Inputs:
    """Base of the frozen dataclasses that declare what a stored result depends on."""

    @property
    def key(self) -> str:
        """SHA-256 over all fields, in hexadecimal.

        Fields may be JSON values, tuples, mappings, dataclasses and msgspec structs of such values. TypeError for
        others, because their text could differ between processes.
        """
        return digest(type(self).__name__, _plain(self))


def _plain(value: Any) -> Any:
    """A value as JSON, with every field of the dataclasses in it."""
    if is_dataclass(value) and not isinstance(value, type):
        return {each.name: _plain(getattr(value, each.name)) for each in fields(value)}
    if hasattr(value, "__struct_fields__"):  # msgspec's, which this room does without
        return {name: _plain(getattr(value, name)) for name in value.__struct_fields__}
    if isinstance(value, Mapping):
        if not all(isinstance(name, str) for name in value):
            raise TypeError(f"the keys of a mapping in the inputs of a stored result must be text: {list(value)[:3]}")
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(each) for each in value]
    return value  # `digest` refuses what JSON can't represent
