"""The jobs of the agent on a device and their answers, and what devices say about apps.

An app on a device has two slots for bundles, of which one is active; `scripts.apps` tells and changes them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from msgspec import Struct, ValidationError, convert

from edgekit.config.runtimes import Precision
from edgekit.measure.settings import Timing
from edgekit.support.worker import SentError


@dataclass(frozen=True, kw_only=True)
class DeviceTrial:
    """The trial of a bundle on a device, in a process that runs nothing else."""

    engine: str
    """Distribution of the runtime, with its version, such as "ai-edge-litert 2.3.0"."""
    python: str
    """Version of Python."""
    threads: int
    """Number of threads that the runtime computed with."""
    max_abs_difference: float
    """Largest absolute difference of a logit of the test vectors from the bundle's."""
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
    trial: DeviceTrial
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


Files = Mapping[str, str]
"""SHA-256 of each file of a bundle in the device's store, by its name."""


@dataclass(frozen=True, kw_only=True)
class SentImages:
    """The evaluation images in the device's store, and torch's answers for them."""

    pixels: str
    """SHA-256 of a .npy file, uint8 [N,H,W,3]."""
    reference: str
    """SHA-256 of a .npz file with the labels, torch's answers and its outputs for the first images."""
    files: tuple[str, ...]
    """SHA-256 of a few encoded image files, for end-to-end times."""
    names: tuple[str, ...] = ()
    """Names of the images."""
    task: str = "single-label"
    """Name of the task."""
    thresholds: tuple[float, ...] = ()
    """Its thresholds."""


class DeviceJob(Struct, frozen=True, kw_only=True):
    """What all jobs of the agent state."""

    name: str
    """Name of the device."""
    device_class: str | None
    """Name of its device class."""
    cache: str
    """Path of edgekit's folder on the device."""
    timing: Timing
    """Settings of the measurement."""


class MeasureJob(DeviceJob, frozen=True, kw_only=True, tag="measure"):
    """Measure the rows of a report or, without images, those of `edgekit benchmark`.

    The answer has the bundles' order.
    """

    bundles: Mapping[str, Files]
    """Files of each bundle, by its name."""
    images: SentImages | None = None
    """Images to evaluate on."""


class InspectJob(DeviceJob, frozen=True, kw_only=True, tag="inspect"):
    """Inspect a bundle, or a model file with its companions. The answer is the inspection."""

    path: str
    """Path of the bundle or model file on the host."""
    files: Files
    """Its files, of which the first is the model file unless there is a manifest."""


class PushJob(DeviceJob, frozen=True, kw_only=True, tag="push"):
    """Try a bundle, and make it the active one of an app. The answer is `Slotted`."""

    bundle: str
    """Name of the bundle."""
    files: Files
    """Its files."""
    sha256: str
    """Hash of the bundle's manifest."""
    folder: str
    """Path of the app's folder on the device."""
    expected: str | None
    """Hash of the bundle that was active when the push began; None for none. The push replaces no other one."""
    max_p99_ms: float | None = None
    """Largest p99 that is accepted, in milliseconds; None to accept any."""
    bound: str = ""
    """Origin of this bound, for messages."""
    trust: str | None = None
    """PEM text of the public key that the host trusts. A device without a key keeps it once a bundle has passed."""


AgentJob = MeasureJob | InspectJob | PushJob


@dataclass(frozen=True)
class Slotted:
    """The result of a push or of a rollback."""

    app: AppState
    """The app afterwards."""
    trial: DeviceTrial | None = None
    """Trial of the bundle, as far as it came to its end; none for a rollback."""
    refusal: SentError | None = None
    """Reason why the app keeps the bundle that it had; None if the wanted one is active."""
