"""What host and agent send each other: one job, then one JSON line per message until `Ended`."""

import json
from dataclasses import dataclass

from msgspec import Struct, convert, to_builtins

from edgekit.measure.inspect_bundle import BundleInspection, ModelInspection
from edgekit.measure.settings import Settings
from edgekit.report.row import Measurement


@dataclass(frozen=True, kw_only=True)
class SentImages:
    """The evaluation images in the device's store, and torch's answers for them."""

    pixels: str
    """SHA-256 of a .npy file, uint8 [N,H,W,3]."""
    labels: tuple[int, ...]
    best: tuple[int, ...]
    hit1: tuple[bool, ...]
    hit5: tuple[bool, ...]
    files: tuple[str, ...]
    """SHA-256 of a few encoded files, for end-to-end times."""


@dataclass(frozen=True, kw_only=True)
class AgentJob:
    """What the agent is to do. With images it measures a report's rows, without them those of `edgekit benchmark`."""

    name: str
    """Name of the device."""
    device_class: str | None
    cache: str
    """Folder that edgekit has on the device."""
    bundles: dict[str, dict[str, str]]
    """SHA-256 in the store of each file, by the bundle's name and the file's."""
    settings: Settings
    images: SentImages | None = None
    inspect: bool = False
    """Whether to inspect the bundles, or the model files where there is no manifest, instead of measuring them."""


class Warned(Struct, frozen=True, tag="warning"):
    """Something that the user should know."""

    text: str


class StageBegan(Struct, frozen=True, tag="stage"):
    """A stage with `total` steps began, and the one before it ended."""

    title: str
    total: int | None


class Stepped(Struct, frozen=True, tag="step"):
    """So many steps of the stage are done."""

    done: int


class Alive(Struct, frozen=True, tag="alive"):
    """The agent lives, whatever the runtime is doing."""


class Measured(Struct, frozen=True, tag="measured"):
    """The measurements, in the order of the job's bundles."""

    rows: tuple[Measurement, ...]


class Inspected(Struct, frozen=True, tag="inspected"):
    """What `edgekit inspect` gives for a bundle, or for a model file."""

    bundle: BundleInspection | None = None
    model: ModelInspection | None = None


class Failed(Struct, frozen=True, tag="failed"):
    """The error that the job ended in."""

    error: str
    """Name of the exception's class."""
    problem: str
    valid: str = ""
    fix: str = ""


class Ended(Struct, frozen=True, tag="end"):
    """The last message: an answer without it is incomplete."""


Message = Warned | StageBegan | Stepped | Alive | Measured | Inspected | Failed | Ended


def encode(message: AgentJob | Message) -> bytes:
    """One line of JSON, in ASCII: a path may hold bytes that are not UTF-8, which only an escape can carry."""
    return json.dumps(to_builtins(message)).encode() + b"\n"


def decode_job(line: bytes) -> AgentJob:
    """The job in a line; ValueError where it holds none."""
    return convert(json.loads(line), AgentJob)


def decode_message(line: bytes) -> Message | None:
    """The message in a line; None where it holds none, as one that was cut or that a library printed."""
    try:
        message: Message = convert(json.loads(line), Message)
    except ValueError:  # not JSON, not UTF-8, or no message
        return None
    return message
