"""Find and compare releases. The SDK depends only on numpy, Pillow and a runtime, so it can't use `packaging`."""

import importlib.metadata
import platform
import re
from collections.abc import Iterable
from functools import cache

from edgekit.support.sources import code_sha256


def release(version: str, parts: int = 5) -> tuple[int, ...]:
    """The first `parts` numbers of a version, padded with zeros: (3, 13) of "3.13.5rc1" for 2 parts.

    Pre-releases count as the release that they lead to. The tuple is empty if the version doesn't start with a number.
    """
    numbers = re.match(r"\d+(\.\d+)*", version)
    if numbers is None:
        return ()
    release = [int(part) for part in numbers.group().split(".")]
    return tuple((release + [0] * parts)[:parts])


@cache
def installed_version(distribution: str) -> str | None:
    """The installed version of a distribution, or None. It stays the same while the process runs."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def versions_of(distributions: Iterable[str], rooms: tuple[str, ...]) -> dict[str, str]:
    """Versions of Python and the distributions that are installed, and the hash of edgekit's code in `rooms`."""
    installed = {name: version for name in distributions if (version := installed_version(name)) is not None}
    return {"edgekit-sources": code_sha256(rooms), "python": platform.python_version(), **installed}
