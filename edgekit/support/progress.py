"""What a user sees while a command runs, on stderr, and when it fails.

Progress is bars on a terminal, plain lines in a pipe, and nothing when quiet; errors that cost one bundle are shown
between. Tracebacks are for users who ask with `--traceback`, and those of bugs in edgekit for its developers.
"""

import gc
import inspect
import os
import sys
import threading
import time
import traceback
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol, TypeVar

from edgekit import errors
from edgekit.errors import DeviceError, EdgekitError, costs_a_row, printable
from edgekit.support import child_process
from edgekit.support.child_process import check, interruptible
from edgekit.support.libraries import import_needed, needs


@dataclass(frozen=True)
class Explanation:
    """The meaning of an error, from the docstring of its class."""

    name: str
    """Name of the class, such as "BundleError"."""
    summary: str
    """Meaning of the error, in one sentence."""
    cause: str
    """Usual causes."""
    cure: str
    """Ways to fix it; empty where the fix of the message says them."""
    exit_code: int
    """Exit status of a command that ends with the error."""


def explain(name: str) -> Explanation:
    """The explanation of the error with this name, one of `errors.error_names()`."""
    kind = getattr(errors, name)
    summary, _, rest = inspect.cleandoc(kind.__doc__).partition("Cause: ")
    cause, _, cure = rest.partition("Cure: ")
    return Explanation(name, _line(summary), _line(cause), _line(cure), kind.exit_code)


def lines_of(error: EdgekitError) -> Iterator[str]:
    """An error as the command line prints it, one field per line."""
    yield f"edgekit: error: {error.problem}"
    for label, text in (("valid", error.valid), ("fix", error.fix)):
        if text:
            yield f"  {label + ':':<6} {text}"


def _line(paragraph: str) -> str:
    return " ".join(paragraph.split())


TRACEBACK_OPTION = "--traceback"
PLEASE_REPORT = (
    "this is a bug in edgekit, not in your input. A report needs the command, the lines above, what `edgekit doctor` "
    "prints, and library-output.log from the run folder's .edgekit if there is one."
)
PACKAGE = Path(__file__).resolve().parent.parent
_wanted = False


@contextmanager
def tracebacks_shown(wanted: bool) -> Iterator[None]:
    """If `wanted`, show the traceback of every error that is reported inside the block."""
    global _wanted
    before, _wanted = _wanted, wanted
    try:
        yield
    finally:
        _wanted = before


def tracebacks_wanted() -> bool:
    """Whether tracebacks are to be shown."""
    return _wanted


class BugElsewhere(Exception):
    """A bug in edgekit that ended another process, which sent its `kind_of`, `summary_of` and `text_of`."""

    def __init__(self, kind: str, summary: str, traceback: str) -> None:
        super().__init__(summary)
        self.kind = kind
        self.add_note(f"In the other process: {traceback}")


def kind_of(bug: Exception) -> str:
    """Name of the class of a bug's exception."""
    return bug.kind if isinstance(bug, BugElsewhere) else type(bug).__name__


def summary_of(bug: Exception) -> str:
    """One line about a bug: the exception, and the last line of edgekit's code that it came through."""
    if isinstance(bug, BugElsewhere):
        return str(bug)
    words = traceback.format_exception_only(bug)[-1].strip().splitlines()[0]
    own = [frame for frame in traceback.extract_tb(bug.__traceback__) if Path(frame.filename).is_relative_to(PACKAGE)]
    return f"{words} (edgekit/{Path(own[-1].filename).relative_to(PACKAGE)}:{own[-1].lineno})" if own else words


def text_of(error: BaseException) -> str:
    """The traceback of an error and of its causes."""
    return "".join(traceback.format_exception(error)).rstrip()


LONG_S = 60
"""Expected time of a stage, in seconds, from which its remaining time is shown."""
LOADING = "Loading PyTorch and the compilers"


@contextmanager
def loading(reporter: "Reporter") -> Iterator[None]:
    """For imports of torch and the compilers, which take seconds: say so first. A missing package is a
    MissingExtraError."""
    if "torch" in sys.modules:
        with needs("build"):
            yield
        return
    with reporter.loading(LOADING), needs("build"):
        yield
    gc.freeze()  # so that Python never looks for garbage among all that these imports made


class Step(Protocol):
    """Reports progress of a stage, or of a part of it that counts as 1."""

    def __call__(self, amount: float = 1) -> None: ...


def no_step(amount: float = 1) -> None:
    """Report nothing."""


def part_of(step: Step, share: float) -> Step:
    """The step of a part that counts as `share` in `step`."""

    def advance(amount: float = 1) -> None:
        step(amount * share)

    return advance


def parts_of(step: Step, shares: Sequence[float]) -> list[Step]:
    """The steps of all parts of what counts as 1 in `step`, each with its share of the whole."""
    return [part_of(step, share / sum(shares)) for share in shares]


