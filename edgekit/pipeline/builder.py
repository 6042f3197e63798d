"""Builders, which make the bundles of a job: in one process, in several at once, or each bundle in a new process."""

import ctypes
import gc
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from itertools import product
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

import torch

from edgekit.config import sizes
from edgekit.config.precisions import PRECISIONS, Precision
from edgekit.errors import CompileError
from edgekit.pipeline.build import reused_bundle
from edgekit.pipeline.build_process import BuildProcess, Wanted
from edgekit.pipeline.graphs import JobGraphs
from edgekit.pipeline.parked_job import ParkedJob
from edgekit.pipeline.plan import available_memory
from edgekit.pipeline.request import BuildSpec
from edgekit.pipeline.side_by_side import SideBySideBuilder, SingleProcessBuilder
from edgekit.runtime.bundle import Bundle
from edgekit.support.progress import Reporter, each_bundle
from edgekit.support.run_folder import RunFolder

GIVE_BACK = {"MALLOC_MMAP_THRESHOLD_": str(8 << 20)}
"""Makes glibc return freed weights of up to 32 MB, which it seldom does: convnextv2_huge has 54 of that size."""


def _give_back_memory() -> None:
    """Return what this process has freed to the system. glibc keeps blocks of up to 32 MB: 1.2 GB of coca_2b."""
    if sys.platform == "linux":
        with suppress(AttributeError):  # another C library
            ctypes.CDLL(None).malloc_trim(0)


class Builder(Protocol):
    """Makes the bundles of one job."""

    @property
    def spec(self) -> BuildSpec:
        """What the bundles are built from."""
        ...

    def graphs(self, reporter: Reporter) -> JobGraphs:
        """The graphs of the job."""
        ...

    def begin(self, wanted: Sequence[Wanted], reporter: Reporter, meanwhile: Callable[[], object]) -> None:
        """Learn which bundles `build` will be asked for, and of other work, for which there may be time before that."""
        ...

    def build(self, wanted: Wanted, reporter: Reporter) -> Bundle:
        """Build a bundle."""
        ...


class SeparateBuilder:
    """Builds each bundle of a parked job in a new process, so that its memory is free for the next one."""

    def __init__(self, parked: ParkedJob) -> None:
        self._parked = parked

    @property
    def spec(self) -> BuildSpec:
        """What the bundles are built from, with mapped weights."""
        return self._parked.spec

    def graphs(self, reporter: Reporter) -> JobGraphs:
        """The graphs of the job. The other processes export the network themselves."""
        gc.collect()  # the network in memory: once its owner has dropped it, only its traced graph refers to it
        _give_back_memory()
        return self._parked.graphs(reporter)

    def begin(self, wanted: Sequence[Wanted], reporter: Reporter, meanwhile: Callable[[], object]) -> None:
        """Do nothing."""

    def build(self, wanted: Wanted, reporter: Reporter) -> Bundle:
        """Build a bundle in another process. Raises the errors of that process, or CompileError if it is killed."""
        with closing(BuildProcess(self._parked.file, GIVE_BACK)) as process:
            return process.build(wanted, reporter)


@contextmanager
def builder_of(spec: BuildSpec, run: RunFolder, peak_bytes: int | None = None) -> Iterator[Builder]:
    """The builder for the size of a network. Inside the block, large ones are in mapped files in the run folder.

    A process that builds a bundle needs `peak_bytes`; if that is None, no others run beside this one. A factory's code
    can't be pickled, so its networks stay in this process. Raises OutputError if the disk is full.
    """
    params, others = spec.network.params, other_processes(peak_bytes)
    large = params >= sizes.BUILT_APART_FROM
    if spec.network.source == "factory" or not (large or (others and params >= sizes.BUILT_SIDE_BY_SIDE_FROM)):
        yield SingleProcessBuilder(spec)
        return
    with run.workspace("weights") as folder:
        parked = ParkedJob.write(spec, folder)
        if not large:
            yield SideBySideBuilder(spec, parked, others)
            return
        del spec  # frees its weights now instead of at the end of the block
        yield SeparateBuilder(parked)


def other_processes(peak_bytes: int | None) -> int:
    """How many processes can build bundles in addition to this one, as torch's threads and the memory allow."""
    return max(0, min(torch.get_num_threads(), available_memory() // peak_bytes) - 1) if peak_bytes else 0


def build_all(
    builder: Builder,
    targets: tuple[str, ...],
    folder: Path,
    reporter: Reporter,
    refused: Mapping[str, str] = MappingProxyType({}),
    precisions: tuple[Precision, ...] = PRECISIONS,
    meanwhile: Callable[[], object] = lambda: None,
) -> dict[str, Bundle | Exception]:
    """Bundles by name in the report's order, or the error of one that failed. Bundles in `refused` are skipped.

    `meanwhile` may be called while the last bundles are built in other processes.
    """
    graphs = builder.graphs(reporter)
    wanted = {
        f"{target}-{precision}": Wanted(target, precision, folder / f"{target}-{precision}")
        for target, precision in product(targets, precisions)
    }
    reused = {
        name: bundle
        for name, each in wanted.items()
        if name not in refused
        and (bundle := reused_bundle(each.path, graphs.inputs(each.target, each.precision), reporter))
    }

    def build(name: str) -> Bundle:
        if name in refused:
            raise CompileError(f"skipped: {refused[name]}", fix="Use `--force` to try anyway")
        return reused.get(name) or builder.build(wanted[name], reporter)

    builder.begin([each for name, each in wanted.items() if name not in {*refused, *reused}], reporter, meanwhile)
    built, errors = each_bundle(wanted, build, reporter)
    return {name: built[name] if name in built else errors[name] for name in wanted}
