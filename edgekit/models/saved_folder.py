"""Folders that `save_pretrained` of timm or transformers wrote: config.json, the weights and the preprocessing."""

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgekit.errors import ModelError, WeightsError
from edgekit.images.preprocess import CROP_MODES
from edgekit.models.class_names import StoredNames, stored_names
from edgekit.models.description import Description, Inputs, timm_inputs
from edgekit.models.transformers_layout import timm_model

CONFIG = "config.json"
PREPROCESSOR = "preprocessor_config.json"
WEIGHTS = ("model.safetensors", "pytorch_model.bin")
"""Names of the file with the weights, in the order of preference."""
_INDEX = "model.safetensors.index.json"
# Pillow's numbers of its filters, which transformers stores.
_FILTERS = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}
_PLACEHOLDER = re.compile(r"LABEL_\d+")
# ConvNeXt's preprocessing in transformers doesn't crop images of this size or above.
_SQUASHED_FROM = 384


def weight_files(folder: Path) -> tuple[Path, ...]:
    """The files with the weights: one, or the parts that an index lists. Raises WeightsError if there is none."""
    for name in WEIGHTS:
        if (folder / name).is_file():
            return (folder / name,)
    if (folder / _INDEX).is_file():
        parts = _read(folder / _INDEX).get("weight_map", {})
        names = sorted(set(parts.values())) if isinstance(parts, dict) else []
        # A part beside the index, and nowhere else on this machine.
        if names and all(isinstance(name, str) and name == Path(name).name for name in names):
            return tuple(folder / name for name in names)
    raise WeightsError(
        f"folder '{folder}' contains no weights",
        valid=f"a folder that save_pretrained wrote, with {CONFIG} and {' or '.join(WEIGHTS)}",
        fix="Name such a folder, or a checkpoint file",
    )


def describe_folder(folder: Path) -> tuple[Description, tuple[StoredNames, ...]]:
    """What the configuration in a folder says about the network, and its class names.

    Raises ModelError if it is not a configuration of timm, or of a model of transformers that edgekit reads.
    """
    path = folder / CONFIG
    config = _read(path)
    stored = (replace(entry, file=CONFIG) for entry in stored_names(config))
    names = tuple(entry for entry in stored if entry.problem or not all(map(_PLACEHOLDER.fullmatch, entry.names)))
    if isinstance(config.get("architecture"), str):
        pretrained = config.get("pretrained_cfg", config)
        arguments = config.get("model_args", {})
        inputs = timm_inputs(pretrained) if isinstance(pretrained, Mapping) else Inputs()
        arguments = {key: _tuple(value) for key, value in arguments.items()} if isinstance(arguments, dict) else {}
        return Description(config["architecture"], f"'{CONFIG}'", arguments, inputs, f"'{CONFIG}'"), names
    architecture, arguments = timm_model(config, str(path))
    inputs, origin = Inputs(), ""
    if (folder / PREPROCESSOR).is_file():
        inputs, origin = _preprocessing(_read(folder / PREPROCESSOR)), f"'{PREPROCESSOR}'"
    return Description(architecture, f"'{CONFIG}'", arguments, inputs, origin), names


def _preprocessing(config: Mapping[str, Any]) -> Inputs:
    """The preprocessing of ViT's and ConvNeXt's image processors of transformers."""
    plain = timm_inputs(
        {
            "mean": config.get("image_mean"),
            "std": config.get("image_std"),
            "interpolation": _FILTERS.get(config.get("resample", -1)),
        }
    )
    if config.get("do_normalize") is False:
        plain = Inputs(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), interpolation=plain.interpolation)
    size = config.get("size")
    sides: Any = (size, size) if type(size) is int else None
    shortest = None
    if isinstance(size, Mapping):
        shortest = size.get("shortest_edge")
        sides = (size["height"], size["width"]) if {"height", "width"} <= size.keys() else (shortest, shortest)
    if sides is None or not all(type(side) is int for side in sides):
        return plain
    crop = config.get("crop_pct")
    center, squash, _ = CROP_MODES
    crop_size = config.get("crop_size")
    if config.get("do_center_crop") and isinstance(crop_size, Mapping) and {"height", "width"} <= crop_size.keys():
        # CLIP-like: the shorter side is resized, and the centre is cropped
        sides, crop = (crop_size["height"], crop_size["width"]), crop_size["height"] / (shortest or sides[0])
        return _with(plain, sides, crop, center)
    if crop is not None and shortest is not None and shortest < _SQUASHED_FROM:
        return _with(plain, sides, float(crop), center)
    return _with(plain, sides, 1.0, squash)


def _with(inputs: Inputs, size: tuple[int, int], crop_pct: float, crop_mode: str) -> Inputs:
    return Inputs(size, inputs.mean, inputs.std, inputs.interpolation, crop_pct, crop_mode)


def _tuple(value: object) -> object:
    return tuple(map(_tuple, value)) if isinstance(value, list) else value


def _read(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise ModelError(
            f"folder '{path.parent}' has no {path.name}, so it isn't one that save_pretrained wrote",
            valid=f"a folder with {CONFIG} and {' or '.join(WEIGHTS)}",
            fix="Name such a folder, or a checkpoint file",
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"can't read '{path}' ({error})", fix="Save the model again with save_pretrained") from error
    if not isinstance(value, dict):
        raise ModelError(f"'{path}' contains no JSON object", fix="Save the model again with save_pretrained")
    return value
