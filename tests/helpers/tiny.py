"""Tiny networks, with their bundles and manifests, which most tests use."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edgekit.config.runtimes import RUNTIMES, DeviceClass
from edgekit.images.dataset import Dataset
from edgekit.images.preprocess import Preprocessing
from edgekit.runtime.bundle import Manifest
from edgekit.runtime.metadata import Metadata

ROOT = Path(__file__).resolve().parents[2]
SIDE = 32
CLASSES = 10
RIDGE = 100.0
X86 = DeviceClass.load("x86-64-v3")
HALF = (0.5, 0.5, 0.5)
PREPROCESSING = Preprocessing(SIDE, SIDE, "bilinear", 1.0, "center", HALF, HALF)
METADATA = Metadata(target="onnx", precision="float", scheme="float32", preprocessing=PREPROCESSING)
MakeBundle = Callable[..., Path]


def compile_all(network: Any, shape: tuple[int, ...], folder: Path, dtype: str = "float32") -> Path:
    """Compile a torch network for every runtime, including the fake one, without edgekit's backends."""
    import litert_torch
    import torch

    from edgekit.compat.openvino import openvino
    from edgekit.compat.torch_export import decomposing_by_node

    x = torch.zeros(shape, dtype=getattr(torch, dtype))
    with warnings.catch_warnings(), decomposing_by_node():
        warnings.simplefilter("ignore")  # of the converters
        program = torch.export.export(network, (x,))
        names: dict[str, Any] = {"input_names": ["x"], "output_names": ["logits"]}
        torch.onnx.export(program, (), folder / "model.onnx", dynamo=True, external_data=False, verbose=False, **names)
        openvino.save_model(openvino.convert_model(program, input=list(shape)), folder / "model.xml")
        litert_torch.convert(network, (x,)).export(str(folder / "model.tflite"))
        torch.export.save(program, folder / "model.pt2")
    return folder


def with_fitted_head(network: Any, data: Path) -> dict[str, Any]:
    """The state dict of a timm network, with the head that classifies the images of a data set best (ridge regression).

    With a head at random, the accuracy would be near chance, and no row would pass. With a smaller `RIDGE`, the head
    would tell more of the images apart, and amplify what quantization adds.
    """
    import torch

    dataset = Dataset.open(data, network.labels)
    crops = dataset.crop(dataset.samples, network.preprocessing)
    with torch.no_grad():
        pixels = torch.from_numpy(network.preprocessing.normalize(crops.pixels))
        features = network.module.forward_head(network.module.forward_features(pixels), pre_logits=True).double()
    inputs = torch.nn.functional.pad(features, (0, 1), value=1.0)
    wanted = 10 * torch.nn.functional.one_hot(torch.from_numpy(crops.labels), network.classes).double()
    columns = torch.linalg.solve(inputs.T @ inputs + RIDGE * torch.eye(inputs.shape[1]), inputs.T @ wanted).float()
    head = network.module.pretrained_cfg["classifier"]
    fitted = {f"{head}.weight": columns[:-1].T.contiguous(), f"{head}.bias": columns[-1].contiguous()}
    return {**network.module.state_dict(), **fitted}


def model_files(target: str, folder: Path) -> dict[str, Path]:
    """A target's files in a folder of `compile_all`, by name."""
    runtime, model = RUNTIMES[target], folder / "model"
    paths = [model.with_suffix(suffix) for suffix in (runtime.model_suffix, *runtime.companion_suffixes)]
    return {path.name: path for path in paths if path.exists()}


def tiny_manifest(target: str = "onnx", **changes: Any) -> Manifest:
    """A manifest that fits the tiny network."""
    runtime = RUNTIMES[target]
    values: dict[str, Any] = {
        "target": target,
        "precision": "float",
        "scheme": "float32",
        "model_file": f"model{runtime.model_suffix}",
        "input_shape": (1, 3, SIDE, SIDE),
        "layout": "NCHW",
        "dtype": "float32",
        "input_name": "x",
        "output_name": "logits",
        "classes": CLASSES,
        "preprocessing": PREPROCESSING,
        "engine": {"package": runtime.distributions[0], "minimum": "1.0"},
        "device_class": "x86-64",
        "fingerprint": "0" * 64,
        "layers": ({"name": "conv", "op": "conv", "macs": 48600, "int8": False},),
        "provenance": {"model": "tiny"},
    }
    return Manifest(**{**values, **changes})


def tiny_labels() -> list[str]:
    return [f"class {index}" for index in range(CLASSES)]


TINY_ARGS = "depths=(1,1,1,1),dims=(8,16,32,64),num_classes=10"
TINY_MODEL = ["convnextv2_atto", "--model-args", TINY_ARGS, "--imgsz", "32", "--crop-pct", "1.0"]
"""Command-line arguments for a ConvNeXt V2 of 90 thousand parameters."""
VIT_ARGS = "patch_size=8,depth=1,embed_dim=32,num_heads=2,num_classes=10"
TINY_VIT = ["vit_tiny_patch16_224", "--model-args", VIT_ARGS, "--imgsz", "32", "--crop-pct", "1.0"]
"""A ViT of one block, which is exported and calibrated in less than half the time."""


def levels_apart(ours: Preprocessing, photo: Image.Image, expected: NDArray[np.float32]) -> int:
    """The largest difference, in levels of 0 to 255, between an image that edgekit prepared and another's [C,H,W]."""
    difference = np.abs(ours(photo)[0] - expected) * np.reshape(ours.std, (-1, 1, 1))
    return round(255 * float(difference.max()))
