"""From a network to bundles: `quantize_stage` gives a graph for one runtime, `compile_stage` a bundle of it.

Both work in memory for `deploy`; the steps at the command line keep the graph in a folder between them.
"""

import hashlib
import importlib.metadata
import json
import os
import platform
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.fx import GraphModule

from edgekit import __version__
from edgekit.backends import Artifact, load_backend
from edgekit.bundle import Bundle, Golden, write_bundle
from edgekit.errors import CompileError, EdgekitError, InputError, ParityError, WeightsError
from edgekit.graph import layers
from edgekit.libraries import quiet
from edgekit.manifest import EngineRequirement, Layer, Manifest
from edgekit.models import Network
from edgekit.preprocess import Preprocessing
from edgekit.profiles import Precision, Recipe, TargetRecipe
from edgekit.quantize import Placement, quantize
from edgekit.rewrites import rewrite
from edgekit.run_folder import writing
from edgekit.runtime.base import first_line
from edgekit.runtime.session import Session
from edgekit.targets import find_target

PARITY = 1e-3
"""Greatest difference between a float bundle's logits and torch's, as a share of the largest logit."""
GOLDEN_SPREAD = {"float": 1e-2, "int8": 0.3}
"""Golden tolerance in standard deviations of the logits: kernels of other processors round differently."""
GRAPH, STAGE, SAMPLES = "graph.pt2", "stage.json", "samples.npz"
PACKAGES = ("torch", "timm", "nncf", "openvino", "onnx", "onnxruntime", "litert-torch", "ai-edge-litert", "numpy")


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
    """Hash of everything that goes into a bundle: equal fingerprints mean the same bundle."""
    recipe = recipe.for_target(target)
    parts: list[Any] = [network.weights_sha256, network.name, str(network.module), network.classes, network.labels]
    parts += [network.preprocessing.to_dict(), target, precision, cls, asdict(recipe.targets[target]), versions()]
    if precision == "int8":
        parts += [calibration, {**asdict(recipe), "targets": None}]
    return hashlib.sha256(json.dumps(parts, default=str, sort_keys=True).encode()).hexdigest()


def versions() -> dict[str, str]:
    """Versions of edgekit, Python and the packages that make bundles."""
    found = {"edgekit": __version__, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


@torch.no_grad()
def torch_logits(network: Network, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Logits [N,classes] of the float network for cropped images [N,H,W,3]; WeightsError if one isn't finite."""
    images = torch.from_numpy(network.preprocessing.normalize(pixels))
    logits: NDArray[np.float32] = network.module(images).numpy()
    if not np.isfinite(logits).all():
        raise WeightsError(f"model '{network.name}' gives NaN or infinity for a real image: its weights are damaged.")
    return logits


def quantize_stage(
    network: Network,
    graph: GraphModule,
    target: str,
    precision: Precision,
    recipe: Recipe,
    device_class: str,
    pixels: NDArray[np.uint8],
    logits: NDArray[np.float32],
    calibration: Sequence[NDArray[np.float32]] = (),
    calibration_sha256: str = "",
    on_sample: Callable[[], None] = lambda: None,
) -> Prepared:
    """Rewrite the exported graph for `target` and, for int8, calibrate it on images float32 [1,3,H,W]."""
    recipe = recipe.for_target(target)
    wants = recipe.targets[target]
    rewritten = rewrite(graph, wants.rewrites)
    placement = Placement(wants, recipe.float_layers)
    integer = precision == "int8" and recipe.scheme == "w8a8"
    covered = {layer.name for node, layer in layers(rewritten) if integer and placement.covers(node)}
    table = tuple(
        Layer(name=layer.name, op=layer.op, macs=layer.macs, int8=layer.name in covered) for _, layer in layers(graph)
    )
    scheme = "float32"
    if precision == "int8":
        rewritten = quantize(rewritten, calibration, recipe, target, on_sample)
        scheme = _scheme(recipe, wants)
    return Prepared(
        rewritten,
        target,
        precision,
        scheme,
        network.preprocessing,
        network.labels,
        table,
        provenance_of(network, recipe, target, calibration_sha256),
        device_class,
        fingerprint(network, target, precision, recipe, calibration_sha256, device_class),
        pixels,
        logits,
    )


def _scheme(recipe: Recipe, wants: TargetRecipe) -> str:
    """What is int8 in an int8 bundle, in words."""
    if recipe.scheme == "w8":
        return "w8, int8 weights per channel of dense layers, computed with in float"
    where = "inputs and outputs" if wants.quantize_outputs else "inputs"
    gelu = ", GELU from int8 to int8" if wants.quantize_gelu else ""
    residuals = ", residual sums from int8 to int8" if wants.quantize_residuals else ""
    return f"static w8a8, int8 weights per channel, {wants.activations} {where} of dense layers{gelu}{residuals}"


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
    """Compilers raise whatever they like: all of it is a CompileError with its first line."""
    backend = load_backend(prepared.target)
    try:
        with quiet(), torch.no_grad():
            return backend.compile(prepared.graph, folder, embedded(prepared))
    except (EdgekitError, OSError, MemoryError):
        raise
    except Exception as error:
        title = find_target(prepared.target).title
        raise CompileError(f"{title}'s compiler refused the graph: {first_line(error)}") from error


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


def save_prepared(prepared: Prepared, folder: Path) -> None:
    """Keep a prepared graph in a folder, for `load_prepared`. Written beside and renamed; an older one is replaced."""
    beside = folder.with_name(f".{folder.name}.tmp-{os.getpid()}")
    plain = {name: value for name, value in vars(prepared).items() if name not in ("graph", "pixels", "logits")}
    plain["preprocessing"] = prepared.preprocessing.to_dict()
    size = prepared.preprocessing
    example = (torch.zeros(1, 3, size.height, size.width),)
    with writing(folder):
        try:
            beside.mkdir(parents=True)
            with quiet(), torch.no_grad():
                torch.export.save(torch.export.export(prepared.graph, example), beside / GRAPH)
            np.savez(beside / SAMPLES, pixels=prepared.pixels, logits=prepared.logits)
            (beside / STAGE).write_text(json.dumps(plain, indent=1), encoding="utf-8")
            if (folder / STAGE).exists():
                shutil.rmtree(folder)
            beside.rename(folder)
        finally:
            shutil.rmtree(beside, ignore_errors=True)


def load_prepared(folder: Path) -> Prepared:
    """A graph that `save_prepared` kept; tensors are read with weights_only. InputError if it isn't one."""
    forced = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"  # torch.export.load has no argument for it
    before = os.environ.get(forced)
    os.environ[forced] = "1"
    try:
        plain = json.loads((folder / STAGE).read_text(encoding="utf-8"))
        with np.load(folder / SAMPLES, allow_pickle=False) as samples, quiet():
            graph = torch.export.load(folder / GRAPH).module(check_guards=False)
            assert isinstance(graph, GraphModule)
            find_target(plain["target"])
            plain["preprocessing"] = Preprocessing.from_dict(plain["preprocessing"])
            plain["labels"], plain["layers"] = tuple(plain["labels"]), tuple(plain["layers"])
            return Prepared(graph=graph, pixels=samples["pixels"], logits=samples["logits"], **plain)
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            f"'{folder}' is not a graph that `edgekit quantize` wrote: {error}. Make one with: edgekit quantize MODEL"
        ) from error
    finally:
        if before is None:
            del os.environ[forced]
        else:
            os.environ[forced] = before
