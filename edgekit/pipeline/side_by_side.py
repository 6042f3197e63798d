"""Builders for networks that fit in memory: in this process alone, or in several side by side."""

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from threading import Semaphore

import torch

from edgekit.compiler.constant_store import MEMORY
from edgekit.compiler.execution.threads import threads
from edgekit.errors import ParityError
from edgekit.pipeline.build import compile_graph
from edgekit.pipeline.build_process import BuildProcess, Wanted
from edgekit.pipeline.graphs import JobGraphs
from edgekit.pipeline.parked_job import ParkedJob
from edgekit.pipeline.request import BuildSpec
from edgekit.runtime.bundle import Bundle
from edgekit.support.libraries import threads_sleep
from edgekit.support.progress import Reporter

ONE_THREAD = {"OMP_NUM_THREADS": "1"}
"""If each of two processes has a thread for every core, the threads wait for each other at every operation."""


class SingleProcessBuilder:
    """Builds bundles in this process."""

    def __init__(self, spec: BuildSpec) -> None:
        self.spec = spec
        self._graphs: JobGraphs | None = None
        self._shared: Path | None = None

    def graphs(self, reporter: Reporter) -> JobGraphs:
        """The graphs of the job, in memory. They are the same each time, so that one calibration serves all."""
        if self._graphs is None:
            self._graphs = JobGraphs(self.spec, reporter, MEMORY, self._shared)
        return self._graphs

    def begin(self, wanted: Sequence[Wanted], reporter: Reporter, meanwhile: Callable[[], object]) -> None:
        """Do nothing."""

    def build(self, wanted: Wanted, reporter: Reporter) -> Bundle:
        """Build a bundle from a graph of `graphs`."""
        to_compile = self.graphs(reporter).graph_to_compile(wanted.target, wanted.precision)
        return compile_graph(to_compile, wanted.path, reporter)


class SideBySideBuilder(SingleProcessBuilder):
    """Builds bundles in this process and in `others`: they convert the float graphs while this one calibrates.

    A bundle that is calibrated alone is built in this one, because its calibration uses every core.
    """

    def __init__(self, spec: BuildSpec, parked: ParkedJob, others: int) -> None:
        super().__init__(spec)
        self._shared, self._parked, self._others = parked.file.parent, parked, others
        self._built: dict[Path, Bundle | Exception] = {}

    def begin(self, wanted: Sequence[Wanted], reporter: Reporter, meanwhile: Callable[[], object]) -> None:
        """Build all bundles but those that are calibrated alone, and keep them or their errors for `build`.

        LiteRT's take the longest, so the last runtime in the table comes first, and its INT8 bundle is left to another
        process. `meanwhile` is called here when only others have bundles to build.
        """
        if len(wanted) < 2:
            return
        others = [BuildProcess(self._parked.file, ONE_THREAD) for _ in range(min(self._others, len(wanted) - 1))]
        with ExitStack() as started:
            for other in others:
                started.callback(other.close)
                other.start()  # importing the compilers takes as long as to export and compare the graph
            try:
                self.graphs(reporter).exported()
            except ParityError:
                return  # `build` raises it for each bundle
            started.pop_all()
        self._share(wanted, others, reporter, meanwhile)

    def _share(
        self,
        wanted: Sequence[Wanted],
        others: Sequence[BuildProcess],
        reporter: Reporter,
        meanwhile: Callable[[], object],
    ) -> None:
        """Build the bundles here and in `others`, which end when there is nothing left to build."""
        todo = _Todo()
        ordered = sorted(reversed(wanted), key=lambda each: each.precision == "int8")
        with ThreadPoolExecutor(len(others)) as pool:
            try:
                working = [pool.submit(self._work, other, todo, reporter) for other in others]
                for each in ordered:
                    if each.precision == "float" or self._is_shared(each, reporter, len(others)):
                        todo.put(each)
                while mine := todo.last():
                    self._keep(mine, super().build, reporter)
                with suppress(Exception):  # the caller does this work again later, and gets the error then
                    meanwhile()
                todo.end(len(others))
                wait(working)  # here rather than at the end of the pool, so that Ctrl-C ends the processes
            except BaseException:
                todo.clear()
                todo.end(len(others))
                for other in others:
                    other.kill()  # what builds in it gets an error, then closes it
                raise

    def build(self, wanted: Wanted, reporter: Reporter) -> Bundle:
        """The bundle that `begin` has built, or one that is built now. Raises the error of one that failed."""
        built = self._built.pop(wanted.path, None)
        if isinstance(built, Exception):
            raise built
        return built or super().build(wanted, reporter)

    def _is_shared(self, wanted: Wanted, reporter: Reporter, others: int) -> bool:
        """Whether a bundle shares its calibration, which exists afterwards, while as many processes do other work."""
        graphs = self.graphs(reporter)
        try:
            left = max(1, torch.get_num_threads() - others)
            with threads(torch.get_num_threads() if threads_sleep() else left):
                return graphs.shares_calibration(wanted.target)
        except Exception as error:
            self._built[wanted.path] = error
            return False

    def _work(self, process: BuildProcess, todo: "_Todo", reporter: Reporter) -> None:
        """Let a process build bundles until None follows."""
        with closing(process):
            while (wanted := todo.first()) is not None:
                self._keep(wanted, process.build, reporter)

    def _keep(self, wanted: Wanted, build: Callable[[Wanted, Reporter], Bundle], reporter: Reporter) -> None:
        """Build a bundle, and keep it or its error for `build`."""
        try:
            self._built[wanted.path] = build(wanted, reporter)
        except Exception as error:
            self._built[wanted.path] = error


class _Todo:
    """Bundles to build. Other processes take the first one, and this process the last."""

    def __init__(self) -> None:
        self._wanted: deque[Wanted | None] = deque()
        self._number = Semaphore(0)

    def put(self, wanted: Wanted | None) -> None:
        """Add a bundle, or None, which ends the work of another process."""
        self._wanted.append(wanted)
        self._number.release()

    def end(self, processes: int) -> None:
        """End the work of this many other processes when nothing is left."""
        for _ in range(processes):
            self.put(None)

    def clear(self) -> None:
        """Leave nothing to do."""
        while self._number.acquire(blocking=False):
            self._wanted.pop()

    def first(self) -> Wanted | None:
        """Wait for a bundle or None."""
        self._number.acquire()
        return self._wanted.popleft()

    def last(self) -> Wanted | None:
        """A bundle; None if there is none now."""
        return self._wanted.pop() if self._number.acquire(blocking=False) else None
