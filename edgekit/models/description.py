"""What a checkpoint file, or a folder of `save_pretrained`, says about its network beside the tensors."""

import argparse
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from edgekit.config.choices import CROP_MODES, INTERPOLATIONS
from edgekit.errors import ModelError, WeightsError
from edgekit.models.inputs import NOT_STATED, InputOptions
from edgekit.models.labels import StoredNames, entries_of, stored_names
from edgekit.models.options import RESCALING, TORCHVISION, TRANSFORMERS, ModelArgs
from edgekit.models.transforms import crop_fraction

# Keys under which training scripts and Lightning's hyperparameters name the architecture, the most specific first.
_ARCHITECTURE_KEYS = ("arch", "architecture", "model_name", "timm_model", "model_arch", "backbone", "encoder", "model")


@dataclass(frozen=True)
class Description:
    """What a checkpoint says about its network; None or empty where it doesn't say."""

    architecture: str | None = None
    """Name of the network as the checkpoint writes it, which need not be one that edgekit knows."""
    origin: str = ""
    """Key and file in which the architecture is."""
    model_args: ModelArgs = field(default_factory=dict)
    """Arguments of timm's constructor."""
    inputs: InputOptions = NOT_STATED
    """The preprocessing."""
    inputs_origin: str = ""
    """File, or key of the file, in which the preprocessing is."""


def describe(content: object, file: str) -> Description:
    """What the dicts of a training script's checkpoint say; `file` is the checkpoint's name."""
    if not isinstance(content, Mapping):
        return Description()
    named = entries_of(content, _ARCHITECTURE_KEYS, lambda value: isinstance(value, str) and value != "")
    architecture, origin = (named[0][1], f"'{named[0][0]}' in '{file}'") if named else (None, "")
    settings = content.get("args")
    settings = vars(settings) if isinstance(settings, argparse.Namespace) else settings
    if not isinstance(settings, Mapping):
        return Description(architecture, origin)
    if "val_crop_size" in settings and "val_resize_size" in settings:  # torchvision's script
        name = settings.get("model")
        named_there = f"{TORCHVISION}{name}" if isinstance(name, str) and ":" not in name else architecture
        # What inception_v3 and googlenet do with their input depends on whether they began with published weights.
        from_scratch = name in RESCALING and not (settings.get("weights") or settings.get("pretrained"))
        arguments: ModelArgs = {"transform_input": False} if from_scratch else {}
        return Description(named_there, f"'args.model' in '{file}'", arguments, _torchvision_inputs(settings), "args")
    extra = settings.get("model_kwargs")
    arguments = dict(extra) if isinstance(extra, Mapping) else {}
    inputs = timm_inputs(settings)
    return Description(architecture, origin, arguments, inputs, f"'args' in '{file}'" if inputs != NOT_STATED else "")


def timm_inputs(config: Mapping[str, Any]) -> InputOptions:
    """The preprocessing in a `pretrained_cfg` of timm or in the arguments of its training script."""
    size = config.get("input_size")
    if not (isinstance(size, list | tuple) and len(size) == 3 and all(type(side) is int for side in size)):
        side = config.get("img_size")
        size = (3, side, side) if type(side) is int else None
    return InputOptions(
        size=(size[1], size[2]) if size else None,
        mean=_numbers(config.get("mean")),
        std=_numbers(config.get("std")),
        interpolation=_choice(config.get("interpolation"), INTERPOLATIONS),
        crop_pct=_fraction(config.get("crop_pct")),
        crop_mode=_choice(config.get("crop_mode"), CROP_MODES),
    )


def _torchvision_inputs(settings: Mapping[str, Any]) -> InputOptions:
    crop, resize = settings["val_crop_size"], settings["val_resize_size"]
    if type(crop) is not int or type(resize) is not int or not 0 < crop <= resize:
        return NOT_STATED
    filter_ = _choice(settings.get("interpolation"), INTERPOLATIONS)
    return InputOptions((crop, crop), interpolation=filter_, crop_pct=crop_fraction((crop,), (resize,)))


def _numbers(value: object) -> tuple[float, ...] | None:
    if not isinstance(value, list | tuple) or len(value) not in (1, 3):
        return None
    return tuple(map(float, value)) if all(isinstance(number, int | float) for number in value) else None


def _choice(value: object, valid: tuple[str, ...]) -> str | None:
    return value if isinstance(value, str) and value in valid else None


def _fraction(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and 0 < value <= 1 else None


CLASSIFIES = "ForImageClassification"
"""Part of the names of transformers' classes that classify images."""
CONFIG = "config.json"
PREPROCESSOR = "preprocessor_config.json"
WEIGHTS = ("model.safetensors", "pytorch_model.bin")
"""Names of the file with the weights, in the order of preference."""
_INDEX = "model.safetensors.index.json"
_PLACEHOLDER = re.compile(r"LABEL_\d+")


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

    Raises ModelError if it is not a configuration of timm, or of a classifier of transformers.
    """
    path = folder / CONFIG
    config = _read(path)
    names = names_of_config(config, CONFIG)
    if isinstance(config.get("architecture"), str):
        pretrained = config.get("pretrained_cfg", config)
        arguments = config.get("model_args", {})
        inputs = timm_inputs(pretrained) if isinstance(pretrained, Mapping) else NOT_STATED
        arguments = {key: _tuple(value) for key, value in arguments.items()} if isinstance(arguments, dict) else {}
        return Description(config["architecture"], f"'{CONFIG}'", arguments, inputs, f"'{CONFIG}'"), names
    architecture, arguments = _of_transformers(config, str(path))
    return Description(architecture, f"'{CONFIG}'", arguments), names


def _of_transformers(config: Mapping[str, Any], where: str) -> tuple[str, ModelArgs]:
    """The name and constructor arguments of transformers' own network.

    Raises ModelError unless it is a classifier of images, or a model without a head, such as a Dinov2Model.
    """
    family, names = config.get("model_type"), config.get("architectures")
    names = [str(name) for name in names] if isinstance(names, list) else []
    if isinstance(family, str) and any(CLASSIFIES in name or name.endswith("Model") for name in names):
        return f"{TRANSFORMERS}{family}", {key: value for key, value in config.items() if key != "model_type"}
    described = f"a model of type '{family}'" + (f" ({', '.join(names)})" if names else "")
    raise ModelError(
        f"'{where}' describes {described}",
        valid="an image classifier of transformers (...ForImageClassification) or one without a head (...Model), or a "
        "configuration of timm",
        fix="Deploy the model from your own code as module:factory, or export it to ONNX and deploy the .onnx file",
    )


def names_of_config(config: Mapping[str, Any], file: str) -> tuple[StoredNames, ...]:
    """The class names in a configuration of timm or transformers, which calls unnamed ones LABEL_0, LABEL_1, …."""
    stored = (replace(entry, file=file) for entry in stored_names(config))
    return tuple(entry for entry in stored if entry.problem or not all(map(_PLACEHOLDER.fullmatch, entry.names)))


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
