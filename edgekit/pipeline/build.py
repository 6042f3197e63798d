"""Compiles a graph to a bundle, or reuses one whose inputs are still the same.

`deploy` keeps the graph in memory between quantizing and compiling; the commands `quantize` and `compile` store it in a
folder.
"""

import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray

from edgekit.compiler.graph import copy_sharing
from edgekit.compiler.placement import divide_outputs, take_pixels
from edgekit.config.runtimes import INPUT_LAYOUTS, InputDtype, Precision, Runtime
from edgekit.errors import BundleError, ParityError
from edgekit.pipeline.graphs import PARITY, JobGraphs, difference
from edgekit.pipeline.job_images import ACTIVATIONS, helpful_temperature
from edgekit.pipeline.request import GraphFacts, GraphToCompile
from edgekit.runtime.backend import Artifact, load_backend
from edgekit.runtime.bundle import Bundle, EngineRequirement, Golden, Manifest, ManifestLayer, read_bundle, write_bundle
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
    facts, samples, title = to_compile.facts, to_compile.samples, Runtime.find(to_compile.facts.target).title
    with writing(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.compile-", dir=path.parent) as name:
        draft = _drafted(to_compile, Path(name))
        off = difference(draft.logits, samples.logits)
        if not np.isfinite(draft.logits).all():
            raise ParityError(
                f"edgekit can't convert this model for {title}: {facts.target} {facts.precision} returns NaN or "
                "infinity for a real image",
                fix=f"Leave {title} out with `--target`",
            )
        if facts.precision == "float" and not off <= PARITY:
            raise ParityError(
                f"edgekit can't convert this model for {title}: {facts.target} float differs from torch by "
                f"{off:.2e} of the largest logit on {len(samples.pixels)} real images",
                valid=f"at most {PARITY:.0e}",
                fix=f"Leave {title} out with `--target`",
            )
        tolerance = GOLDEN_SPREAD[facts.precision] * float(samples.logits.std())
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
    fitting, activation = to_compile.fitting, to_compile.facts.activation
    if fitting is None or activation not in ACTIVATIONS:
        return _draft(replace(to_compile, fitting=None), folder / "first")
    spare = copy_sharing(to_compile.graph)  # compilers change the graph
    draft = _draft(to_compile, folder / "first")
    if draft.fitting is None or not np.isfinite(draft.fitting).all():
        return draft
    temperature = helpful_temperature(draft.fitting, fitting.logits, activation)
    if temperature is None or not divide_outputs(spare, temperature):
        return draft
    provenance = replace(to_compile.facts.provenance, temperature=temperature)
    facts = replace(to_compile.facts, provenance=provenance)
    return _draft(replace(to_compile, graph=spare, facts=facts, fitting=None), folder / "second")


def _draft(to_compile: GraphToCompile, folder: Path) -> _Draft:
    """Compile into the folder, and run the samples."""
    facts, samples, fitting = to_compile.facts, to_compile.samples, to_compile.fitting
    with writing(folder):
        folder.mkdir()
        artifact = _compiled(to_compile, folder)
    files = {file: folder / file for file in artifact.files}
    pairs = pairs_that_can_saturate(facts.target, folder / artifact.model_file) if facts.precision == "int8" else None
    manifest = replace(manifest_of(facts, artifact), pairs_that_can_saturate=pairs)
    golden = Golden(samples.pixels[:1], samples.logits[:1], 0.0)
    with Session(write_bundle(folder / "draft", files, manifest, facts.labels, golden)) as session:
        fitted = None if fitting is None else session(manifest.input_of(fitting.pixels))
        return _Draft(manifest, files, session(manifest.input_of(samples.pixels)), fitted)


def _compiled(to_compile: GraphToCompile, folder: Path) -> Artifact:
    facts, graph = to_compile.facts, to_compile.graph
    backend = load_backend(facts.target)
    metadata = metadata_of(facts, facts.input_dtype, facts.labels, facts.provenance.model.name)
    with quiet(), torch.no_grad():
        if facts.input_dtype == "uint8":
            take_pixels(graph, facts.preprocessing.mean, facts.preprocessing.std)
        return backend.compile(graph, folder, metadata, facts.device_class)


def metadata_of(
    of: GraphFacts | Manifest, input_dtype: InputDtype, labels: tuple[str, ...], model: str | None
) -> Metadata:
    """What a model file says about itself. `model` is the network's name."""
    return Metadata(
        target=of.target,
        precision=of.precision,
        scheme=of.scheme,
        preprocessing=of.preprocessing,
        input_dtype=input_dtype,
        labels=labels,
        activation=of.activation,
        model=model,
    )


def manifest_of(facts: GraphFacts, artifact: Artifact) -> Manifest:
    runtime = Runtime.find(facts.target)
    has_dynamic = any(layer.get("kind") == "dynamic" for layer in facts.layers)
    return Manifest(
        target=facts.target,
        precision=facts.precision,
        scheme=facts.scheme,
        model_file=artifact.model_file,
        input_shape=facts.preprocessing.shape_of(facts.input_dtype),
        layout=INPUT_LAYOUTS[facts.input_dtype],
        dtype=facts.input_dtype,
        input_name=artifact.input_name,
        output_name=artifact.output_name,
        classes=len(facts.labels),
        preprocessing=facts.preprocessing,
        engine=EngineRequirement(
            package=runtime.distributions[0],
            minimum=runtime.oldest_version if has_dynamic else runtime.oldest_loading_version,
        ),
        device_class=facts.device_class.name,
        fingerprint=facts.fingerprint,
        session={**artifact.session, **facts.session},
        layers=tuple(_as_compiled(layer, artifact, runtime.title) for layer in facts.layers),
        provenance=msgspec.to_builtins(facts.provenance),
        task=facts.task,
        activation=facts.activation,
        thresholds=facts.thresholds if facts.thresholds and facts.activation == "sigmoid" else None,
    )


def _as_compiled(layer: ManifestLayer, artifact: Artifact, title: str) -> ManifestLayer:
    if not layer["int8"] or layer["name"] not in artifact.float_layers:
        return layer
    return {**layer, "int8": False, "kind": "float", "reason": f"{title} has no integer kernel for it"}


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
    facts = to_compile.facts
    if not facts.unmatched:
        return
    recipe, model = facts.provenance.recipe, facts.provenance.model.name
    reporter.warn(
        f"{facts.target}-{facts.precision}: these rewrites of recipe '{recipe}' match nothing in '{model}': "
        f"{', '.join(facts.unmatched)}. Remove them from the recipe, or list them in its optional_rewrites if other "
        "networks need them."
    )


def reused_bundle(graphs: JobGraphs, target: str, precision: Precision, path: Path) -> Bundle | None:
    """The bundle at `path`, with the job's class names, if it is intact and was made from the same inputs."""
    labels, reporter = graphs.spec.network.labels, graphs.reporter
    try:
        bundle = read_bundle(path)
    except BundleError:
        return None
    if bundle.manifest.fingerprint != graphs.inputs(target, precision).key:
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
        metadata = metadata_of(manifest, manifest.dtype, labels, manifest.recorded("model", "name"))
        load_backend(manifest.target).replace_metadata(model, metadata)
        files[manifest.model_file] = model
        return write_bundle(path, files, manifest, labels, bundle.golden())
