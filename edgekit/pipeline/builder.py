"""Builders, which make the bundles of a job: in this process, or each in a separate one."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

from edgekit.config import sizes
from edgekit.config.precisions import PRECISIONS, Precision
from edgekit.errors import CompileError
from edgekit.pipeline.build import compile_graph, reused_bundle
from edgekit.pipeline.graphs import JobGraphs
from edgekit.pipeline.job import Job
from edgekit.pipeline.parked_job import ParkedJob
from edgekit.runtime.bundle import Bundle
from edgekit.support.each_bundle import each_bundle
from edgekit.support.progress import Reporter
from edgekit.support.run_folder import RunFolder


class Builder(Protocol):
    """Makes the bundles of one job."""

    @property
    def job(self) -> Job:
        """The job."""
        ...

    def graphs(self, reporter: Reporter) -> JobGraphs:
        """The graphs of the job."""
        ...

    def build(self, graphs: JobGraphs, target: str, precision: Precision, path: Path, reporter: Reporter) -> Bundle:
        """Build the bundle at `path`. A builder in this process makes its graph with `graphs`."""
        ...


class SingleProcessBuilder:
    """Builds bundles in this process."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self._graphs: JobGraphs | None = None

    def graphs(self, reporter: Reporter) -> JobGraphs:
        """The graphs of the job, in memory. They are the same each time, so that one calibration serves all."""
        if self._graphs is None:
            self._graphs = JobGraphs(self.job, reporter)
        return self._graphs

    def build(self, graphs: JobGraphs, target: str, precision: Precision, path: Path, reporter: Reporter) -> Bundle:
        """Build the bundle at `path` from a graph of `graphs`."""
        return compile_graph(graphs.graph_to_compile(target, precision), path, reporter)


@contextmanager
def builder_of(job: Job, run: RunFolder) -> Iterator[Builder]:
    """The builder for the size of a network. Inside the block, large ones are in mapped files in the run folder.

    A factory's code can't be pickled, so its networks stay in this process. Raises OutputError if the disk is full.
    """
    if job.network.params < sizes.BUILT_APART_FROM or job.network.source == "factory":
        yield SingleProcessBuilder(job)
        return
    with run.workspace("weights") as folder:
        parked = ParkedJob.write(job, folder)
        del job  # frees its weights now instead of at the end of the block
        yield parked


def build_all(
    builder: Builder,
    targets: tuple[str, ...],
    folder: Path,
    reporter: Reporter,
    refused: Mapping[str, str] = MappingProxyType({}),
    precisions: tuple[Precision, ...] = PRECISIONS,
) -> dict[str, Bundle | Exception]:
    """Bundles by name in the report's order, or the error of one that failed. Bundles in `refused` are skipped."""
    graphs = builder.graphs(reporter)
    pairs = {f"{target}-{precision}": (target, precision) for target, precision in product(targets, precisions)}

    def build(name: str) -> Bundle:
        if name in refused:
            raise CompileError(f"skipped: {refused[name]}", fix="Use `--force` to try anyway")
        path, (target, precision) = folder / name, pairs[name]
        reused = reused_bundle(path, graphs.inputs(target, precision), reporter)
        return reused or builder.build(graphs, target, precision, path, reporter)

    built, errors = each_bundle(pairs, build, reporter)
    return {name: built[name] if name in built else errors[name] for name in pairs}
