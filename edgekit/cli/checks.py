"""Checks of a command's input that need no torch, so that a mistake shows at once and nothing is written."""

import os
import re
import shlex
from pathlib import Path

from edgekit.errors import OutputError, UsageError

# A host name or address, and a port; Dask takes tcp:// for granted.
_SCHEDULER = re.compile(r"(?:(?:tcp|tls|ucx|ws|wss)://)?(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_.-]+):[0-9]{1,5}")


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


def check_soup_output(path: Path) -> None:
    """Raise OutputError unless a .safetensors file can be written there."""
    place = next(folder for folder in path.absolute().parents if folder.exists())
    if path.suffix.lower() == ".safetensors" and not path.is_dir() and place.is_dir():
        return
    raise OutputError(
        f"the soup can't be written to '{path}'",
        valid="the path of a .safetensors file in a folder",
        fix="Correct --output",
    )


def check_scheduler(address: str | None) -> None:
    """Raise UsageError unless this looks like the address of a Dask scheduler."""
    if address is not None and not _SCHEDULER.fullmatch(address):
        raise UsageError(
            f"--scheduler is '{address}'",
            valid="the address of a Dask scheduler, such as tcp://HOST:8786",
            fix="Start one with `dask scheduler`, which prints its address",
        )
