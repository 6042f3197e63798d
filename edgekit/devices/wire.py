"""Progress of another process: a `Wire` there sends it over stdout, and a `ShownProgress` here shows it."""

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from edgekit.devices.messages import Alive, Bug, Message, Said, StageBegan, Stepped, Warned, encode
from edgekit.support.error_text import BugElsewhere, kind_of, summary_of, text_of
from edgekit.support.progress import Reporter, Step, no_step

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
        self._stage: Any = None
        self._step: Step = no_step
        self._done = 0.0

    def __enter__(self) -> "ShownProgress":
        return self

    def __exit__(self, *error: object) -> None:
        self._close(*error)

    def show(self, message: Message) -> None:
        """Open a stage, advance it, or print a line."""
        if isinstance(message, Warned):
            self._reporter.warn(f"{self._prefix}{message.text}")
        elif isinstance(message, Bug):
            bug = BugElsewhere(message.kind, message.summary, message.traceback)
            self._reporter.bug(f"{self._prefix}{message.what}", bug)
        elif isinstance(message, StageBegan):
            self._close(None, None, None)
            self._stage = self._reporter.stage(f"{self._prefix}{message.title}", message.total)
            self._step, self._done = self._stage.__enter__(), 0.0
        elif isinstance(message, Stepped):
            self._step(message.done - self._done)
            self._done = message.done
        elif isinstance(message, Said):
            self._close(None, None, None)
            self._reporter.say(f"{self._prefix}{message.text}")

    def _close(self, *error: Any) -> None:
        if self._stage is not None:
            stage, self._stage = self._stage, None
            stage.__exit__(*error)
