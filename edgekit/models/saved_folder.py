"""Folders that `save_pretrained` of timm or transformers wrote: config.json, the weights and the preprocessing."""

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgekit.errors import ModelError, WeightsError
from edgekit.models.class_names import StoredNames, stored_names
from edgekit.models.description import Description, Inputs, timm_inputs
from edgekit.models.image_processor import processor_inputs
from edgekit.models.transformers_layout import timm_model, transformers_model

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
        inputs = timm_inputs(pretrained) if isinstance(pretrained, Mapping) else Inputs()
        arguments = {key: _tuple(value) for key, value in arguments.items()} if isinstance(arguments, dict) else {}
        return Description(config["architecture"], f"'{CONFIG}'", arguments, inputs, f"'{CONFIG}'"), names
    timms = timm_model(config, str(path))
    if timms is None:
        architecture, arguments = transformers_model(config, str(path))
        return Description(architecture, f"'{CONFIG}'", arguments), names
    architecture, arguments = timms
    inputs, origin = Inputs(), ""
    if (folder / PREPROCESSOR).is_file():
        inputs, origin = processor_inputs(_read(folder / PREPROCESSOR)), f"'{PREPROCESSOR}'"
    return Description(architecture, f"'{CONFIG}'", arguments, inputs, origin), names


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
