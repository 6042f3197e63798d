"""Makes the bundles of a job, in this process or, if the network is large, each bundle in a new process.

`build_apart` starts a process that builds one bundle of the job in a file. The process runs `main`, and answers with
messages on stdout. When its stdin is closed, it exits, so it never outlives its parent. All processes map the weights
from the file instead of copying them: mapped weights stay in the page cache, which the system can reclaim when memory
is short.

The commands `quantize` and `compile` are the two halves of building bundles.
"""

import ctypes
import gc
import json
import os
import signal
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from threading import Thread
from types import MappingProxyType
from typing import Literal

import torch

from edgekit.compiler.execution import keep_to_available_cores
from edgekit.compiler.graph import write_out
from edgekit.config import runtimes
from edgekit.config.runtimes import PRECISIONS, Precision
from edgekit.errors import CompileError, InputError, OutputError
from edgekit.images.selection import write_list
from edgekit.job import Job
from edgekit.measure.fresh_process import cause_of
from edgekit.pipeline.build import build_one, compile_stage, reused_bundle, warn_of_unmatched
from edgekit.pipeline.graphs import JobGraphs
from edgekit.pipeline.loading import load_job
from edgekit.pipeline.request import STAGE, BuildSpec, BundleInputs, load_graph, read_facts, save_facts, save_graph
from edgekit.report.document import REPORT_FILE, load_report
from edgekit.report.row import Failure
from edgekit.runtime.backend import load_backend
from edgekit.runtime.bundle import Bundle, read_bundle
from edgekit.support import child_process
from edgekit.support.child_process import start_python
from edgekit.support.files import writing
from edgekit.support.libraries import quiet
from edgekit.support.progress import Reporter, each_bundle
from edgekit.support.run_folder import STATE, RunFolder, check_output, open_run
from edgekit.support.worker import Wire, Worker

BEGIN = (
    "import sys; from edgekit.support.libraries import import_needed; "
    "import_needed('edgekit.pipeline.builder', 'build').main(sys.argv[1:])"
)
"""Code of the process. `import_needed` captures what libraries print while they are imported."""
GIVE_BACK = {"MALLOC_MMAP_THRESHOLD_": str(8 << 20)}
"""Makes glibc return freed weights of up to 32 MB, which it seldom does: convnextv2_huge has 54 of that size."""


def write_spec(spec: BuildSpec, folder: Path) -> Path:
    """Write what the bundles of a job are built from to a file in this folder. Raises OutputError if the disk is full.

    The folder will also have what the processes share, and the constants of a large network. A metric of the user's
    judges no build, and often can't be pickled.
    """
    path, spec = folder / "job.pt", replace(spec, task=replace(spec.task, metric=None))
    with writing(path), path.open("wb") as file:
        torch.save(spec, file)
        file.flush()
        write_out(file.fileno())
    return path


def graphs_of(path: Path, reporter: Reporter) -> JobGraphs:
    """The graphs of the job in a file that `write_spec` wrote, with mapped weights."""
    spec: BuildSpec = torch.load(path, mmap=True, weights_only=False)  # safe: this same command wrote it
    return JobGraphs(spec, reporter, path.parent)


def build_apart(job: Path, target: str, precision: Precision, path: Path, reporter: Reporter) -> Bundle:
    """Build a bundle of the job in a file at `path`, in a new process; show the progress with `reporter`.

    Raises the errors of the process, or CompileError if it is killed.
    """
    process = start_python(["-c", BEGIN, str(job)], GIVE_BACK)
    try:
        request = {"target": target, "precision": precision, "path": str(path)}
        answer = Worker(process).ask(request, reporter)
        status = process.wait() if answer is None else 0
    finally:
        process.kill()
        process.communicate()
    if answer is not None:
        if answer.error is not None:
            raise answer.error.rebuilt()
        return read_bundle(path)
    if status >= 0:
        raise RuntimeError(f"the process that built '{path.name}' ended with status {status}")
    raise CompileError(
        f"the process that built '{path.name}' was ended by {cause_of(-status)}",
        fix=f"See {STATE}/{child_process.NAME} in the run folder for its last output",
    )


