"""The bundles of an app on a device: two slots, of which one is active. `scripts.apps` tells and changes them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

from msgspec import Struct, ValidationError, convert

from edgekit.config.choices import Precision
from edgekit.errors import EdgekitError, rebuild


@dataclass(frozen=True, kw_only=True)
class Trial:
    """The trial of a bundle on a device, in a process that runs nothing else."""

    engine: str
    """Distribution of the runtime, with its version, such as "ai-edge-litert 2.3.0"."""
    python: str
    """Version of Python."""
    threads: int
    """Number of threads that the runtime computed with."""
    max_abs_difference: float
    """Largest absolute difference of a logit of the golden samples from the bundle's."""
    tolerance: float
    """Largest difference that is allowed."""
    p50_ms: float
    """Median latency in milliseconds."""
    p99_ms: float
    """99th percentile of the latency in milliseconds."""
    emulated: bool | None = None
    """Whether QEMU emulates the processor, so that the latency can't be compared; null if that is unknown."""


@dataclass(frozen=True, kw_only=True)
class SlotRecord:
    """A bundle that passed its trial. `edgekit push` writes it next to the slot."""

    bundle: str
    """Name of the folder that was pushed."""
    sha256: str
    """Hash of the bundle's manifest, which has the hash of every file."""
    model: str | None
    """Name of the model, if the manifest has it."""
    target: str
    """Runtime that the bundle was compiled for: "openvino", "onnx" or "tflite"."""
    precision: Precision
    """Whether the model was quantized."""
    device_class: str
    """Device class that the bundle was made for."""
    oldest_engine: str
    """Oldest version of the runtime that loads the bundle."""
    files: Mapping[str, str]
    """SHA-256 of each file, by its name."""
    sizes: Mapping[str, int]
    """Size of each file in bytes, by its name."""
    max_p99_ms: float | None
    """Largest p99 with which the bundle was accepted, in milliseconds; null if it was not judged."""
    trial: Trial
    """Results of the trial."""
    edgekit: str
    """Version of edgekit that pushed it."""
    number: int = 0
    """Number of the push among those of the app."""
    replaces: str | None = None
    """Hash of the bundle that was active before, to which `edgekit rollback` returns; null for none."""
    signed_by: str | None = None
    """Fingerprint of the key that signed it, if the device verified that."""


@dataclass(frozen=True)
class Slot:
    """The bundle in a slot."""

    slot: str
    """Name of the slot, "a" or "b"."""
    sha256: str | None
    """Hash of the bundle's manifest; null if it passed no trial."""
    record: SlotRecord | None
    """Record of the bundle; null if it passed no trial, or another version of edgekit wrote the record."""
    problem: str | None
    """Damage since the trial, or null. Only `edgekit devices status` reads the files; else their sizes are compared."""


@dataclass(frozen=True)
class AppState:
    """An app on a device."""

    name: str
    """Name of the app."""
    path: str
    """Path of the link to the active bundle, which the app loads."""
    trust: str | None
    """Path of the device's copy of the public key with which its bundles are signed; null if it takes unsigned ones.
    Whoever may push can write this file, so an app must have a copy elsewhere."""
    verdict: Literal["pass", "error"] | None
    """`pass`: the active bundle passed its trial, and has no problem. null if no bundle is active."""
    since: str | None
    """Time of the last switch by the device's clock, in UTC; null if no bundle is active."""
    active: Slot | None
    """The active bundle, or null."""
    previous: Slot | None
    """The bundle in the other slot, or null."""
    returns_to: str | None
    """Hash of the bundle to which `edgekit rollback` returns: the one that the last pushed bundle replaced. null if it
    replaced none. After a rollback it is active."""


UNREADABLE = "another version of edgekit wrote the record of its trial"


def readable(document: Any) -> Any:
    """An answer of `scripts.apps` without the records that aren't a `SlotRecord` of this version."""
    if isinstance(document, list):
        return [readable(item) for item in document]
    if not isinstance(document, dict):
        return document
    if {"slot", "record"} <= document.keys():
        try:
            convert(document["record"], SlotRecord | None)
        except ValidationError:
            return {**document, "record": None, "problem": UNREADABLE}
        return document
    document = {name: readable(value) for name, value in document.items()}
    broken = isinstance(document.get("active"), dict) and document["active"].get("problem")
    return {**document, "verdict": "error"} if broken else document


class Refusal(Struct, frozen=True):
    """The fields of an error."""

    error: str
    """Name of the error's class."""
    problem: str
    """`problem` of the error."""
    valid: str = ""
    """`valid` of the error."""
    fix: str = ""
    """`fix` of the error."""

    @classmethod
    def of(cls, error: EdgekitError) -> Self:
        """The fields of this error."""
        return cls(type(error).__name__, error.problem, error.valid, error.fix)

    def rebuilt(self) -> EdgekitError:
        """The error with these fields."""
        return rebuild(self.error, self.problem, self.valid, self.fix)


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
