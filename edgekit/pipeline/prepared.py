"""A graph that is ready to compile, on disk and in memory, with its fingerprint and provenance."""

import errno
import importlib.metadata
import json
import os
import platform
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.fx import GraphModule

from edgekit import __version__
from edgekit.compat.torch import weights_only_loads
from edgekit.config.precisions import Precision
from edgekit.config.recipes import Recipe
from edgekit.config.runtimes import find_target
from edgekit.errors import InputError
from edgekit.images.preprocess import Preprocessing
from edgekit.models import Network
from edgekit.pipeline.sources import edgekit_sha256, module_sha256
from edgekit.runtime.manifest import Layer
from edgekit.support.files import replacing, writing
from edgekit.support.hashes import digest
from edgekit.support.libraries import LibraryErrors, quiet

GRAPH, STAGE, SAMPLES = "graph.pt2", "stage.json", "samples.npz"
PACKAGES = (
    # decode and crop the images, build and export the network
    "numpy", "pillow", "torch", "timm", "open_clip_torch", "safetensors",
    # quantize
    "nncf", "torchao", "networkx",
    # compile
    "openvino", "onnx", "onnx-ir", "onnxscript", "protobuf", "ml_dtypes", "litert-torch", "litert-converter",
    "jax", "jaxlib", "flatbuffers",
    # run, since golden samples are what the runtime answers
    "onnxruntime", "ai-edge-litert",
)  # fmt: skip
"""Distributions that shape a bundle."""


@dataclass(frozen=True)
class Prepared:
    """A graph for one runtime, float or with Q/DQ, and what its bundle will say of it."""

    graph: GraphModule
    target: str
    precision: Precision
    scheme: str
    preprocessing: Preprocessing
    labels: tuple[str, ...]
    layers: tuple[Layer, ...]
    provenance: dict[str, Any]
    device_class: str
    fingerprint: str
    pixels: NDArray[np.uint8]
    """Real images [N,H,W,3] on which parity is checked; the first become golden samples."""
    logits: NDArray[np.float32]
    """What torch's float network gives for them, [N,classes]."""


def fingerprint(network: Network, target: str, precision: Precision, recipe: Recipe, calibration: str, cls: str) -> str:
    """Hash of everything that goes into a bundle: equal fingerprints mean the same bundle.

    Only the golden samples of a float bundle may be of other images.
    """
    recipe = recipe.for_target(target)
    parts: list[Any] = [network.weights_sha256, network.name, str(network.module), network.classes, network.labels]
    parts += [network.preprocessing.to_dict(), target, precision, cls, asdict(recipe.targets[target]), versions()]
    parts += [module_sha256(network.module)]
    if precision == "int8":
        parts += [calibration, {**asdict(recipe), "targets": None}]
    return digest(*parts)


def versions() -> dict[str, str]:
    """Versions of edgekit, Python and the packages that make bundles, and the hash of edgekit's own code for that."""
    found = {"edgekit": __version__, "edgekit-sources": edgekit_sha256(), "python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def provenance_of(network: Network, recipe: Recipe, target: str, calibration_sha256: str) -> dict[str, Any]:
    """Where a bundle comes from, as its manifest says it: no time, so that it's the same each time it's made."""
    return {
        "versions": versions(),
        "model": {
            "name": network.name,
            "source": network.source,
            "weights": Path(network.weights).name,
            "weights_sha256": network.weights_sha256,
            "params": network.params,
            "license": network.license_note,
        },
        "recipe": recipe.name,
        "rewrites": list(recipe.targets[target].rewrites),
        "weight_rounding": recipe.weight_rounding,
        "calibration_sha256": calibration_sha256 or None,
    }


def save_prepared(prepared: Prepared, folder: Path) -> None:
    """Keep a prepared graph in a folder, for `load_prepared`, in place of an older one.

    Raises OutputError if that can't be done, or the folder holds something else.
    """
    plain = {name: value for name, value in vars(prepared).items() if name not in ("graph", "pixels", "logits")}
    plain["preprocessing"] = prepared.preprocessing.to_dict()
    size = prepared.preprocessing
    example = (torch.zeros(1, 3, size.height, size.width),)
    with writing(folder):
        if folder.is_dir() and any(folder.iterdir()) and not (folder / STAGE).exists():
            raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY))
        with replacing(folder) as beside:
            beside.mkdir(parents=True)
            with quiet(), torch.no_grad():
                torch.export.save(torch.export.export(prepared.graph, example), beside / GRAPH)
            np.savez(beside / SAMPLES, pixels=prepared.pixels, logits=prepared.logits)
            (beside / STAGE).write_text(json.dumps(plain, indent=1), encoding="utf-8")


def load_prepared(folder: Path) -> Prepared:
    """A graph that `save_prepared` kept; tensors are read with weights_only. InputError if it isn't one."""
    # numpy and torch raise almost anything on a damaged file.
    refused = LibraryErrors(lambda raised: _not_prepared(folder, raised))
    plain = _read_stage(folder)
    with quiet(), weights_only_loads(), refused, np.load(folder / SAMPLES, allow_pickle=False) as samples:
        pixels, logits = samples["pixels"], samples["logits"]
        graph = torch.export.load(folder / GRAPH).module(check_guards=False)
    assert isinstance(graph, GraphModule)
    return Prepared(graph=graph, pixels=pixels, logits=logits, **plain)


def _read_stage(folder: Path) -> dict[str, Any]:
    """Everything of a `Prepared` but its graph and its arrays; InputError if the file has other keys."""
    try:
        plain = json.loads((folder / STAGE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _not_prepared(folder, error) from error
    keys = {field.name for field in fields(Prepared)} - {"graph", "pixels", "logits"}
    if not isinstance(plain, dict) or plain.keys() != keys:
        raise _not_prepared(folder, f"{STAGE} must have the keys {', '.join(sorted(keys))}")
    if not isinstance(plain["labels"], list) or not isinstance(plain["layers"], list):
        raise _not_prepared(folder, f"labels and layers in {STAGE} must be lists")
    find_target(plain["target"])
    preprocessing = Preprocessing.from_dict(plain["preprocessing"])
    return plain | {
        "preprocessing": preprocessing,
        "labels": tuple(plain["labels"]),
        "layers": tuple(plain["layers"]),
    }


def _not_prepared(folder: Path, reason: object) -> InputError:
    return InputError(
        f"'{folder}' is not a graph that `edgekit quantize` wrote: {reason}. Make one with: edgekit quantize MODEL"
    )
