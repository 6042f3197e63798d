"""manifest.json: the description of a bundle, and the strict parser that reads it.

A manifest may come from a stranger, so every key, type, name and size is checked before any of it is used.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, NotRequired, TypedDict, get_args

from edgekit.config.choices import Activation
from edgekit.config.runtimes import RUNTIMES
from edgekit.errors import BundleError
from edgekit.images.preprocess import CHANNELS, MAX_SIDE, Preprocessing
from edgekit.runtime.strict_json import (
    Parser,
    check_keys,
    choice,
    load_strict,
    matching,
    parse_boolean,
    parse_object,
    parse_text,
    parser,
    record,
    refuse,
    whole,
)

MANIFEST = "manifest.json"
SCHEMA_VERSION = 1
MAX_CLASSES = 1_000_000
_OPTIONAL = {"task": "single-label", "activation": "softmax", "thresholds": None, "threads": None}
"""Keys that a manifest lacks if they have this value, so that older versions of edgekit read the bundle."""


class FileEntry(TypedDict):
    """SHA-256 of one file as 64 hexadecimal digits, and its size in bytes."""

    sha256: str
    size_bytes: int


class EngineRequirement(TypedDict):
    """Distribution that runs the model, and the oldest version that can load it."""

    package: str
    minimum: str


class ManifestLayer(TypedDict):
    """A dense, convolution or matmul layer as it was compiled."""

    name: str
    """Path of the module in the network, such as "stages.0.blocks.0.mlp.fc1"."""
    op: str
    """Kind of layer: "conv", "depthwise", "linear" or "matmul"."""
    macs: int
    """Multiply-accumulates for one image."""
    int8: bool
    """Whether it is quantized."""
    reason: NotRequired[str]
    """Why it is in float although the recipe quantizes it; missing in all other layers."""


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Content of a bundle's manifest.json, except for schema_version."""

    target: str
    """Runtime that the model was compiled for: "openvino", "onnx" or "tflite"."""
    precision: Literal["float", "int8"]
    """Whether the model was quantized ("int8") or not ("float")."""
    scheme: str
    """Description of the quantization, such as "static w8a8, int8 weights per channel, …", or "float32"."""
    model_file: str
    """Name of the file that the engine opens."""
    input_shape: tuple[int, int, int, int]
    """Shape of the input for one image, [1,C,H,W]."""
    layout: Literal["NCHW"] = "NCHW"
    """Order of the axes in `input_shape`, which older versions of edgekit read."""
    dtype: Literal["float32"] = "float32"
    """Type of the input and of the outputs."""
    input_name: str
    """Name of the input tensor in the model file."""
    output_name: str
    """Name of the output tensor in the model file."""
    classes: int
    """Number of outputs for each image: one logit per class, or the values of a vector."""
    task: str = "single-label"
    """What the outputs mean: "single-label", "multi-label" or "embedding"."""
    activation: Activation = "softmax"
    """What follows the model: softmax over the classes, a sigmoid for each class, or the vector's length made 1."""
    thresholds: Sequence[float] | None = None
    """Smallest probability, from 0 to 1, at which an image has each label; None for 0.5. Only with a sigmoid."""
    preprocessing: Preprocessing
    """Resizing, cropping and normalization of images."""
    engine: EngineRequirement
    """Distribution that runs the model, and its oldest version."""
    device_class: str
    """Device class that the bundle was made for, such as "raspberry-pi-5"."""
    fingerprint: str
    """Hash of everything that the bundle was made from: network, recipe, versions, and for INT8 calibration images."""
    session: Mapping[str, Any] = field(default_factory=dict)
    """Options for the engine; the runtime table lists the options of each runtime."""
    threads: int | None = None
    """Number of threads with which the bundle was fastest on its device; None for every physical core."""
    pairs_that_can_saturate: int | None = None
    """Number of pairs of INT8 weights that can saturate on x86 processors without VNNI, counted in the model file.

    None for a float bundle, and where it is unknown, as in bundles of older versions.
    """
    layers: Sequence[ManifestLayer] = ()
    """Layers that multiply and accumulate, in the order of the graph."""
    provenance: Mapping[str, Any] = field(default_factory=dict)
    """Origin of the bundle: model, hash of the weights, recipe, rewrites, calibration images and versions."""
    labels_file: str = "labels.txt"
    """Name of the file with one label per line."""
    golden_file: str = "golden.npz"
    """Name of the file with the golden samples."""
    files: Mapping[str, FileEntry] = field(default_factory=dict)
    """Hash and size of every file, by name; `write_bundle` fills them in."""

    def recorded(self, *keys: str) -> str | None:
        """The text at these nested keys of the provenance, or None: it may come from a stranger, in any shape."""
        value: object = self.provenance
        for key in keys:
            value = value.get(key) if isinstance(value, Mapping) else None
        return value if isinstance(value, str) else None

    @property
    def temperature(self) -> float | None:
        """The temperature by which the last layer divides the outputs, as the provenance records it; None for none."""
        value = self.provenance.get("temperature")
        return value if isinstance(value, float) else None

    @property
    def gives_vectors(self) -> bool:
        """Whether the outputs are a vector, which `Session.embed` returns, and no scores of classes."""
        return self.activation in ("normalize", "none")

    @property
    def made_with(self) -> str | None:
        """Distribution and version of the runtime that computed the golden samples, such as "onnxruntime 1.32.0"."""
        package = self.engine["package"]
        version = self.recorded("versions", package)
        return f"{package} {version}" if version else None

    def to_dict(self) -> dict[str, object]:
        """The manifest as JSON values, with schema_version first."""
        values = {"schema_version": SCHEMA_VERSION} | asdict(self)
        values = {key: value for key, value in values.items() if key not in _OPTIONAL or value != _OPTIONAL[key]}
        return values | {"preprocessing": self.preprocessing.to_dict(), "input_shape": list(self.input_shape)}

    @classmethod
    def from_dict(cls, values: object) -> "Manifest":
        """Inverse of `to_dict`; raises BundleError that names the key that is missing, unknown or wrong."""
        entries = parse_object("manifest", values)
        version = entries.get("schema_version")
        if type(version) is not int or version != SCHEMA_VERSION:
            refuse("schema_version", version, str(SCHEMA_VERSION), "Update edgekit to read a newer bundle")
        entries = {"pairs_that_can_saturate": None, **_OPTIONAL, **entries}  # which a manifest may lack
        check_keys("manifest", entries, ("schema_version", *(item.name for item in fields(cls))))
        manifest = cls(**{key: parse(key, entries[key]) for key, parse in _PARSERS.items()})
        _check_agreement(manifest)
        return manifest


