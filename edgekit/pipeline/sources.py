"""Hashes the Python code that affects bundles, so that bundles are rebuilt when this code changes."""

import hashlib
import inspect
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from torch import nn

ROOMS = ("compat", "compiler", "config", "images", "models", "pipeline", "runtime")
"""Folders of the package whose code affects the content of bundles. The others run, measure or report."""
PACKAGED = ("edgekit", "open_clip", "timm", "torch", "torchvision")
"""Packages whose versions or rooms are already part of the fingerprint."""


@cache
def edgekit_sha256() -> str:
    """SHA-256 of edgekit's own code that affects bundles. A process reads it once."""
    return sources_sha256(Path(__file__).resolve().parent.parent)


def sources_sha256(package: Path) -> str:
    """SHA-256 of the Python files in a package's rooms. It depends on their paths inside the package only."""
    return _sha256((file, file.relative_to(package)) for room in ROOMS for file in (package / room).rglob("*.py"))


def module_sha256(module: nn.Module) -> str:
    """SHA-256 of the Python files that define the classes of a network's modules, except those of `PACKAGED`.

    It is needed because a network's representation and weights don't describe its `forward`. Classes without a file are
    ignored.
    """
    files = set()
    for kind in {type(submodule) for submodule in module.modules()}:
        if kind.__module__.partition(".")[0] not in PACKAGED:
            try:
                files.add(Path(inspect.getfile(kind)))
            except (OSError, TypeError):  # the class was defined in an interactive shell or in C
                continue
    return _sha256((file, Path(file.name)) for file in files)


def _sha256(files: Iterable[tuple[Path, Path]]) -> str:
    """SHA-256 of (file, name) pairs, independent of their order."""
    entries = sorted((name.as_posix(), hashlib.sha256(file.read_bytes()).hexdigest()) for file, name in files)
    return hashlib.sha256("".join(f"{name} {digest}\n" for name, digest in entries).encode()).hexdigest()