class Reporter:
    """Reports progress: `say` prints a line, `stage` shows counted work, `warn` prints a warning."""

    def __init__(self, quiet: bool = False) -> None:
        # Devices don't have rich; a subclass forwards messages to the host.
        console = import_needed("rich.console", "cli")
        self.quiet = quiet
        # A separate descriptor, because `quiet` silences the process's streams while libraries work.
        own = os.fdopen(os.dup(2), "w", encoding="utf-8", errors="replace", closefd=True)
        self.console = console.Console(file=own, soft_wrap=True, highlight=False)
        weakref.finalize(self, own.close)
        self._lock = threading.RLock()
        self._progress: Any = None
        self._shown = 0

    def say(self, message: str) -> None:
        if not self.quiet:
            self.prompt(message)

    def prompt(self, message: str) -> None:
        """Print a line even when quiet, such as what the user has to do."""
        self.console.print(printable(message), markup=False, emoji=False)

    def warn(self, message: str, error: Exception | None = None) -> None:
        """Print a warning even when quiet.

        The traceback of `error`, its cause, goes to the `library_log`, whose path the warning adds. With `--traceback`,
        it is printed too.
        """
        if error is None:
            self.prompt(f"warning: {message}")
            return
        child_process.note(message, text_of(error))
        file = child_process.current()
        self.prompt(f"warning: {message}" + (f" (library output: {file})" if file else ""))
        if tracebacks_wanted():
            self.prompt(text_of(error))

    def failed(self, what: str, error: Exception) -> None:
        """Report an error that costs a row: as a warning, or as a bug if edgekit doesn't raise it on purpose.

        Raises KeyboardInterrupt if a signal was recorded, because a library may have turned that into the error.
        """
        check()
        if isinstance(error, EdgekitError):
            self.warn(f"{what}: {error}", error)
        else:
            self.bug(what, error)

    def bug(self, what: str, error: Exception) -> None:
        """Print the traceback of a bug in edgekit, even when quiet, and write it to the `library_log`."""
        text = text_of(error)
        child_process.note(f"{what}: bug in edgekit", text)
        self.prompt(f"{text}\n{what}: {PLEASE_REPORT}")

    @contextmanager
    def stage(self, title: str, total: int | None = None) -> Iterator[Step]:
        """Yields the step to call after each of `total` pieces of work. Without a total, only the time is shown.

        A stage may end with fewer steps, whose number is then shown.
        Steps should be even in time: on a terminal, the remaining time of a stage that takes long follows from them.
        """
        child_process.note(title)
        show = self._bar if self.console.is_terminal and not self.quiet else self._line
        with show(title, total) as step, interruptible():
            yield step

    @contextmanager
    def loading(self, title: str) -> Iterator[None]:
        """Show immediately that the block has started: with a running clock on a terminal, as a line elsewhere."""
        if self.console.is_terminal and not self.quiet:
            with self.stage(title):
                yield
        else:
            self.say(f"{title} ...")
            yield

    @contextmanager
    def _line(self, title: str, total: int | None) -> Iterator[Step]:
        start, done = time.monotonic(), 0.0

        def count(amount: float = 1) -> None:
            nonlocal done
            with self._lock:
                done += amount

        yield count
        self.say(_line_of(title, None if total is None else done, start))

    @contextmanager
    def _bar(self, title: str, total: int | None) -> Iterator[Step]:
        """Show a bar. Stages that several threads open at the same time share one display."""
        start = time.monotonic()
        with self._lock:
            if self._progress is None:
                self._progress = _display(self.console)
                self._progress.start()
            progress, self._shown = self._progress, self._shown + 1
        task = progress.add_task(title, total=total, counted=total is not None)

        def advance(amount: float = 1) -> None:
            progress.advance(task, amount)

        try:
            yield advance
            if total is None:
                progress.update(task, total=1, completed=1)
            with self._lock:
                if self._shown > 1:  # the last bar stays on the screen
                    (bar,) = (bar for bar in progress.tasks if bar.id == task)
                    self.prompt(_line_of(title, None if total is None else bar.completed, start))
        finally:
            with self._lock:
                self._shown -= 1
                if self._shown:
                    progress.remove_task(task)
                else:
                    progress.stop()
                    self._progress = None


def _line_of(title: str, done: float | None, start: float) -> str:
    return f"{title}: {'' if done is None else f'{done:.0f} in '}{time.monotonic() - start:.1f} s"


def _display(console: Any) -> Any:
    from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeElapsedColumn
    from rich.text import Text

    class Count(ProgressColumn):
        def render(self, task: Task) -> Text:
            done = int(round(task.completed, 6))  # whole steps, of which several parts may have been reported
            return Text(f"{done}/{task.total:.0f}" if task.fields["counted"] and task.total else "")

    class Remaining(ProgressColumn):
        max_refresh = 1.0

        def render(self, task: Task) -> Text:
            left = task.time_remaining
            is_long = left is not None and (task.elapsed or 0) + left >= LONG_S
            return Text(f"{timedelta(seconds=round(left or 0))} left" if is_long and not task.finished else "")

    columns = [TextColumn("{task.description}", markup=False), BarColumn(), Count(), TimeElapsedColumn(), Remaining()]
    # rich must not redirect the streams, because it would then show libraries' output even when they are silenced.
    return Progress(*columns, console=console, redirect_stdout=False, redirect_stderr=False, speed_estimate_period=600)


T = TypeVar("T")


def each_bundle(
    names: Iterable[str], work: Callable[[str], T], reporter: Reporter, what: str = ""
) -> tuple[dict[str, T], dict[str, Exception]]:
    """Results of the work by the bundle's name, and the errors of the other bundles, which are reported.

    A bug in edgekit costs its own bundle, too. Errors that concern the whole command or device are raised. `what` names
    the work in messages.
    """
    results: dict[str, T] = {}
    errors: dict[str, Exception] = {}
    for name in names:
        try:
            results[name] = work(name)
        except Exception as error:
            if not costs_a_row(error) or isinstance(error, DeviceError):
                raise
            reporter.failed(f"{name}: {what}" if what else name, error)
            errors[name] = error
    return results, errors