def main(arguments: Sequence[str]) -> None:
    """Build the bundle that `build_apart` asks for."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, too, which ends this process
    gc.freeze()  # what the imports made lasts as long as this process
    keep_to_available_cores()
    wire = Wire()
    request = json.loads(sys.stdin.readline())
    Thread(target=_exit_with_parent, daemon=True).start()

    def build() -> None:
        graphs = graphs_of(Path(arguments[0]), wire)
        build_one(graphs, request["target"], request["precision"], Path(request["path"]))

    wire.answer(build)


def _exit_with_parent() -> None:
    while os.read(0, 1):
        pass
    os._exit(1)


class Builder:
    """Makes the bundles of one job.

    With the job in the file `parked`, each bundle is built in a new process, so that its memory is free for the next.
    """

    def __init__(self, graphs: JobGraphs, parked: Path | None = None) -> None:
        self._graphs, self._parked = graphs, parked

    @property
    def spec(self) -> BuildSpec:
        """What the bundles are built from; the weights of a large network are mapped."""
        return self._graphs.spec

    @property
    def graphs(self) -> JobGraphs:
        """The graphs of the job. Those that are built here share them; processes for one bundle have their own."""
        if self._parked:
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
        wanted = {f"{target}-{precision}": (target, precision) for target, precision in product(targets, precisions)}
        graphs = self.graphs

        def build(name: str) -> Bundle:
            if name in refused:
                raise CompileError(f"skipped: {refused[name]}", fix="Use `--force` to try anyway")
            bundle, path = wanted[name], folder / name
            if self._parked is None:
                return build_one(graphs, *bundle, path)
            reused = reused_bundle(graphs, *bundle, path)
            return reused or build_apart(self._parked, *bundle, path, graphs.reporter)

        built, errors = each_bundle(wanted, build, graphs.reporter)
        return {name: built[name] if name in built else errors[name] for name in wanted}


@contextmanager
def builder_of(spec: BuildSpec, run: RunFolder, reporter: Reporter) -> Iterator[Builder]:
    """The builder for the size of a network. Inside the block, large ones are in mapped files in the run folder.

    A network that isn't portable, or images in memory, stay in this process. Raises OutputError if the disk is full.
    """
    small = spec.network.params < runtimes.BUILT_APART_FROM
    if small or spec.calibration_dataset.is_in_memory or not spec.network.is_portable:
        yield Builder(JobGraphs(spec, reporter))
        return
    with run.workspace("weights") as folder:
        parked = write_spec(spec, folder)
        del spec  # frees its weights now instead of at the end of the block
        yield Builder(graphs_of(parked, reporter), parked)


def _give_back_memory() -> None:
    """Return what this process has freed to the system. glibc keeps blocks of up to 32 MB: 1.2 GB of coca_2b."""
    if sys.platform == "linux":
        with suppress(AttributeError):  # another C library
            ctypes.CDLL(None).malloc_trim(0)


@dataclass(frozen=True, kw_only=True)
class NotMade:
    """A graph or bundle that could not be made."""

    name: str
    """Name of its folder, TARGET-PRECISION."""
    failure: Failure
    """Reason why it could not be made."""


@dataclass(frozen=True, kw_only=True)
class QuantizedGraphs:
    """The document of `edgekit quantize`, which lists the folders that it wrote."""

    schema_version: Literal[1] = 1
    graphs: tuple[str, ...]
    failures: tuple[NotMade, ...] = ()


@dataclass(frozen=True, kw_only=True)
class CompiledBundles:
    """The document of `edgekit compile`, which lists the folders that it wrote."""

    schema_version: Literal[1] = 1
    bundles: tuple[str, ...]
    failures: tuple[NotMade, ...] = ()


def not_made(errors: Mapping[str, Exception]) -> tuple[NotMade, ...]:
    """Graphs or bundles that could not be made, for a document."""
    return tuple(NotMade(name=name, failure=Failure.of("compile", error)) for name, error in errors.items())


def quantize_model(job: Job, reporter: Reporter) -> QuantizedGraphs:
    """Calibrate for each target, and write the graphs to `OUTPUT/<target>-int8-graph`."""
    check_output(job.folder)
    spec, _ = load_job(job, reporter, evaluates=False)
    with open_run(job.folder) as run, builder_of(spec, run, reporter) as builder:
        spec = builder.spec  # a large network's, so that the one in memory is freed
        write_list(run.path / "calibration.json", spec.calibration, spec.recipe, job.seed)
        graphs = builder.graphs

        def quantized(name: str) -> str:
            target, folder = targets[name], run.path / f"{name}-graph"
            if _has_graph(folder, graphs.spec.inputs(target, "int8"), spec.network.labels):
                reporter.say(f"{folder.name}: reused from an earlier run")
            else:
                to_compile = graphs.graph_to_compile(target, "int8")
                warn_of_unmatched(to_compile, reporter)
                save_graph(to_compile, folder)
            return str(folder)

        targets = {f"{target}-int8": target for target in job.targets}
        folders, errors = each_bundle(targets, quantized, reporter)
    return QuantizedGraphs(graphs=tuple(folders.values()), failures=not_made(errors))


def _has_graph(folder: Path, inputs: BundleInputs, labels: tuple[str, ...]) -> bool:
    """Whether a folder has the graph of these inputs, which then gets these class names."""
    try:
        facts = read_facts(folder)
    except InputError:
        return False
    if facts.manifest.fingerprint != inputs.key:
        return False
    if facts.labels != labels:
        save_facts(replace(facts, labels=labels), folder)
    return True


def compile_graphs(source: Path, output: Path, reporter: Reporter) -> CompiledBundles:
    """Compile the graph that `quantize` wrote to `source`, or all graphs in it, to `output/<target>-int8`."""
    folders = [source] if (source / STAGE).exists() else sorted(file.parent for file in source.glob(f"*/{STAGE}"))
    if not folders:
        raise InputError(
            f"'{source}' contains no quantized graph", fix=f"Make one with `edgekit quantize MODEL -o {source}`"
        )
    check_output(output)
    names = {}
    for folder in folders:
        facts = read_facts(folder)
        load_backend(facts.manifest.target)
        names[str(folder)] = f"{facts.manifest.target}-{facts.manifest.precision}"
    _check_unmeasured(output, names.values())
    with open_run(output) as run:

        def compiled(folder: str) -> str:
            name = names[folder]
            with reporter.stage(f"{name}: compile"), quiet():
                # no more than one graph in memory
                bundle, _ = compile_stage(load_graph(Path(folder)), run.path / name)
            return str(bundle.path)

        bundles, errors = each_bundle(names, compiled, reporter)
    failures = not_made({names[folder]: error for folder, error in errors.items()})
    return CompiledBundles(bundles=tuple(bundles.values()), failures=failures)


def _check_unmeasured(folder: Path, names: Iterable[str]) -> None:
    """Raise OutputError if a run has measured one of these bundles, whose figures would then be of another one."""
    reported = load_report(folder).bundles if (folder / REPORT_FILE).exists() else ()
    if measured := next((name for name in names if name in reported), None):
        raise OutputError(
            f"the run '{folder}' has measured its '{measured}', which a new one would replace",
            valid="a folder that is new, or no run of `edgekit deploy`",
            fix="Choose another folder with `--output FOLDER`",
        )


def build_bundles(job: Job, reporter: Reporter) -> dict[str, Bundle | Exception]:
    """Build the bundles of a job in its folder, without measuring them. Returns each bundle by name, or its error."""
    check_output(job.folder)
    _check_unmeasured(job.folder, (f"{target}-{precision}" for target in job.targets for precision in job.precisions))
    for target in job.targets:
        load_backend(target)
    spec, _ = load_job(job, reporter, evaluates=False)
    with open_run(job.folder) as run, builder_of(spec, run, reporter) as builder:
        del spec  # which a large network's builder doesn't need
        return builder.build(job.targets, run.path, job.precisions)


def compile_model(job: Job, reporter: Reporter) -> CompiledBundles:
    """Build float bundles of a model, `OUTPUT/<target>-float`. A few images check their parity with torch."""
    built = build_bundles(replace(job, precisions=("float",)), reporter)
    bundles = tuple(str(bundle.path) for bundle in built.values() if isinstance(bundle, Bundle))
    errors = {name: error for name, error in built.items() if isinstance(error, Exception)}
    return CompiledBundles(bundles=bundles, failures=not_made(errors))
