"""Progress on stderr: bars on a terminal, plain lines when piped, nothing when quiet."""

import os
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

Step = Callable[[], None]


class Reporter:
    """Says what goes on. `say` for a line, `stage` for counted work."""

    def __init__(self, quiet: bool = False) -> None:
        self.quiet = quiet
        # Its own descriptor: libraries are kept off the process's streams while they work.
        own = os.fdopen(os.dup(2), "w", encoding="utf-8", closefd=True)
        self.console = Console(file=own, quiet=quiet, soft_wrap=True, highlight=False)
        weakref.finalize(self, own.close)

    def say(self, message: str) -> None:
        self.console.print(message, markup=False)

    def warn(self, message: str) -> None:
        """A warning is printed even when quiet."""
        self.console.file.write(f"warning: {message}\n")
        self.console.file.flush()

    @contextmanager
    def stage(self, title: str, total: int | None = None) -> Iterator[Step]:
        """Yields a function to call after each of `total` pieces of work; without a total it only shows time."""
        if self.quiet or not self.console.is_terminal:
            start = time.monotonic()
            yield lambda: None
            self.say(f"{title}: {'' if total is None else f'{total} in '}{time.monotonic() - start:.1f} s")
            return
        columns = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()]
        with Progress(*columns, console=self.console) as progress:
            task = progress.add_task(title, total=total)
            yield lambda: progress.advance(task)
            if total is None:
                progress.update(task, total=1, completed=1)
