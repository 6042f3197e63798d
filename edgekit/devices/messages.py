"""Messages between a process and the agent, or another process, that it starts; and what they say about apps.

The process sends one job, and reads messages as JSON lines until `Ended`. A `Wire` there sends the progress, and a
`ShownProgress` here shows it. An app on a device has two slots for bundles, of which one is active; `scripts.apps`
tells and changes them.
"""

import json
import os
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal, Self

from msgspec import Struct, ValidationError, convert, to_builtins

from edgekit.config.runtimes import Precision
from edgekit.errors import EdgekitError, all_printable, rebuild
from edgekit.measure.inspect_bundle import BundleInspection, ModelInspection
from edgekit.measure.settings import Timing
from edgekit.report.row import Measurement
from edgekit.support.progress import BugElsewhere, Reporter, Step, kind_of, no_step, summary_of, text_of


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
    """Measure the rows of a report or, without images, those of `edgekit benchmark`. The answer is `Measured`."""

    bundles: Mapping[str, Files]
    """Files of each bundle, by its name."""
    images: SentImages | None = None
    """Images to evaluate on."""


class InspectJob(DeviceJob, frozen=True, kw_only=True, tag="inspect"):
    """Inspect a bundle, or a model file with its companions. The answer is `Inspected`."""

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


class Slotted(Struct, frozen=True, tag="slotted"):
    """The result of a push or of a rollback."""

    app: AppState
    """The app afterwards."""
    trial: DeviceTrial | None = None
    """Trial of the bundle, as far as it came to its end; none for a rollback."""
    refusal: Refusal | None = None
    """Reason why the app keeps the bundle that it had; None if the wanted one is active."""


class Failed(Refusal, frozen=True, tag="failed"):
    """The error that ended the job."""

    traceback: str = ""
    """Traceback, if the error is a bug in edgekit, of which `problem` is the summary."""


class Ended(Struct, frozen=True, tag="end"):
    """The last message, without which an answer is incomplete."""


Answer = Measured | Inspected | Slotted
Message = Warned | Said | Bug | StageBegan | Stepped | Alive | Answer | Failed | Ended


def encode(message: AgentJob | Message) -> bytes:
    """Encode one line of JSON in ASCII. Paths may contain bytes that aren't UTF-8, which only escapes can express."""
    return json.dumps(to_builtins(message)).encode() + b"\n"


def decode_job(line: bytes) -> AgentJob:
    """Decode a job; ValueError if the line isn't one."""
    job: AgentJob = convert(json.loads(line), AgentJob)
    return job


def decode_message(line: str | bytes) -> Message | None:
    """Decode a message and make its texts printable.

    Returns None if the line is no message, because it was cut off or a library printed it.
    """
    try:
        message: Message = convert(all_printable(json.loads(line)), Message)
    except (ValueError, RecursionError):  # not JSON, not UTF-8, nested too deeply, or not a message
        return None
    return message


BEAT_S = 5
"""Time between two messages that show that the agent is alive."""
STEP_S = 0.5
"""Shortest time between two progress messages."""


class Wire(Reporter):
    """Sends messages, including progress, to the process that started this one."""

    def __init__(self) -> None:
        self.quiet = False
        self._sending = threading.Lock()
        # The runtimes print to descriptor 1, so that goes to stderr, and this copy of it is for messages to the host.
        self._out = os.fdopen(os.dup(1), "wb")
        os.dup2(2, 1)

    def send(self, message: Message) -> None:
        """Send one line. If the pipe is closed at the other end, the process exits."""
        try:
            with self._sending:
                self._out.write(encode(message))
                self._out.flush()
        except BrokenPipeError:
            os._exit(1)

    def say(self, message: str) -> None:
        self.send(Said(message))

    def warn(self, message: str, error: Exception | None = None) -> None:
        self.send(Warned(message))

    def bug(self, what: str, error: Exception) -> None:
        self.send(Bug(what, kind_of(error), summary_of(error), text_of(error)))

    @contextmanager
    def stage(self, title: str, total: int | None = None) -> Iterator[Step]:
        self.send(StageBegan(title, total))
        done, last = 0.0, time.monotonic()

        def step(amount: float = 1) -> None:
            nonlocal done, last
            done += amount
            if time.monotonic() - last > STEP_S:
                last = time.monotonic()
                self.send(Stepped(done))

        yield step
        self.send(Stepped(done))

    def beat(self) -> None:
        """Send a regular sign of life, whatever the runtime is doing, with the time that it has computed."""
        while True:
            time.sleep(BEAT_S)
            self.send(Alive(time.process_time()))


class ShownProgress:
    """Shows the stages and warnings of another process with this one's reporter, each after `prefix`."""

    def __init__(self, reporter: Reporter, prefix: str = "") -> None:
        self._reporter, self._prefix = reporter, prefix
        self._stage = ExitStack()
        self._step: Step = no_step
        self._done = 0.0

    def __enter__(self) -> "ShownProgress":
        return self

    def __exit__(self, *error: Any) -> None:
        self._stage.__exit__(*error)

    def show(self, message: Message) -> None:
        """Open a stage, advance it, or print a line."""
        if isinstance(message, Warned):
            self._reporter.warn(f"{self._prefix}{message.text}")
        elif isinstance(message, Bug):
            bug = BugElsewhere(message.kind, message.summary, message.traceback)
            self._reporter.bug(f"{self._prefix}{message.what}", bug)
        elif isinstance(message, StageBegan):
            self._stage.close()
            self._step = self._stage.enter_context(
                self._reporter.stage(f"{self._prefix}{message.title}", message.total)
            )
            self._done = 0.0
        elif isinstance(message, Stepped):
            self._step(message.done - self._done)
            self._done = message.done
        elif isinstance(message, Said):
            self._stage.close()
            self._reporter.say(f"{self._prefix}{message.text}")
