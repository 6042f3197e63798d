"""Work in another process: it gets a job, forwards its progress, and gives an answer or the fields of an error.

Jobs and messages are lines of JSON. The process that works has a `Wire`, a reporter whose calls are messages. The one
that asks has a `Worker`, which repeats these calls to its own reporter. Between them are the pipes of a child process,
or those of ssh to a program on a device.
"""

import json
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from typing import Any, Literal, Self

from msgspec import Struct, convert, to_builtins

from edgekit.errors import EdgekitError, all_printable, rebuild
from edgekit.support.progress import BugElsewhere, Reporter, Step, kind_of, no_step, summary_of, text_of

BEAT_S = 5
"""Time between two signs of life."""
STEP_S = 0.5
"""Shortest time between two messages about steps."""
LINE_BYTES = 64 << 20
"""Largest line that is read at once, because a device's may have no end; a longer one is no message."""
CALLS = {
    "say": tuple[str],
    "warn": tuple[str],
    "bug": tuple[str, str, str, str],
    "stage": tuple[str, int | None],
    "step": tuple[float],
    "alive": tuple[float],
}
"""Types of the arguments of each call."""


class Call(Struct, frozen=True, tag="call"):
    """A call of a reporter, of the step of its last stage, or a sign of life with the processor time spent so far."""

    name: Literal["say", "warn", "bug", "stage", "step", "alive"]
    """Name of the method."""
    args: tuple[Any, ...]
    """Its arguments. A bug has the fields of a `BugElsewhere`."""

    def __post_init__(self) -> None:
        convert(self.args, CALLS[self.name])


class SentError(Struct, frozen=True):
    """The fields of an error."""

    error: str
    """Name of the error's class."""
    problem: str
    """`problem` of the error, or the summary of a bug in edgekit."""
    valid: str = ""
    """`valid` of the error."""
    fix: str = ""
    """`fix` of the error."""
    traceback: str = ""
    """Traceback of the error."""
    bug: bool = False
    """Whether it is a bug in edgekit."""

    @classmethod
    def of(cls, error: Exception) -> Self:
        """The fields of this error."""
        if isinstance(error, EdgekitError):
            return cls(type(error).__name__, error.problem, error.valid, error.fix, text_of(error))
        return cls(kind_of(error), summary_of(error), traceback=text_of(error), bug=True)

    def rebuilt(self) -> EdgekitError | BugElsewhere:
        """The error with these fields."""
        if self.bug:
            return BugElsewhere(self.error, self.problem, self.traceback)
        error = rebuild(self.error, self.problem, self.valid, self.fix)
        if self.traceback:
            error.add_note(f"In the other process: {self.traceback}")
        return error


class Outcome(Struct, frozen=True, tag="answer"):
    """The last message about a job."""

    value: Any = None
    """The result, as a JSON value."""
    error: SentError | None = None
    """The error that ended the job."""


def encode(message: object) -> bytes:
    """Encode one line of JSON in ASCII. Paths may contain bytes that aren't UTF-8, which only escapes can express."""
    return json.dumps(to_builtins(message)).encode() + b"\n"


def decode(line: bytes) -> Call | Outcome | None:
    """Decode a message and make its texts printable.

    Returns None if the line is no message, because it was cut off or a library printed it.
    """
    try:
        message: Call | Outcome = convert(all_printable(json.loads(line)), Call | Outcome)
    except (ValueError, RecursionError):  # not JSON, not UTF-8, nested too deeply, or not a message
        return None
    return message


class Wire(Reporter):
    """Sends messages, including progress, to the process that asked this one."""

    def __init__(self) -> None:
        self.quiet = False
        self._sending = threading.Lock()
        # The runtimes print to descriptor 1, so that goes to stderr, and this copy of it is for messages.
        self._out = os.fdopen(os.dup(1), "wb")
        os.dup2(2, 1)

    def answer(self, work: Callable[[], object]) -> None:
        """Send the result of some work, or its error."""
        try:
            self._send(Outcome(to_builtins(work())))
        except Exception as error:
            self._send(Outcome(error=SentError.of(error)))

    def say(self, message: str) -> None:
        self._call("say", message)

    def warn(self, message: str, error: Exception | None = None) -> None:
        self._call("warn", message)

    def bug(self, what: str, error: Exception) -> None:
        self._call("bug", what, kind_of(error), summary_of(error), text_of(error))

    @contextmanager
    def stage(self, title: str, total: int | None = None) -> Iterator[Step]:
        self._call("stage", title, total)
        waiting, last = 0.0, time.monotonic()

        def step(amount: float = 1) -> None:
            nonlocal waiting, last
            waiting += amount
            if time.monotonic() - last > STEP_S:
                self._call("step", waiting)
                waiting, last = 0.0, time.monotonic()

        yield step
        self._call("step", waiting)

    def beat(self) -> None:
        """Send a sign of life regularly, whatever this process is doing. A deadlock adds nothing to its time."""
        while True:
            time.sleep(BEAT_S)
            self._call("alive", time.process_time())

    def _call(self, name: str, *args: object) -> None:
        self._send(Call(name, args))  # type: ignore[arg-type]

    def _send(self, message: Call | Outcome) -> None:
        """Send one line. If the pipe is closed at the other end, the process exits."""
        try:
            with self._sending:
                self._out.write(encode(message))
                self._out.flush()
        except BrokenPipeError:
            os._exit(1)


class Worker:
    """A process at the other end of two pipes, which answers one job after the other. `watch` gets each call."""

    def __init__(
        self,
        process: "subprocess.Popen[bytes]",
        prefix: str = "",
        watch: Callable[[Call], None] = lambda call: None,
    ) -> None:
        self.process, self._prefix, self._watch = process, prefix, watch
        assert process.stdout
        self.lines = iter(partial(process.stdout.readline, LINE_BYTES), b"")
        """Lines that the process writes."""

    def ask(self, job: object, reporter: Reporter) -> Outcome | None:
        """Let the process do a job, and show its progress after the prefix. None if it ends without an answer."""
        assert self.process.stdin
        with suppress(OSError, ValueError):  # the exit status tells why
            self.process.stdin.write(encode(job))
            self.process.stdin.flush()
        with ExitStack() as stage:
            show = _Shown(reporter, self._prefix, stage)
            for line in self.lines:
                message = decode(line)
                if isinstance(message, Outcome):
                    return message
                if message is not None:
                    self._watch(message)
                    getattr(show, message.name)(*message.args)
        return None


class _Shown:
    """Repeats the calls of another process with this one's reporter, each after `prefix`."""

    def __init__(self, reporter: Reporter, prefix: str, stage: ExitStack) -> None:
        self._reporter, self._prefix, self._stage = reporter, prefix, stage
        self.step: Step = no_step

    def say(self, message: str) -> None:
        self._stage.close()
        self._reporter.say(f"{self._prefix}{message}")

    def warn(self, message: str) -> None:
        self._reporter.warn(f"{self._prefix}{message}")

    def bug(self, what: str, *fields: str) -> None:
        self._reporter.bug(f"{self._prefix}{what}", BugElsewhere(*fields))

    def stage(self, title: str, total: int | None) -> None:
        self._stage.close()
        self.step = self._stage.enter_context(self._reporter.stage(f"{self._prefix}{title}", total))

    def alive(self, cpu_s: float) -> None:
        pass
