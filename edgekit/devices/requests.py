"""What the host asks of `scripts` on a device, and what they answer. There it is plain JSON: they have Python alone."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class StoreRequest:
    """Asks `scripts.store` which files are missing; with `receive`, the files follow on stdin in this order."""

    cache: str
    files: Mapping[str, int]
    """The size in bytes of each file, by its SHA-256."""
    receive: bool = False


@dataclass(frozen=True)
class StoreAnswer:
    """The files that are not in the store, and the bytes that others take which may be removed."""

    missing: tuple[str, ...]
    removable: int


@dataclass(frozen=True, kw_only=True)
class EnvironmentRequest:
    """Asks `scripts.environment` for a virtual environment, made unless it is there."""

    cache: str
    key: str
    """The name of the environment, which is a hash of what goes in."""
    requirements: tuple[str, ...]
    """What pip installs besides the wheels."""
    wheels: Mapping[str, str]
    """The SHA-256 of each wheel in the store, by its file name."""
    offline: bool
    unused: tuple[str, ...]
    """Glob patterns, relative to site-packages, of files to remove."""


@dataclass(frozen=True)
class EnvironmentAnswer:
    """The path of the environment's Python, and whether the environment was made now."""

    python: str
    made: bool


@dataclass(frozen=True, kw_only=True)
class CleanRequest:
    """Asks `scripts.environment` to remove the cache folder."""

    cache: str
    clean: Literal[True] = True


@dataclass(frozen=True)
class CleanAnswer:
    """Whether there was a cache folder."""

    removed: bool


ScriptRequest = StoreRequest | EnvironmentRequest | CleanRequest
