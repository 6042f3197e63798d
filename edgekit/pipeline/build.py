"""Builds a bundle in this process, or reuses one whose inputs are still the same."""

import shutil
import tempfile
from pathlib import Path

from edgekit.config.choices import Precision
from edgekit.errors import BundleError
from edgekit.pipeline.compile import compile_stage, embedded
from edgekit.pipeline.graph_to_compile import GraphToCompile
from edgekit.pipeline.graphs import JobGraphs
from edgekit.pipeline.request import BundleInputs
from edgekit.runtime.backend import load_backend
from edgekit.runtime.bundle import Bundle, read_bundle, write_bundle
from edgekit.support.files import writing
from edgekit.support.libraries import quiet
from edgekit.support.progress import Reporter


def build_one(
    graphs: JobGraphs, target: str, precision: Precision, path: Path, to_compile: GraphToCompile | None = None
) -> Bundle:
    """Return the bundle at `path`, and build it unless a valid one is there; `to_compile` is its graph if it exists."""
    labels, reporter = graphs.spec.network.labels, graphs.reporter
    reused = reused_bundle(path, graphs.inputs(target, precision), labels, reporter)
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


def reused_bundle(path: Path, inputs: BundleInputs, labels: tuple[str, ...], reporter: Reporter) -> Bundle | None:
    """The bundle at `path`, with these class names, if it is intact and was made from these inputs."""
    try:
        bundle = read_bundle(path)
    except BundleError:
        return None
    if bundle.manifest.fingerprint != inputs.key:
        return None
    if tuple(bundle.labels) == labels:
        reporter.say(f"{path.name}: reused from an earlier run")
        return bundle
    reporter.say(f"{path.name}: reused from an earlier run, with other class names")
    return _relabelled(bundle, labels)


def _relabelled(bundle: Bundle, labels: tuple[str, ...]) -> Bundle:
    """Replace the class names of a bundle, which its model file contains too. Returns the new bundle."""
    path, manifest = bundle.path, bundle.manifest
    own = (manifest.labels_file, manifest.golden_file)
    files = {name: path / name for name in manifest.files if name not in own}
    with writing(path.parent), tempfile.TemporaryDirectory(prefix=f".{path.name}.compile-", dir=path.parent) as folder:
        model = Path(folder) / manifest.model_file
        shutil.copyfile(bundle.model_path, model)
        metadata = embedded(manifest, labels, manifest.recorded("model", "name"))
        load_backend(manifest.target).replace_metadata(model, metadata)
        files[manifest.model_file] = model
        return write_bundle(path, files, manifest, labels, bundle.golden())