def parse_manifest(text: str) -> Manifest:
    """Parse the JSON text of a manifest; raises BundleError for anything that `to_dict` would not write."""
    try:
        values = load_strict(text)
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{MANIFEST} is not valid JSON: {error}") from error
    return Manifest.from_dict(values)


def _is_file_name(value: object) -> bool:
    fits = isinstance(value, str) and re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}", value) is not None
    return fits and str(value).casefold() != MANIFEST


def _is_shape(value: Any) -> bool:
    fits = isinstance(value, list) and len(value) == 4 and all(type(size) is int for size in value)
    return fits and value[0] == 1 and value[1] in CHANNELS and all(1 <= size <= MAX_SIDE for size in value)


check_file_name = parser(_is_file_name, "a file name of letters, digits, '.', '_' and '-', without a folder")
_shape = parser(_is_shape, f"[1, 3 or 1, height, width] with sides from 1 to {MAX_SIDE}")
_list = parser(lambda value: isinstance(value, list | tuple), "a list")
_share = parser(lambda value: type(value) in (int, float) and 0 <= value <= 1, "a number from 0 to 1")
_layer = record({"reason": parse_text}, name=parse_text, op=parse_text, macs=whole(0, 1 << 60), int8=parse_boolean)
_file_entry = record(sha256=matching("[0-9a-f]{64}", "64 hexadecimal digits"), size_bytes=whole(0, 1 << 50))


def _thresholds(key: str, value: object) -> tuple[float, ...] | None:
    if value is None:
        return None
    return tuple(float(_share(f"{key}[{i}]", item)) for i, item in enumerate(_list(key, value)))


def _files(key: str, value: object) -> dict[str, object]:
    entries = parse_object(key, value)
    return {check_file_name(key, name): _file_entry(f"{key}.{name}", entry) for name, entry in entries.items()}


_PARSERS: dict[str, Parser] = {
    "target": lambda key, value: choice(*RUNTIMES)(key, value),  # a runtime may be registered later
    "precision": choice("float", "int8"),
    "scheme": parse_text,
    "model_file": check_file_name,
    "input_shape": lambda key, value: tuple(_shape(key, value)),
    "layout": choice("NCHW"),
    "dtype": choice("float32"),
    "input_name": parse_text,
    "output_name": parse_text,
    "classes": whole(1, MAX_CLASSES),
    "task": matching("[a-z][a-z-]{0,31}", "a name of small letters and '-', such as single-label"),
    "activation": choice(*get_args(Activation)),
    "thresholds": _thresholds,
    "preprocessing": lambda _, value: Preprocessing.from_dict(value),
    # Both become part of a pip command that a user may paste into a shell.
    "engine": record(
        package=matching(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", "a package name"),
        minimum=matching(r"\d+(\.\d+){0,4}", "a version like 1.20"),
    ),
    "device_class": parse_text,
    "fingerprint": parse_text,
    "session": parse_object,
    "threads": parser(
        lambda value: value is None or (type(value) is int and value >= 1), "a whole number from 1, or null"
    ),
    "pairs_that_can_saturate": parser(
        lambda value: value is None or (type(value) is int and value >= 0), "a whole number from 0, or null"
    ),
    "layers": lambda key, value: tuple(_layer(f"{key}[{i}]", item) for i, item in enumerate(_list(key, value))),
    "provenance": parse_object,
    "labels_file": check_file_name,
    "golden_file": check_file_name,
    "files": _files,
}


def _check_agreement(manifest: Manifest) -> None:
    """Check that the keys agree with each other; raises BundleError."""
    named = {key: getattr(manifest, key) for key in ("model_file", "labels_file", "golden_file")}
    for key, name in named.items():
        if name not in manifest.files:
            refuse(key, name, "a file that key 'files' lists")
    for key in ("labels_file", "golden_file"):
        others = [name.casefold() for other, name in named.items() if other != key]
        if named[key].casefold() in others:
            refuse(key, named[key], "a file that no other key names")
    shape = manifest.preprocessing.input_shape
    if manifest.input_shape != shape:
        refuse("input_shape", list(manifest.input_shape), f"{list(shape)}, the output of the preprocessing")
    if manifest.thresholds is not None and manifest.activation != "sigmoid":
        refuse("thresholds", list(manifest.thresholds), "no thresholds, because activation is not sigmoid")
    if manifest.thresholds is not None and len(manifest.thresholds) != manifest.classes:
        refuse("thresholds", list(manifest.thresholds), f"one threshold for each of the {manifest.classes} classes")
