"""Makes the bundles of a job: in one process, in several at once, or each bundle in a new process."""

import ctypes
import gc
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from itertools import product
from pathlib import Path
from queue import SimpleQueue
from types import MappingProxyType

import torch

from edgekit.compiler.execution.threads import threads
from edgekit.config import sizes
from edgekit.config.choices import PRECISIONS, Precision
from edgekit.errors import CompileError, ParityError
from edgekit.pipeline.build import compile_graph, reused_bundle
from edgekit.pipeline.build_process import BuildProcess, Wanted, graphs_of, write_spec
from edgekit.pipeline.graphs import JobGraphs
from edgekit.pipeline.plan import available_memory
from edgekit.pipeline.request import BuildSpec
from edgekit.runtime.bundle import Bundle
from edgekit.support.libraries import threads_sleep
from edgekit.support.progress import Reporter, each_bundle
from edgekit.support.run_folder import RunFolder

GIVE_BACK = {"MALLOC_MMAP_THRESHOLD_": str(8 << 20)}
"""Makes glibc return freed weights of up to 32 MB, which it seldom does: convnextv2_huge has 54 of that size."""
ONE_THREAD = {"OMP_NUM_THREADS": "1"}
"""If each of two processes has a thread for every core, the threads wait for each other at every operation."""


class Builder:
    """Makes the bundles of one job, in this process and in `others`, which read the job from the file `parked`.

    With `parked` and no `others`, each bundle is built in a new process, so that its memory is free for the next one.
    """

    def __init__(self, graphs: JobGraphs, parked: Path | None = None, others: int = 0) -> None:
        self._graphs, self._parked, self._others = graphs, parked, others
        self._reporter = graphs.reporter
        self._pool: ThreadPoolExecutor | None = None
        self._processes: list[BuildProcess] = []
        self._idle: SimpleQueue[BuildProcess] = SimpleQueue()

    @property
    def spec(self) -> BuildSpec:
        """What the bundles are built from; the weights of a large network are mapped."""
        return self._graphs.spec

    @property
    def graphs(self) -> JobGraphs:
        """The graphs of the job. Those that are built here share them; processes for one bundle have their own."""
        if self._parked and not self._others:
            gc.collect()  # the network in memory: once its owner has dropped it, only its traced graph refers to it
            _give_back_memory()
        return self._graphs

    def build(
        self,
        targets: Sequence[str],
        folder: Path,
        precisions: Sequence[Precision] = PRECISIONS,
        refused: Mapping[str, str] = MappingProxyType({}),
    ) -> dict[str, Bundle | Exception]:
        """Bundles by name in the report's order, or the error of one that failed.

        Bundles in `refused` are skipped for the reason there.
        """
        wanted = {
            f"{target}-{precision}": Wanted(target, precision, folder / f"{target}-{precision}")
            for target, precision in product(targets, precisions)
        }
        graphs, labels = self.graphs, self.spec.network.labels
        reused = {
            name: bundle
            for name, each in wanted.items()
            if name not in refused
            and (bundle := reused_bundle(each.path, graphs.inputs(each.target, each.precision), labels, self._reporter))
        }
        futures = self._shared_out([each for name, each in wanted.items() if name not in {*refused, *reused}])

        def build(name: str) -> Bundle:
            if name in refused:
                raise CompileError(f"skipped: {refused[name]}", fix="Use `--force` to try anyway")
            if name in futures:
                return futures[name].result()
            return reused.get(name) or self._build(wanted[name])

        alone_last = sorted(wanted, key=lambda name: name not in futures)
        built, errors = each_bundle(alone_last, build, self._reporter)
        self.close()
        return {name: built[name] if name in built else errors[name] for name in wanted}

    def close(self) -> None:
        """End the other processes, even in the middle of their work."""
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
            for process in self._processes:
                process.kill()
            self._pool.shutdown()
        for process in self._processes:
            process.close()
        self._processes.clear()

    def _build(self, wanted: Wanted) -> Bundle:
        """Build a bundle here, or that of a large network in a new process."""
        if self._parked and not self._others:
            with closing(BuildProcess(self._parked, GIVE_BACK)) as process:
                return process.build(wanted, self._reporter)
        to_compile = self._graphs.graph_to_compile(wanted.target, wanted.precision)
        return compile_graph(to_compile, wanted.path, self._reporter)

    def _shared_out(self, wanted: Sequence[Wanted]) -> dict[str, "Future[Bundle]"]:
        """Let other processes convert the float graphs while this one calibrates, then share the remaining bundles.

        LiteRT's take the longest, so the last runtime in the table comes first, and its INT8 bundle is left to another
        process. Bundles that are calibrated alone are left out, because a calibration uses every core.
        """
        others = min(self._others, len(wanted) - 1)
        if others < 1 or self._parked is None:
            return {}
        for _ in range(others):
            process = BuildProcess(self._parked, ONE_THREAD)
            self._processes.append(process)
            self._idle.put(process)
        try:
            _ = self._graphs.simplified  # importing the compilers takes the other processes as long
        except ParityError:
            self.close()
            return {}  # so that each bundle raises it
        self._pool = ThreadPoolExecutor(others)
        futures = {}
        for each in sorted(reversed(wanted), key=lambda each: each.precision == "int8"):
            if each.precision == "float" or self._shares_calibration(each.target, others):
                futures[each.path.name] = self._pool.submit(self._build_elsewhere, each), each
        for name, (future, each) in reversed(futures.items()):
            if future.cancel():
                futures[name] = _done(self._build, each), each
        return {name: future for name, (future, _) in futures.items()}

    def _build_elsewhere(self, wanted: Wanted) -> Bundle:
        process = self._idle.get()
        try:
            return process.build(wanted, self._reporter)
        finally:
            self._idle.put(process)

    def _shares_calibration(self, target: str, others: int) -> bool:
        """Whether an INT8 bundle shares its calibration, which exists afterwards, while `others` do other work.

        False if the calibration fails, so that building the bundle raises the error.
        """
        left = max(1, torch.get_num_threads() - others)
        with suppress(Exception), threads(torch.get_num_threads() if threads_sleep() else left):
            return self._graphs.shares_calibration(target)
        return False


