"""The protocol between a process and the agent, or another process, that it starts.

It sends one job, and reads messages as JSON lines until `Ended`. A `Wire` there sends the progress, and a
`ShownProgress` here shows it.
"""

import json
import os
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from msgspec import Struct, convert, to_builtins

from edgekit.devices.app_state import AppState, Refusal, Trial
from edgekit.errors import all_printable
from edgekit.measure.inspect_bundle import BundleInspection, ModelInspection
from edgekit.measure.settings import Timing
from edgekit.report.measurement import Measurement
from edgekit.support.error_text import BugElsewhere, kind_of, summary_of, text_of
from edgekit.support.progress import Reporter, Step, no_step

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
    trial: Trial | None = None
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
