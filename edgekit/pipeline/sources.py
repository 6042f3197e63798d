"""The Python code that shapes a bundle, as a hash: a bundle is made again when this code has changed."""

import hashlib
import inspect
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from torch import nn

ROOMS = ("compat", "compiler", "config", "images", "models", "pipeline", "runtime")
"""Folders of the package whose code decides what is in a bundle. The others run, measure or report."""
PACKAGED = ("edgekit", "open_clip", "timm", "torch", "torchvision")
"""Packages whose versions, or rooms, stand in a fingerprint already."""


@cache
def edgekit_sha256() -> str:
    """SHA-256 of edgekit's own code that shapes a bundle, read once in a process."""
    return sources_sha256(Path(__file__).resolve().parent.parent)


def sources_sha256(package: Path) -> str:
    """SHA-256 of the Python files in the rooms of a package, by their paths inside it: where it lies doesn't matter."""
    return _sha256((file, file.relative_to(package)) for room in ROOMS for file in (package / room).rglob("*.py"))


def module_sha256(module: nn.Module) -> str:
    """SHA-256 of the Python files that define the classes of a network's modules, those of `PACKAGED` left out.

    A network's representation and weights tell nothing of its `forward`. A class without a file counts for nothing.
    """
    files = set()
    for kind in {type(each) for each in module.modules()}:
        if kind.__module__.partition(".")[0] not in PACKAGED:
            try:
                files.add(Path(inspect.getfile(kind)))
            except (OSError, TypeError):  # made in a shell, or by C
                continue
    return _sha256((file, Path(file.name)) for file in files)


def _sha256(files: Iterable[tuple[Path, Path]]) -> str:
    """SHA-256 of files under the names that are given with them, in the order of those names and contents."""
    entries = sorted((name.as_posix(), hashlib.sha256(file.read_bytes()).hexdigest()) for file, name in files)
    return hashlib.sha256("".join(f"{name} {digest}\n" for name, digest in entries).encode()).hexdigest()
