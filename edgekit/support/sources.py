"""Hashes edgekit's own code, so that stored results are made again when the code that made them changes."""

import hashlib
from collections.abc import Iterable
from functools import cache
from pathlib import Path


@cache
def code_sha256(rooms: tuple[str, ...]) -> str:
    """SHA-256 of edgekit's own code in these rooms. A process reads each room once."""
    return sources_sha256(Path(__file__).resolve().parent.parent, rooms)


def sources_sha256(package: Path, rooms: Iterable[str]) -> str:
    """SHA-256 of the Python files in a package's rooms. It depends on their paths inside the package only."""
    files = [file for room in rooms for file in (package / room).rglob("*.py")]
    hashes = {file.relative_to(package).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
    return hashlib.sha256("".join(f"{name} {digest}\n" for name, digest in sorted(hashes.items())).encode()).hexdigest()
