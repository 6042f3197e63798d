"""From a network to bundles: `quantize_stage` gives a graph for one runtime, `compile_stage` a bundle of it.

Both work in memory for `deploy`; the steps at the command line keep the graph in a folder between them.
"""

import json
import tempfile
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import torch

from edgekit import __version__
from edgekit.errors import ParityError
from edgekit.pipeline.prepared import GraphFacts, Prepared
from edgekit.runtime.backend import Artifact, load_backend
from edgekit.runtime.bundle import Bundle, Golden, write_bundle
from edgekit.runtime.manifest import EngineRequirement, Manifest
from edgekit.runtime.session import Session
from edgekit.support.files import writing
from edgekit.support.libraries import quiet

PARITY = 1e-3
"""Greatest difference between a float bundle's logits and torch's, as a share of the largest logit."""
GOLDEN_SPREAD = {"float": 1e-2, "int8": 0.3}
"""Golden tolerance in standard deviations of the logits: kernels of other processors round differently."""


def compile_stage(prepared: Prepared, path: Path, golden_count: int = 2) -> tuple[Bundle, float]:
    """Compile, check on real images, write the bundle. Returns it and the greatest difference from torch's logits.

    The difference is a share of the largest logit; a float bundle beyond `PARITY` is a ParityError and isn't written.
    """
    facts, samples = prepared.facts, prepared.samples
    with writing(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.compile-", dir=path.parent) as name:
        folder = Path(name)
        with writing(folder):
            artifact = _compiled(prepared, folder)
        files = {each: folder / each for each in artifact.files}
        golden = Golden(samples.pixels[:golden_count], samples.logits[:golden_count], 0.0)
        manifest = manifest_of(facts, artifact)
        draft = write_bundle(folder / "draft", files, manifest, facts.labels, golden)
        with Session(draft) as session:
            logits = session(facts.preprocessing.normalize(samples.pixels))
        difference = float(np.abs(logits - samples.logits).max() / np.abs(samples.logits).max())
        if not np.isfinite(logits).all():
            raise ParityError(f"{facts.target} {facts.precision} gives NaN or infinity for a real image.")
        if facts.precision == "float" and not difference <= PARITY:
            raise ParityError(
                f"{facts.target} float differs from torch by {difference:.2e} of the largest logit on "
                f"{len(logits)} real images; at most {PARITY:.0e} is valid."
            )
        tolerance = GOLDEN_SPREAD[facts.precision] * float(samples.logits.std())
        golden = replace(golden, logits=logits[:golden_count], tolerance=tolerance)
        return write_bundle(path, files, manifest, facts.labels, golden), difference


def _compiled(prepared: Prepared, folder: Path) -> Artifact:
    backend = load_backend(prepared.facts.target)
    with quiet(), torch.no_grad():
        return backend.compile(prepared.graph, folder, embedded(prepared.facts))


def embedded(facts: GraphFacts) -> str:
    """What is needed to run the model file alone, as JSON inside it."""
    return json.dumps(
        {
            "edgekit": __version__,
            "target": facts.target,
            "precision": facts.precision,
            "scheme": facts.scheme,
            "preprocessing": facts.preprocessing.to_dict(),
            "labels": list(facts.labels),
            "model": facts.provenance.model.name,
        }
    )


def manifest_of(facts: GraphFacts, artifact: Artifact) -> Manifest:
    size = facts.preprocessing
    return Manifest(
        target=facts.target,
        precision=facts.precision,
        scheme=facts.scheme,
        model_file=artifact.model_file,
        input_shape=(1, 3, size.height, size.width),
        layout=artifact.layout,
        dtype="float32",
        input_name=artifact.input_name,
        output_name=artifact.output_name,
        classes=len(facts.labels),
        preprocessing=facts.preprocessing,
        engine=EngineRequirement(package=artifact.package, minimum=artifact.minimum),
        device_class=facts.device_class,
        fingerprint=facts.fingerprint,
        session=artifact.session,
        layers=facts.layers,
        provenance=msgspec.to_builtins(facts.provenance),
    )
