"""Builds all bundles of a run, and reuses those whose inputs are still the same."""

from collections.abc import Mapping
from itertools import product
from pathlib import Path
from types import MappingProxyType

from edgekit.config.precisions import PRECISIONS, Precision
from edgekit.errors import BundleError, CompileError
from edgekit.pipeline.compile import compile_stage
from edgekit.pipeline.graph_to_compile import GraphToCompile
from edgekit.pipeline.graphs import JobGraphs
from edgekit.pipeline.job import Job
from edgekit.pipeline.request import BundleInputs
from edgekit.pipeline.worker import build_apart
from edgekit.runtime.bundle import Bundle, read_bundle
from edgekit.support.each_bundle import each_bundle
from edgekit.support.libraries import quiet
from edgekit.support.progress import Reporter


def build_all(
    job: Job,
    targets: tuple[str, ...],
    folder: Path,
    reporter: Reporter,
    refused: Mapping[str, str] = MappingProxyType({}),
    precisions: tuple[Precision, ...] = PRECISIONS,
) -> dict[str, Bundle | Exception]:
    """Bundles by name in the report's order, or the error of one that failed. Bundles in `refused` are skipped."""
    graphs = JobGraphs(job, reporter)
    pairs = {f"{target}-{precision}": (target, precision) for target, precision in product(targets, precisions)}

    def build(name: str) -> Bundle:
        if name in refused:
            raise CompileError(f"skipped: {refused[name]}", fix="Use `--force` to try anyway")
        return build_one(graphs, *pairs[name], folder / name, reporter)

    built, errors = each_bundle(pairs, build, reporter)
    return {name: built[name] if name in built else errors[name] for name in pairs}


def build_one(
    graphs: JobGraphs,
    target: str,
    precision: Precision,
    path: Path,
    reporter: Reporter,
    to_compile: GraphToCompile | None = None,
) -> Bundle:
    """Return the bundle at `path`, and build it unless a valid one is there; `to_compile` is its graph if it exists."""
    existing = _existing_bundle(path, graphs.inputs(target, precision))
    if existing is not None:
        reporter.say(f"{path.name}: reused from an earlier run")
        return existing
    if graphs.job.parked and to_compile is None:
        return build_apart(graphs.job.parked, target, precision, path, reporter)
    return compile_graph(to_compile or graphs.graph_to_compile(target, precision), path, reporter)


def compile_graph(to_compile: GraphToCompile, path: Path, reporter: Reporter) -> Bundle:
    """Compile a graph to a bundle at `path`."""
    warn_of_unmatched(to_compile, reporter)
    with reporter.stage(f"{path.name}: compile"), quiet():
        bundle, difference = compile_stage(to_compile, path)
    reporter.say(
        f"{path.name}: differs from torch by {difference:.1e} of the largest logit on "
        f"{len(to_compile.samples.pixels)} images"
    )
    return bundle


def warn_of_unmatched(to_compile: GraphToCompile, reporter: Reporter) -> None:
    """Warn the recipe's author that some of its rewrites have no effect."""
    facts = to_compile.facts
    if not facts.unmatched:
        return
    recipe, model = facts.provenance.recipe, facts.provenance.model.name
    reporter.warn(
        f"{facts.target}-{facts.precision}: these rewrites of recipe '{recipe}' match nothing in '{model}': "
        f"{', '.join(facts.unmatched)}. Remove them from the recipe, or list them in its optional_rewrites if other "
        "networks need them."
    )


def _existing_bundle(path: Path, inputs: BundleInputs) -> Bundle | None:
    """The bundle at `path` if it is intact and was made from these inputs."""
    try:
        bundle = read_bundle(path)
    except BundleError:
        return None
    return bundle if bundle.manifest.fingerprint == inputs.key else None
