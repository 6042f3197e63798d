"""Builds a bundle in this process, or reuses one whose inputs are still the same."""

from pathlib import Path

from edgekit.config.precisions import Precision
from edgekit.errors import BundleError
from edgekit.pipeline.compile import compile_stage
from edgekit.pipeline.graph_to_compile import GraphToCompile
from edgekit.pipeline.graphs import JobGraphs
from edgekit.pipeline.relabel import differs_in_labels, relabel
from edgekit.pipeline.request import BundleInputs
from edgekit.runtime.bundle import Bundle, read_bundle
from edgekit.support.libraries import quiet
from edgekit.support.progress import Reporter


def build_one(
    graphs: JobGraphs,
    target: str,
    precision: Precision,
    path: Path,
    reporter: Reporter,
    to_compile: GraphToCompile | None = None,
) -> Bundle:
    """Return the bundle at `path`, and build it unless a valid one is there; `to_compile` is its graph if it exists."""
    reused = reused_bundle(path, graphs.inputs(target, precision), reporter)
    return reused or compile_graph(to_compile or graphs.graph_to_compile(target, precision), path, reporter)


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


def reused_bundle(path: Path, inputs: BundleInputs, reporter: Reporter) -> Bundle | None:
    """The bundle at `path` if it is intact and was made from these inputs, or from others in the names of classes only.

    Those it replaces.
    """
    try:
        bundle = read_bundle(path)
    except BundleError:
        return None
    if bundle.manifest.fingerprint == inputs.key:
        reporter.say(f"{path.name}: reused from an earlier run")
        return bundle
    if differs_in_labels(bundle, inputs):
        reporter.say(f"{path.name}: reused from an earlier run, with other class names")
        return relabel(bundle, inputs)
    return None
