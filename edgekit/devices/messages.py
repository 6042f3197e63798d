"""The protocol between host and agent: one job, then messages as JSON lines until `Ended`."""

import json
from dataclasses import dataclass

from msgspec import Struct, convert, to_builtins

from edgekit.devices.app_state import AppState, Trial
from edgekit.errors import all_printable
from edgekit.measure.inspect_bundle import BundleInspection, ModelInspection
from edgekit.measure.settings import Timing
from edgekit.report.measurement import Measurement


@dataclass(frozen=True, kw_only=True)
class SentImages:
    """The evaluation images in the device's store, and torch's predictions for them."""

    pixels: str
    """SHA-256 of a .npy file, uint8 [N,H,W,3]."""
    labels: tuple[int, ...]
    """Index of the right class of each image."""
    best: tuple[int, ...]
    """Index of torch's first class for each image."""
    hit1: tuple[bool, ...]
    """Whether torch's first class is right, for each image."""
    hit5: tuple[bool, ...]
    """Whether torch's first five classes contain the right one, for each image."""
    files: tuple[str, ...]
    """SHA-256 of a few encoded image files, for end-to-end times."""
    names: tuple[str, ...] = ()
    """Names of the images."""
    logits: str | None = None
    """SHA-256 of a .npy file with torch's logits for the first images, float32 [M,classes]."""


@dataclass(frozen=True, kw_only=True)
class SlotJob:
    """A push of the job's bundle to an app."""

    folder: str
    """Path of the app's folder on the device."""
    sha256: str
    """Hash of the bundle's manifest."""
    expected: str | None
    """Hash of the bundle that was active when the push began; None for none. The push replaces no other one."""
    max_p99_ms: float | None = None
    """Largest p99 that is accepted, in milliseconds; None to accept any."""
    bound: str = ""
    """Origin of this bound, for messages."""
    trust: str | None = None
    """PEM text of the public key that the host trusts. A device without a key keeps it once a bundle has passed."""


@dataclass(frozen=True, kw_only=True)
class AgentJob:
    """The agent's job: measure the rows of a report or, without images, those of `edgekit benchmark`."""

    name: str
    """Name of the device."""
    device_class: str | None
    """Name of its device class."""
    cache: str
    """Path of edgekit's folder on the device."""
    bundles: dict[str, dict[str, str]]
    """SHA-256 of each file in the store, by the name of its bundle and its own name."""
    timing: Timing
    """Settings of the measurement."""
    images: SentImages | None = None
    """Images to evaluate on."""
    inspect: bool = False
    """Whether to inspect the bundles (or model files, without a manifest) instead of measuring them."""
    slot: SlotJob | None = None
    """Push to an app, instead of measuring."""


class Warned(Struct, frozen=True, tag="warning"):
    """A warning for the user."""

    text: str
    """Text of the warning."""


class Said(Struct, frozen=True, tag="said"):
    """A line about the work, which ends the stage before it."""

    text: str
    """Text of the line."""


class Bug(Struct, frozen=True, tag="bug"):
    """A bug in edgekit, which cost one row."""

    what: str
    """Work that failed."""
    kind: str
    """Name of the exception's class."""
    summary: str
    """The exception and where it was raised, in one line."""
    traceback: str
    """Traceback of the exception."""


class StageBegan(Struct, frozen=True, tag="stage"):
    """A new stage began, which ends the one before it."""

    title: str
    """Title of the stage."""
    total: int | None
    """Number of its steps, or None if it isn't counted."""


class Stepped(Struct, frozen=True, tag="step"):
    """The stage made progress."""

    done: float
    """Number of steps done so far, of which the last one may have been done in part."""


class Alive(Struct, frozen=True, tag="alive"):
    """A sign of life, which the agent sends whatever the runtime is doing."""

    cpu_s: float
    """Time that the agent's process has spent on processors so far. A deadlocked runtime adds nothing to it."""


class Measured(Struct, frozen=True, tag="measured"):
    """The result of a measurement."""

    rows: tuple[Measurement, ...]
    """Measurements in the order of the job's bundles."""


class Inspected(Struct, frozen=True, tag="inspected"):
    """The result of an inspection."""

    bundle: BundleInspection | None = None
    """Inspection of a bundle."""
    model: ModelInspection | None = None
    """Inspection of a model file."""


class Refusal(Struct, frozen=True):
    """The reason why a bundle was not made active: the fields of an error."""

    error: str
    """Name of the error's class."""
    problem: str
    """`problem` of the error."""
    valid: str
    """`valid` of the error."""
    fix: str
    """`fix` of the error."""


class Slotted(Struct, frozen=True, tag="slotted"):
    """The result of a push."""

    app: AppState
    """The app afterwards."""
    trial: Trial | None = None
    """Trial of the bundle, as far as it came to its end."""
    refusal: Refusal | None = None
    """Reason why the app keeps the bundle that it had; None if the wanted one is active."""


class Failed(Struct, frozen=True, tag="failed"):
    """The error that ended the job."""

    error: str
    """Name of the exception's class."""
    problem: str
    """`problem` of the error."""
    valid: str = ""
    """`valid` of the error."""
    fix: str = ""
    """`fix` of the error."""
    traceback: str = ""
    """Traceback, if the error is a bug in edgekit, of which `problem` is the summary."""


class Ended(Struct, frozen=True, tag="end"):
    """The last message, without which an answer is incomplete."""


Message = Warned | Said | Bug | StageBegan | Stepped | Alive | Measured | Inspected | Slotted | Failed | Ended


def encode(message: AgentJob | Message) -> bytes:
    """Encode one line of JSON in ASCII. Paths may contain bytes that aren't UTF-8, which only escapes can express."""
    return json.dumps(to_builtins(message)).encode() + b"\n"


def decode_job(line: bytes) -> AgentJob:
    """Decode a job; ValueError if the line isn't one."""
    return convert(json.loads(line), AgentJob)


def decode_message(line: str | bytes) -> Message | None:
    """Decode a message and make its texts printable.

    Returns None if the line is no message, because it was cut off or a library printed it.
    """
    try:
        message: Message = convert(all_printable(json.loads(line)), Message)
    except ValueError:  # not JSON, not UTF-8, or not a message
        return None
    return message
