"""From a network to bundles: `quantize_stage` gives a graph for one runtime, `compile_stage` a bundle of it.

Both work in memory for `deploy`; the steps at the command line keep the graph in a folder between them.
"""

import json
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from edgekit import __version__
from edgekit.errors import ParityError
from edgekit.pipeline.prepared import Prepared
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
    with writing(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.compile-", dir=path.parent) as name:
        folder = Path(name)
        with writing(folder):
            artifact = _compiled(prepared, folder)
        files = {each: folder / each for each in artifact.files}
        golden = Golden(prepared.pixels[:golden_count], prepared.logits[:golden_count], 0.0)
        manifest = manifest_of(prepared, artifact)
        draft = write_bundle(folder / "draft", files, manifest, prepared.labels, golden)
        with Session(draft) as session:
            logits = session(prepared.preprocessing.normalize(prepared.pixels))
        difference = float(np.abs(logits - prepared.logits).max() / np.abs(prepared.logits).max())
        if not np.isfinite(logits).all():
            raise ParityError(f"{prepared.target} {prepared.precision} gives NaN or infinity for a real image.")
        if prepared.precision == "float" and not difference <= PARITY:
            raise ParityError(
                f"{prepared.target} float differs from torch by {difference:.2e} of the largest logit on "
                f"{len(logits)} real images; at most {PARITY:.0e} is valid."
            )
        tolerance = GOLDEN_SPREAD[prepared.precision] * float(prepared.logits.std())
        golden = replace(golden, logits=logits[:golden_count], tolerance=tolerance)
        return write_bundle(path, files, manifest, prepared.labels, golden), difference


def _compiled(prepared: Prepared, folder: Path) -> Artifact:
    backend = load_backend(prepared.target)
    with quiet(), torch.no_grad():
        return backend.compile(prepared.graph, folder, embedded(prepared))


def embedded(prepared: Prepared) -> str:
    """What is needed to run the model file alone, as JSON inside it."""
    return json.dumps(
        {
            "edgekit": __version__,
            "target": prepared.target,
            "precision": prepared.precision,
            "scheme": prepared.scheme,
            "preprocessing": prepared.preprocessing.to_dict(),
            "labels": list(prepared.labels),
            "model": prepared.provenance["model"]["name"],
        }
    )


def manifest_of(prepared: Prepared, artifact: Artifact) -> Manifest:
    size = prepared.preprocessing
    return Manifest(
        target=prepared.target,
        precision=prepared.precision,
        scheme=prepared.scheme,
        model_file=artifact.model_file,
        input_shape=(1, 3, size.height, size.width),
        layout=artifact.layout,
        dtype="float32",
        input_name=artifact.input_name,
        output_name=artifact.output_name,
        classes=len(prepared.labels),
        preprocessing=prepared.preprocessing,
        engine=EngineRequirement(package=artifact.package, minimum=artifact.minimum),
        device_class=prepared.device_class,
        fingerprint=prepared.fingerprint,
        session=artifact.session,
        layers=prepared.layers,
        provenance=prepared.provenance,
    )
