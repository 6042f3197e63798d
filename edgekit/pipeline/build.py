"""Compiles a graph to a bundle, or reuses one whose inputs are still the same.

`deploy` keeps the graph in memory between quantizing and compiling; the commands `quantize` and `compile` store it in a
folder.
"""

import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from edgekit.compiler.graph import copy_sharing
from edgekit.compiler.placement import divide_outputs, take_pixels
from edgekit.config.runtimes import Precision, Runtime
from edgekit.errors import BundleError, ParityError
from edgekit.pipeline.graphs import PARITY, JobGraphs, difference
from edgekit.pipeline.job_images import ACTIVATIONS, helpful_temperature
from edgekit.pipeline.request import BundleInputs, GraphToCompile
from edgekit.runtime.backend import Artifact, load_backend
from edgekit.runtime.bundle import Bundle, Golden, Manifest, read_bundle, write_bundle
from edgekit.runtime.metadata import Metadata
from edgekit.runtime.session import Session, pairs_that_can_saturate
from edgekit.support.files import writing
from edgekit.support.libraries import quiet
from edgekit.support.progress import Reporter

GOLDEN_SPREAD = {"float": 1e-2, "int8": 0.3}
"""Tolerance of test vectors in standard deviations of the logits: kernels of other processors round differently."""


