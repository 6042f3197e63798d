"""Requests from the host to `scripts` on a device, and their answers. The scripts read and write plain JSON."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from edgekit.devices.app_state import AppState
from edgekit.devices.messages import Refusal


@dataclass(frozen=True, kw_only=True)
class StoreRequest:
    """Asks `scripts.store` which files are missing, or lets it receive them."""

    cache: str
    """Path of edgekit's folder on the device."""
    files: Mapping[str, int]
    """Size in bytes of each file, by its SHA-256."""
    receive: bool = False
    """Whether the files follow on stdin, in this order."""
    offsets: Mapping[str, int] = field(default_factory=dict)
    """Number of bytes at the beginning of a file that are there already and don't follow, by its SHA-256."""


@dataclass(frozen=True)
class StoreAnswer:
    """The state of the store."""

    missing: tuple[str, ...]
    """SHA-256 of the files that are not in the store or, after receiving, arrived damaged."""
    removable: int
    """Size in bytes of the other files that may be removed."""
    partial: Mapping[str, int]
    """Number of bytes of a missing file that an interrupted copy left, by its SHA-256."""


@dataclass(frozen=True, kw_only=True)
class EnvironmentRequest:
    """Asks `scripts.environment` for a virtual environment, which it creates if necessary."""

    cache: str
    """Path of edgekit's folder on the device."""
    key: str
    """Name of the environment, a hash of its contents."""
    requirements: tuple[str, ...]
    """Requirements that pip installs in addition to edgekit's wheel."""
    wheels: Mapping[str, str]
    """SHA-256 of each wheel in the store, by its file name."""
    offline: bool
    """Whether the wheels are all that the environment needs, and are unpacked without pip."""
    unused: tuple[str, ...]
    """Glob patterns, relative to site-packages, of files to remove."""


@dataclass(frozen=True)
class EnvironmentAnswer:
    """The environment that was asked for."""

    python: str
    """Path of its Python."""
    made: bool
    """Whether this request created it."""


@dataclass(frozen=True, kw_only=True)
class CleanRequest:
    """Asks `scripts.environment` to delete edgekit's folder."""

    cache: str
    """Path of edgekit's folder on the device."""
    clean: Literal[True] = True
    """Mark of this kind of request."""


@dataclass(frozen=True)
class CleanAnswer:
    """The result of cleaning."""

    removed: bool
    """Whether the folder existed."""


@dataclass(frozen=True)
class AppsRequest:
    """Asks `scripts.apps` for the apps on a device."""

    apps: tuple[str, ...] = ()
    """Names of the apps; empty for all."""


@dataclass(frozen=True)
class AppsAnswer:
    """The apps on a device."""

    folder: str
    """Folder of the apps."""
    disk_free_bytes: int
    """Free disk space there."""
    trust: str | None
    """PEM text of the public key with which the device's bundles are signed; null if it takes unsigned ones."""
    apps: tuple[AppState, ...]
    """The apps that exist."""


@dataclass(frozen=True, kw_only=True)
class RollbackRequest:
    """Asks `scripts.apps` to make a bundle in a slot active."""

    roll_back: str
    """Name of the app."""
    expected: str | None
    """Hash of the bundle that is active now; None for none."""
    target: str
    """Hash of the bundle to return to."""
    trust: str | None
    """PEM text of the public key that the host trusts."""


@dataclass(frozen=True)
class RollbackAnswer:
    """The result of a rollback."""

    app: AppState
    """The app afterwards."""
    refusal: Refusal | None
    """Reason why the app keeps the bundle that it had; null if the wanted one is active."""


ScriptRequest = AppsRequest | RollbackRequest | StoreRequest | EnvironmentRequest | CleanRequest
