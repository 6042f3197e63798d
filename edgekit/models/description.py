"""What a file of a network, or a folder of `save_pretrained`, says about it beside the tensors.

Class names are those in a labels file, or those that a model's file carries, ImageNet's, or numbers.
"""

import argparse
import ast
import json
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

from torch import Tensor

from edgekit.config.runtimes import CROP_MODES, INTERPOLATIONS
from edgekit.errors import BundleError, ModelError, UsageError, WeightsError
from edgekit.models.options import RESCALING, TORCHVISION, TRANSFORMERS, ModelArgs
from edgekit.models.transforms import NOT_STATED, InputOptions, crop_fraction
from edgekit.runtime.bundle import check_printable

KEYS = (
    "names",
    "class_names",
    "label_names",
    "classes",
    "labels",
    "character",
    "idx_to_class",
    "class_to_idx",
    "id2label",
)
"""Keys under which exporters and training scripts store class names, in lower case: Ultralytics writes `names`,
PaddleOCR `character`, torchvision's data sets have `classes` and `class_to_idx`, and configurations of Hugging Face
`id2label`. The first of them with the right number of names is used."""
LONGEST = 2 << 20
"""Longest text in characters that is parsed: 21,843 names of ImageNet-22k with their synonyms are below 2 MB."""
DEEPEST = 3
"""Levels of nested dicts that are searched, as in `meta.dataset_meta.classes`."""


@dataclass(frozen=True)
class StoredNames:
    """A list of class names in a model's file, in the order of the outputs, or the problem of one that is malformed."""

    key: str
    """Path of keys at which the file stores it, such as "names"."""
    names: tuple[str, ...] = ()
    problem: str = ""
    """Reason why the value is not a list of names; empty if it is one."""
    file: str = ""
    """Name of the file that stores it, if that is not the one with the network or its weights."""


def stored_names(content: object) -> tuple[StoredNames, ...]:
    """The lists of class names in a file's metadata or in a checkpoint's dicts, in the order of `KEYS`.

    Values are texts (a JSON or Python list or dict, or names that lines or commas separate), sequences of names, and
    dicts from indices to names or from names to indices. Values of other types, such as a number of classes, are no
    list of names and are ignored. Nothing in the file is executed.
    """
    entries = entries_of(content, KEYS, lambda value: True)
    return tuple(stored for key, value in entries if (stored := _stored(key, value)) is not None)


def entries_of(content: object, keys: Sequence[str], fits: Callable[[object], bool]) -> list[tuple[str, Any]]:
    """Path and value of each fitting entry with one of the keys, in their order, in dicts that contain no tensors."""
    entries = _entries(content, keys, fits, "", DEEPEST)
    return sorted(entries, key=lambda entry: keys.index(entry[0].rpartition(".")[2].lower()))


def _entries(
    content: object, keys: Sequence[str], fits: Callable[[object], bool], path: str, levels: int
) -> Iterator[tuple[str, Any]]:
    if isinstance(content, argparse.Namespace):
        content = vars(content)
    if not isinstance(content, Mapping) or not levels:
        return
    for key, value in content.items():
        if isinstance(key, str) and key.lower() in keys and fits(value):
            yield f"{path}{key}", value
        elif not (isinstance(value, Mapping) and any(isinstance(inner, Tensor) for inner in value.values())):
            yield from _entries(value, keys, fits, f"{path}{key}.", levels - 1)


def _stored(key: str, value: object) -> StoredNames | None:
    """The names of one entry; None for a value that is no list of names."""
    try:
        names = _names(_parsed(value) if isinstance(value, str) else value)
        return None if names is None else StoredNames(key, _cleaned(names))
    except ValueError as error:
        return StoredNames(key, problem=str(error))


def _parsed(text: str) -> object:
    """The value that a text describes; None for a single word. Raises ValueError for a list or dict with an error."""
    if len(text) > LONGEST:
        raise ValueError(f"has {len(text):,} characters, but at most {LONGEST:,} are read")
    text = text.strip()
    if text.startswith(("[", "{", "(")):
        for parse in (json.loads, ast.literal_eval):
            try:
                with warnings.catch_warnings(action="ignore"):  # of escapes such as "\d"
                    return parse(text)
            except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):  # the last two by deep nesting
                continue
        raise ValueError("is neither a JSON nor a Python list or dict")
    separator = "\n" if "\n" in text else ","
    return text.split(separator) if separator in text else None