def compile_stage(to_compile: GraphToCompile, path: Path, golden_count: int = 2) -> tuple[Bundle, float]:
    """Compile, check on real images and write the bundle; return it and its largest difference from torch's logits.

    The difference is a fraction of the largest logit. A float bundle that exceeds `PARITY` raises ParityError and isn't
    written. An INT8 one is compiled again if a temperature brings its confidences back to torch's.
    """
    facts = to_compile.facts
    samples = to_compile.samples
    manifest = to_compile.facts.manifest
    title = Runtime.find(manifest.target).title
    with writing(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.compile-", dir=path.parent) as name:
        draft = _drafted(to_compile, Path(name))
        off = difference(draft.logits, samples.logits)
        if not np.isfinite(draft.logits).all():
            raise ParityError(
                f"edgekit can't convert this model for {title}: {manifest.target} {manifest.precision} returns NaN or "
                "infinity for a real image",
                fix=f"Leave {title} out with `--target`",
            )
        if manifest.precision == "float" and not off <= PARITY:
            raise ParityError(
                f"edgekit can't convert this model for {title}: {manifest.target} float differs from torch by "
                f"{off:.2e} of the largest logit on {len(samples.pixels)} real images",
                valid=f"at most {PARITY:.0e}",
                fix=f"Leave {title} out with `--target`",
            )
        tolerance = GOLDEN_SPREAD[manifest.precision] * float(samples.logits.std())
        golden = Golden(samples.pixels[:golden_count], draft.logits[:golden_count], tolerance)
        return write_bundle(path, draft.files, draft.manifest, facts.labels, golden), off


@dataclass(frozen=True, eq=False)
class _Draft:
    """A compiled bundle without its test vectors."""

    manifest: Manifest
    files: Mapping[str, Path]
    logits: NDArray[np.float32]
    """Its logits for the samples."""
    fitting: NDArray[np.float32] | None
    """Its logits for the images that fit a temperature, if there are any."""


def _drafted(to_compile: GraphToCompile, folder: Path) -> _Draft:
    """Compile into the folder, in INT8 with the temperature that helps."""
    fitting, facts = to_compile.fitting, to_compile.facts
    if fitting is None or facts.manifest.activation not in ACTIVATIONS:
        return _draft(replace(to_compile, fitting=None), folder / "first")
    spare = copy_sharing(to_compile.graph)  # compilers change the graph
    draft = _draft(to_compile, folder / "first")
    if draft.fitting is None or not np.isfinite(draft.fitting).all():
        return draft
    temperature = helpful_temperature(draft.fitting, fitting.logits, facts.manifest.activation)
    if temperature is None or not divide_outputs(spare, temperature):
        return draft
    provenance = {**facts.manifest.provenance, "temperature": temperature}
    facts = replace(facts, manifest=replace(facts.manifest, provenance=provenance))
    return _draft(replace(to_compile, graph=spare, facts=facts, fitting=None), folder / "second")


def _draft(to_compile: GraphToCompile, folder: Path) -> _Draft:
    """Compile into the folder, and run the samples."""
    facts = to_compile.facts
    samples = to_compile.samples
    fitting = to_compile.fitting
    with writing(folder):
        folder.mkdir()
        artifact = _compiled(to_compile, folder)
    files = {file: folder / file for file in artifact.files}
    manifest = completed(facts.manifest, artifact, folder)
    golden = Golden(samples.pixels[:1], samples.logits[:1], 0.0)
    with Session(write_bundle(folder / "draft", files, manifest, facts.labels, golden)) as session:
        fitted = None if fitting is None else session(manifest.input_of(fitting.pixels))
        return _Draft(manifest, files, session(manifest.input_of(samples.pixels)), fitted)


def _compiled(to_compile: GraphToCompile, folder: Path) -> Artifact:
    facts = to_compile.facts
    graph = to_compile.graph
    manifest = to_compile.facts.manifest
    backend = load_backend(manifest.target)
    metadata = metadata_of(manifest, facts.labels)
    with quiet(), torch.no_grad():
        if manifest.dtype == "uint8":
            take_pixels(graph, manifest.preprocessing.mean, manifest.preprocessing.std)
        return backend.compile(graph, folder, metadata, facts.device_class)


def metadata_of(manifest: Manifest, labels: tuple[str, ...]) -> Metadata:
    """What a model file says about itself."""
    return Metadata(
        target=manifest.target,
        precision=manifest.precision,
        scheme=manifest.scheme,
        preprocessing=manifest.preprocessing,
        input_dtype=manifest.dtype,
        labels=labels,
        activation=manifest.activation,
        model=manifest.recorded("model", "name"),
    )


def completed(manifest: Manifest, artifact: Artifact, folder: Path) -> Manifest:
    """A graph's manifest with what its compilation to a folder adds."""
    model, title = artifact.model_file, Runtime.find(manifest.target).title
    reason = f"{title} has no integer kernel for it"
    return replace(
        manifest,
        model_file=model,
        input_name=artifact.input_name,
        output_name=artifact.output_name,
        session={**artifact.session, **manifest.session},
        layers=tuple(
            {**layer, "int8": False, "kind": "float", "reason": reason}
            if layer["int8"] and layer["name"] in artifact.float_layers
            else layer
            for layer in manifest.layers
        ),
        pairs_that_can_saturate=pairs_that_can_saturate(manifest.target, folder / model)
        if manifest.precision == "int8"
        else None,
    )


def build_one(
    graphs: JobGraphs, target: str, precision: Precision, path: Path, to_compile: GraphToCompile | None = None
) -> Bundle:
    """Return the bundle at `path`, and build it unless a valid one is there; `to_compile` is its graph if it exists."""
    reused = reused_bundle(graphs, target, precision, path)
    return reused or compile_graph(to_compile or graphs.graph_to_compile(target, precision), path, graphs.reporter)


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
    manifest, unmatched = to_compile.facts.manifest, to_compile.facts.unmatched
    if unmatched:
        recipe = manifest.recorded("recipe")
        model = manifest.recorded("model", "name")
        reporter.warn(
            f"{manifest.target}-{manifest.precision}: these rewrites of recipe '{recipe}' match nothing in '{model}': "
            f"{', '.join(unmatched)}. Remove them from the recipe, or list them in its optional_rewrites if other "
            "networks need them."
        )


def reused_bundle(graphs: JobGraphs, target: str, precision: Precision, path: Path) -> Bundle | None:
    """The bundle at `path`, with the job's class names, if it is intact and was made from the same inputs."""
    labels, reporter = graphs.spec.network.labels, graphs.reporter
    bundle = made_from(graphs.spec.inputs(target, precision), path)
    if bundle is None:
        return None
    if tuple(bundle.labels) == labels:
        reporter.say(f"{path.name}: reused from an earlier run")
        return bundle
    reporter.say(f"{path.name}: reused from an earlier run, with other class names")
    return _relabelled(bundle, labels)


def made_from(inputs: BundleInputs, path: Path) -> Bundle | None:
    """The bundle at `path`, if it is intact and was made from these inputs."""
    try:
        bundle = read_bundle(path)
    except BundleError:
        return None
    return bundle if bundle.manifest.fingerprint == inputs.key else None


def _relabelled(bundle: Bundle, labels: tuple[str, ...]) -> Bundle:
    """Replace the class names of a bundle, which its model file contains too. Returns the new bundle."""
    path, manifest = bundle.path, bundle.manifest
    own = (manifest.labels_file, manifest.golden_file)
    files = {name: path / name for name in manifest.files if name not in own}
    with writing(path.parent), tempfile.TemporaryDirectory(prefix=f".{path.name}.compile-", dir=path.parent) as folder:
        model = Path(folder) / manifest.model_file
        shutil.copyfile(bundle.model_path, model)
        load_backend(manifest.target).replace_metadata(model, metadata_of(manifest, labels))
        files[manifest.model_file] = model
        return write_bundle(path, files, manifest, labels, bundle.golden())