def _done(build: Callable[[Wanted], Bundle], wanted: Wanted) -> "Future[Bundle]":
    """The bundle or its error, as a future that is done."""
    future: Future[Bundle] = Future()
    try:
        future.set_result(build(wanted))
    except Exception as error:
        future.set_exception(error)
    return future


@contextmanager
def builder_of(spec: BuildSpec, run: RunFolder, reporter: Reporter, peak_bytes: int | None = None) -> Iterator[Builder]:
    """The builder for the size of a network. Inside the block, large ones are in mapped files in the run folder.

    A process that builds a bundle needs `peak_bytes`; if that is None, no others run beside this one. A network
    that isn't portable, or images in memory, stay in this process. Raises OutputError if the disk is full.
    """
    params, others = spec.network.params, other_processes(peak_bytes)
    large = params >= sizes.BUILT_APART_FROM
    several = large or (others and params >= sizes.BUILT_SIDE_BY_SIDE_FROM)
    if not several or spec.calibration_dataset.is_in_memory or not spec.network.is_portable:
        yield Builder(JobGraphs(spec, reporter))
        return
    with run.workspace("weights") as folder:
        parked = write_spec(spec, folder)
        if large:
            del spec  # frees its weights now instead of at the end of the block
            builder = Builder(graphs_of(parked, reporter), parked)
        else:
            builder = Builder(JobGraphs(spec, reporter, shared=folder), parked, others)
        with closing(builder):
            yield builder


def other_processes(peak_bytes: int | None) -> int:
    """How many processes can build bundles in addition to this one, as torch's threads and the memory allow."""
    return max(0, min(torch.get_num_threads(), available_memory() // peak_bytes) - 1) if peak_bytes else 0


def _give_back_memory() -> None:
    """Return what this process has freed to the system. glibc keeps blocks of up to 32 MB: 1.2 GB of coca_2b."""
    if sys.platform == "linux":
        with suppress(AttributeError):  # another C library
            ctypes.CDLL(None).malloc_trim(0)
