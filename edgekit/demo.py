"""The job that edgekit ships: a small ConvNeXt V2 trained on CIFAR-10, with images to calibrate and evaluate it on."""

from importlib.resources import files
from pathlib import Path
from typing import Any

MODEL = "convnextv2_atto"
MODEL_ARGS: dict[str, Any] = {"depths": (2, 2, 4, 2), "dims": (32, 64, 128, 288), "num_classes": 10, "conv_mlp": False}


def demo_values(given: dict[str, Any]) -> dict[str, Any]:
    """A `demo` command's arguments completed to those of `deploy`; what was given stays."""
    folder = Path(str(files("edgekit") / "_assets" / "demo"))
    own_data = given["data"] is not None
    return given | {
        "model": MODEL,
        "extra_args": MODEL_ARGS,
        "model_args": None,
        "weights": given["weights"] or str(folder / "convnextv2_cifar10.safetensors"),
        "data": given["data"] or folder / "evaluation.zip",
        "calibration_data": given["calibration_data"] or (None if own_data else folder / "calibration.zip"),
        "imgsz": "96",
        "mean": "0.4914,0.4822,0.4465",
        "std": "0.2470,0.2435,0.2616",
        "interpolation": "bicubic",
        "crop_pct": 1.0,
        "labels": folder / "labels.txt",
        "output": given["output"] or Path("runs/demo"),
    }
