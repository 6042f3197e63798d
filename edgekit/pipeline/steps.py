"""Implements `edgekit quantize` and `edgekit compile`, the two halves of building bundles."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from edgekit.errors import InputError, OutputError
from edgekit.images.calibration_list import write_list
from edgekit.job import Job
from edgekit.pipeline.build import warn_of_unmatched
from edgekit.pipeline.builder import builder_of
from edgekit.pipeline.compile import compile_stage
from edgekit.pipeline.graph_to_compile import STAGE, load_graph, read_facts, save_facts, save_graph
from edgekit.pipeline.loading import load_job
from edgekit.pipeline.request import BundleInputs
from edgekit.report.measurement import Failure
from edgekit.report.serialization import REPORT_FILE, load_report
from edgekit.runtime.backend import load_backend
from edgekit.runtime.bundle import Bundle
from edgekit.support.libraries import quiet
from edgekit.support.progress import Reporter, each_bundle
from edgekit.support.run_folder import check_output, open_run


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
            if _has_graph(folder, graphs.inputs(target, "int8"), spec.network.labels):
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
    if facts.fingerprint != inputs.key:
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
        load_backend(facts.target)
        names[str(folder)] = f"{facts.target}-{facts.precision}"
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
