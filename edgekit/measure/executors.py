"""What runs the pieces of an evaluation, each a `concurrent.futures.Executor`: this process, others, Dask, or parts.

The parts are files that other commands wrote, on any machines; their executor looks results up. `map` yields results
in the order of the pieces, and raises the error of a piece. A worker process that dies costs only its piece, which
another one gets.

Dask sends work as pickles, which run code when they are read, so every process of the cluster must belong to the user.
A scheduler is as safe as its network, or as the certificates in the user's Dask configuration. Files of parts are JSON.
"""

import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager, suppress
from multiprocessing.connection import Connection
from pathlib import Path
from threading import Thread
from typing import Any, TypeVar

from edgekit.errors import EngineError, UsageError
from edgekit.measure.parts import JoinedParts
from edgekit.support.child_process import child_environment
from edgekit.support.libraries import first_line, import_needed, quiet

T = TypeVar("T")

SPAWN = multiprocessing.get_context("spawn")

DEATHS = 3
"""Workers in a row that a piece may kill before it fails."""
CONNECT_S = 10


class ThisProcess(Executor):
    """Runs each piece in this process when its result is asked for."""

    def map(self, fn: Callable[..., T], *iterables: Iterable[Any], **_: Any) -> Iterator[T]:
        return map(fn, *iterables)


class Processes(ThreadPoolExecutor):
    """Worker processes of this machine, for each of which a thread waits.

    A process that dies is replaced. EngineError is raised for a piece that kills `DEATHS` processes.
    """

    def __init__(self, count: int) -> None:
        super().__init__(count)
        self._parent, self._open = SPAWN.Pipe(duplex=False)
        self._idle: deque[ProcessPoolExecutor] = deque()

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        return super().submit(self._run, fn, *args, **kwargs)

    def _run(self, work: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        deaths = 0
        while deaths < DEATHS:
            worker = self._idle.pop() if self._idle else ProcessPoolExecutor(1, SPAWN, _end_with, (self._parent,))
            try:
                future = worker.submit(work, *args, **kwargs)
            except BrokenProcessPool:  # it died while it had nothing to do
                continue
            except OSError as error:
                raise UsageError(
                    f"--workers: a process could not be started: {first_line(error)}", fix="Use fewer --workers"
                ) from error
            if self._open.closed or not isinstance(future.exception(), BrokenProcessPool):
                self._idle.append(worker)
                return future.result()
            deaths += 1
        raise EngineError(f"a piece of the evaluation killed {DEATHS} workers in a row")

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = True) -> None:
        """End the processes, also those that work, and drop what they haven't finished."""
        super().shutdown(wait=False, cancel_futures=cancel_futures)
        self._open.close()
        super().shutdown(wait)


def _end_with(parent: Connection) -> None:
    """Leave Ctrl-C to the parent of this worker process, and end when its end of the pipe closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch() -> None:
        with suppress(EOFError, OSError):
            parent.recv()
        os._exit(1)

    Thread(target=watch, daemon=True).start()


class DaskWorkers(Executor):
    """The workers of a Dask scheduler. If one dies, another one gets its piece, and Dask waits until there is one."""

    def __init__(self, client: Any) -> None:
        self._executor = client.get_executor(pure=False)

    def map(self, fn: Callable[..., T], *iterables: Iterable[Any], **_: Any) -> Iterator[T]:
        distributed = import_needed("distributed", "scale")
        try:
            yield from self._executor.map(fn, *iterables)
        except distributed.KilledWorker as error:
            problem = f"a piece of the evaluation killed several workers in a row: {first_line(error)}"
            raise EngineError(problem) from error


@contextmanager
def executor_of(workers: int | None, scheduler: str | None, join: Path | None = None) -> Iterator[Executor]:
    """Open an executor: this process, worker processes, the workers of a Dask scheduler, or the parts in a folder.

    Raises UsageError if no scheduler with workers answers at the address, or if the parts aren't complete, and
    MissingExtraError without Dask.
    """
    stated = {"--workers": workers, "--scheduler": scheduler, "--join": join}
    if len(several := [name for name, value in stated.items() if value is not None]) > 1:
        raise UsageError(
            f"{' and '.join(several)} were given together",
            fix="Use --workers to start processes here, --scheduler for those of Dask, or --join for stored parts",
        )
    with ExitStack() as stack:
        if join is not None:
            yield JoinedParts(join)
        elif workers is not None:
            stack.enter_context(quiet())
            stack.enter_context(child_environment())
            yield stack.enter_context(Processes(workers))
        elif scheduler is not None:
            distributed = import_needed("distributed", "scale")
            stack.enter_context(quiet())
            try:
                client = stack.enter_context(distributed.Client(scheduler, timeout=CONNECT_S))
                client.wait_for_workers(1, timeout=CONNECT_S)
            except (OSError, ValueError, RuntimeError) as error:
                raise UsageError(
                    f"--scheduler: no Dask scheduler with workers answers at '{scheduler}': {first_line(error)}",
                    fix="Start one with `dask scheduler`, and workers with `dask worker ADDRESS`",
                ) from error
            yield DaskWorkers(client)
        else:
            yield ThisProcess()