def _names(value: Any) -> list[str] | None:
    """Names in the order of the outputs; None for a value of another type. ValueError for indices with gaps."""
    if isinstance(value, Mapping):
        pairs = [_pair(key, entry) for key, entry in value.items()]
        by_index = dict(pair for pair in pairs if pair is not None)
        if not pairs or None in pairs:
            return None
        if sorted(by_index) != list(range(len(pairs))):
            raise ValueError("doesn't number its classes 0, 1, 2, …")
        return [by_index[index] for index in range(len(pairs))]
    if isinstance(value, list | tuple) and value and all(isinstance(name, str) for name in value):
        return list(value)
    return None


def _pair(key: object, value: object) -> tuple[int, str] | None:
    """(index, name) of an entry from an index, which is text in JSON, to a name, or from a name to an index."""
    if isinstance(value, str):
        if isinstance(key, str) and key.isdecimal():
            key = int(key)
        return (key, value) if type(key) is int else None
    return (value, key) if isinstance(key, str) and type(value) is int else None


def _cleaned(names: list[str]) -> tuple[str, ...]:
    """Names without whitespace around them. ValueError for one that a bundle's list of labels can't contain."""
    cleaned = tuple(name.strip() for name in names)
    if "" in cleaned:
        raise ValueError(f"has an empty name for output {cleaned.index('')}")
    try:
        check_printable("it", "".join(cleaned))
    except BundleError:
        raise ValueError("has a name with a control character") from None
    return cleaned


IMAGENET_CLASSES = 1000


@dataclass(frozen=True)
class Labels:
    """Names of a model's classes, in the order of the logits, and where they come from."""

    names: tuple[str, ...]
    origin: str | None = None
    """Key of the model's own file that has the names; None for those of a labels file, ImageNet's and numbered ones."""
    file: str = ""
    """Name of that file, if it is not the one with the network or its weights."""
    doubt: str | None = None
    """Reason why other names that the model's file contains are ignored, in words."""


def choose_labels(
    path: Path | tuple[str, ...] | None, classes: int, stored: Sequence[StoredNames], file: str
) -> Labels:
    """Take the names from the labels file `path`, which may be the names themselves, or else from the model's own file,
    or else as `resolve_labels` does.

    `stored` are the lists of names in the model's own file, called `file`. The first one with a name for each of the
    `classes` outputs is used. Raises the errors of `resolve_labels`.
    """
    if path is not None:
        return Labels(resolve_labels(path, classes))
    fitting = next((entry for entry in stored if not entry.problem and len(entry.names) == classes), None)
    if fitting is not None:
        return Labels(fitting.names, fitting.key, fitting.file)
    problems = [f"'{entry.key}' {entry.problem or f'has {len(entry.names)} names'}" for entry in stored]
    doubt = (
        f"the class names in '{file}' are ignored, because the model has {classes} outputs and {'; '.join(problems)}"
        if problems
        else None
    )
    return Labels(resolve_labels(None, classes), doubt=doubt)


def resolve_labels(path: Path | tuple[str, ...] | None, classes: int) -> tuple[str, ...]:
    """Names of the model's `classes` classes, in the order of the logits.

    A file has one name per line (UTF-8). Without a file, 1000 classes get ImageNet's names and any other number of
    classes the names class_0, class_1, …. Raises UsageError for a file that can't be read, has an empty line or has
    another number of names.
    """
    if path is not None:
        return _checked(path, classes)
    if classes == IMAGENET_CLASSES:
        asset = files("edgekit") / "_assets" / "imagenet_labels.txt"
        return tuple(asset.read_text(encoding="utf-8").splitlines())
    return tuple(f"class_{index}" for index in range(classes))


def read_labels(path: Path | tuple[str, ...]) -> tuple[str, ...]:
    """The names in a labels file, or the names themselves. Raises UsageError for a file that can't be read."""
    if isinstance(path, tuple):
        return path
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise UsageError(f"labels file '{path}' doesn't exist", fix="Correct the path after `--labels`") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"can't read labels file '{path}' ({error})", valid="a UTF-8 file with one class name per line"
        ) from error
    # Not splitlines, which also splits at characters such as U+2028 that a name may contain.
    return tuple(line.strip() for line in text.rstrip().split("\n"))


def _checked(path: Path | tuple[str, ...], classes: int) -> tuple[str, ...]:
    names = read_labels(path)
    origin = f"labels file '{path}'" if isinstance(path, Path) else "the list of labels"
    if "" in names:
        raise UsageError(
            f"line {names.index('') + 1} of {origin} is empty",
            valid="one class name per line",
            fix="Remove the line, or write the name of its class",
        )
    for name in names:
        try:
            check_printable(origin, name)
        except BundleError as error:
            raise UsageError(error.problem, fix="Remove the character") from None
    if len(names) != classes:
        raise UsageError(
            f"{origin} has {len(names)} names, but the model has {classes} classes",
            valid=f"{classes} names, one per line, in the order of the logits",
            fix="Correct the file, or name another with `--labels`",
        )
    return names


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
