"""A bundle: the folder that is shipped, with a model, its manifest, its labels and test vectors.

A bundle may come from a stranger. Reading one opens only regular files inside its folder, runs no code from it, and
checks every key, name, type, size and hash before an engine opens the model. The parsers of manifest.json are strict:
each returns a value, or raises BundleError that names its key.
"""

import json
import math
import os
import re
import shutil
import stat
import unicodedata
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, NoReturn, NotRequired, TypeAlias, TypedDict, get_args

import numpy as np
from numpy.typing import NDArray

from edgekit.config.runtimes import INPUT_LAYOUTS, RUNTIMES, Activation, InputDtype, LayerKind
from edgekit.errors import BundleError, OutputError
from edgekit.images.preprocess import MAX_SIDE, ImageLike, Preprocessing
from edgekit.support.files import digest, file_sha256, replace_text, replacing, writing

_BIDI = frozenset(("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"))
"""Bidirectional classes of the characters that embed, override and isolate text."""


def check_printable(source: str, text: str) -> None:
    """Refuse control characters, because a label from a stranger must not control the terminal that prints it.

    Those of bidirectional text count too, because they make a terminal show characters in another order.
    """
    if any(unicodedata.category(each) in ("Cc", "Cs") or unicodedata.bidirectional(each) in _BIDI for each in text):
        raise BundleError(f"{source} contains a control character in {text[:40]!r}")


def refuse(key: str, value: object, valid: str, fix: str = "") -> NoReturn:
    """Raise the BundleError of a wrong value."""
    text = repr(value)
    raise BundleError(f"key '{key}' is {text[:80]}{'…' if len(text) > 80 else ''}", valid=valid, fix=fix)


def check_keys(parent: str, values: Mapping[str, object], keys: Sequence[str]) -> None:
    """Raise BundleError unless an object has exactly these keys."""
    for key in keys:
        if key not in values:
            raise BundleError(f"{parent}: key '{key}' is missing")
    for key in values:
        if key not in keys:
            raise BundleError(f"{parent}: key {key!r} is unknown", valid=", ".join(keys))


Parser: TypeAlias = Callable[[str, object], Any]
"""Takes the key and the value, and returns the value."""


def parser(fits: Callable[[Any], bool], valid: str) -> Parser:
    """Parser of the values that fit; `valid` describes them."""

    def parse(key: str, value: object) -> Any:
        if not fits(value):
            refuse(key, value, valid)
        return value

    return parse


parse_object = parser(lambda value: isinstance(value, dict), "an object")
parse_boolean = parser(lambda value: isinstance(value, bool), "true or false")


def parse_text(key: str, value: object) -> str:
    """A string without control characters."""
    if not isinstance(value, str):
        refuse(key, value, "a string")
    check_printable(f"key '{key}'", value)
    return value


def choice(*choices: str) -> Parser:
    """Parser of one of these strings."""
    return parser(lambda value: isinstance(value, str) and value in choices, f"one of {', '.join(choices)}")


def whole(low: int, high: int) -> Parser:
    """Parser of a whole number in this range."""
    return parser(lambda value: type(value) is int and low <= value <= high, f"a whole number from {low} to {high}")


def matching(pattern: str, valid: str) -> Parser:
    """Parser of a string that matches the whole pattern; `valid` describes it."""
    return parser(lambda value: isinstance(value, str) and re.fullmatch(pattern, value) is not None, valid)


def record(optional: Mapping[str, Parser] = MappingProxyType({}), **parsers: Parser) -> Parser:
    """Parser of an object with exactly these keys, and maybe the optional ones."""

    def parse(key: str, value: object) -> dict[str, object]:
        values = parse_object(key, value)
        known = {**parsers, **{name: optional[name] for name in optional if name in values}}
        check_keys(key, values, tuple(known))
        return {name: parse(f"{key}.{name}", values[name]) for name, parse in known.items()}

    return parse


def load_strict(text: str) -> object:
    """Parse JSON text.

    Raises ValueError for a repeated key or a number that is not finite, and BundleError for a control character.
    """
    values: object = json.loads(text, object_pairs_hook=_unique_keys, parse_constant=_no_constant, parse_float=_finite)
    for key, string in _strings("manifest", values):
        check_printable(f"key '{key}'", string.replace("\n", " ").replace("\t", " "))
    return values


def _unique_keys(pairs: list[tuple[str, object]]) -> dict[str, object]:
    values = dict(pairs)
    if len(values) < len(pairs):
        raise ValueError(f"a key occurs twice among {', '.join(repr(key) for key, _ in pairs[:9])}")
    return values


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def _finite(text: str) -> float:
    value = float(text)
    return value if math.isfinite(value) else _no_constant(text)


def _strings(key: str, value: object) -> Iterator[tuple[str, str]]:
    """Every string in a JSON value, including keys, with the key that contains it."""
    if isinstance(value, str):
        yield key, value
    elif isinstance(value, dict):
        for name, item in value.items():
            yield key, name
            yield from _strings(name, item)
    elif isinstance(value, list):
        for item in value:
            yield from _strings(key, item)


MANIFEST = "manifest.json"
SCHEMA_VERSION = 2
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
    kind: NotRequired[LayerKind]
    """How it is quantized: "static", "dynamic" or "float". Bundles of older versions lack it, and dynamic layers."""
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
    """Shape of the input for one image, in the order of `layout`."""
    layout: Literal["NCHW", "NHWC"] = "NCHW"
    """Order of the axes in `input_shape`: "NCHW" for normalized images, "NHWC" for pixels."""
    dtype: InputDtype = "float32"
    """Type of the input: "float32" for normalized images, "uint8" for pixels. Outputs are always float32."""
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
    """Name of the file with the test vectors."""
    files: Mapping[str, FileEntry] = field(default_factory=dict)
    """Hash and size of every file, by name; `write_bundle` fills them in."""

    def input_of(self, pixels: NDArray[np.uint8]) -> NDArray[Any]:
        """The model's input for cropped images, uint8 [H,W,C] or [N,H,W,C]: themselves, [N,H,W,C], or normalized."""
        if self.dtype == "uint8":
            return pixels if pixels.ndim == 4 else pixels[None]
        return self.preprocessing.normalize(pixels)

    def prepare(self, image: ImageLike) -> NDArray[Any]:
        """The model's input for one image, as `input_of` gives it. Raises ImageError."""
        return self.input_of(self.preprocessing.crop(image))

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
        """Distribution and version of the runtime that computed the test vectors, such as "onnxruntime 1.32.0"."""
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
        if type(version) is not int or not 1 <= version <= SCHEMA_VERSION:
            refuse("schema_version", version, f"1 to {SCHEMA_VERSION}", "Update edgekit to read a newer bundle")
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
    return fits and value[0] == 1 and all(1 <= size <= MAX_SIDE for size in value)


check_file_name = parser(_is_file_name, "a file name of letters, digits, '.', '_' and '-', without a folder")
_shape = parser(_is_shape, f"1 and three whole numbers from 1 to {MAX_SIDE}")
_list = parser(lambda value: isinstance(value, list | tuple), "a list")
_share = parser(lambda value: type(value) in (int, float) and 0 <= value <= 1, "a number from 0 to 1")
_layer = record(
    {"kind": choice(*get_args(LayerKind)), "reason": parse_text},
    name=parse_text,
    op=parse_text,
    macs=whole(0, 1 << 60),
    int8=parse_boolean,
)
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
    "layout": choice(*INPUT_LAYOUTS.values()),
    "dtype": choice(*INPUT_LAYOUTS),
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
    if manifest.layout != (layout := INPUT_LAYOUTS[manifest.dtype]):
        refuse("layout", manifest.layout, f"{layout}, because dtype is {manifest.dtype}")
    shape = manifest.preprocessing.shape_of(manifest.dtype)
    if manifest.input_shape != shape:
        refuse("input_shape", list(manifest.input_shape), f"{list(shape)}, the output of the preprocessing")
    if manifest.thresholds is not None and manifest.activation != "sigmoid":
        refuse("thresholds", list(manifest.thresholds), "no thresholds, because activation is not sigmoid")
    if manifest.thresholds is not None and len(manifest.thresholds) != manifest.classes:
        refuse("thresholds", list(manifest.thresholds), f"one threshold for each of the {manifest.classes} classes")


COPY_AGAIN = "Copy the whole folder again"
MAX_TEXT_BYTES = 32 << 20
MAX_GOLDEN_BYTES = 512 << 20


@dataclass(frozen=True, eq=False)
class Golden:
    """Images with the outputs that the model computed for them where the bundle was made."""

    pixels: NDArray[np.uint8]
    """Cropped images, uint8 [N,H,W,C]."""
    logits: NDArray[np.float32]
    """Expected outputs, float32 [N,classes]."""
    tolerance: float
    """Largest absolute difference of an output that is allowed on another machine."""


@dataclass(frozen=True)
class Bundle:
    """A bundle on disk whose manifest and labels were read and checked."""

    path: Path
    """Folder of the bundle."""
    manifest: Manifest
    """Content of its manifest.json."""
    labels: tuple[str, ...]
    """Names of the classes, in the order of the outputs; "0", "1", … for the values of a vector."""

    @property
    def model_path(self) -> Path:
        """Path of the file that the engine opens."""
        return self.path / self.manifest.model_file

    @property
    def size_bytes(self) -> int:
        """Size of the files that the engine loads, without labels and test vectors."""
        own = (self.manifest.labels_file, self.manifest.golden_file)
        return sum(entry["size_bytes"] for name, entry in self.manifest.files.items() if name not in own)

    @property
    def sha256(self) -> str:
        """Hash of the manifest, which has the hash of every file."""
        return digest(self.manifest.to_dict())

    def digests(self) -> dict[str, str]:
        """SHA-256 of every file by name, in order: of the manifest as it is on disk, of the others as it says."""
        files = {name: entry["sha256"] for name, entry in self.manifest.files.items()}
        return dict(sorted({MANIFEST: file_sha256(self.path / MANIFEST), **files}.items()))

    def golden(self) -> Golden:
        """Read the test vectors; raises BundleError if they are damaged or don't fit the manifest."""
        name = self.manifest.golden_file
        try:
            golden = _load_golden(own_file(self.path, name))
            _check_golden(golden, self.manifest)
        except BundleError as error:
            raise _in_bundle(self.path, error, f"{name}: ") from error
        # numpy and zipfile raise almost anything on a damaged archive, even MemoryError for a false header
        except Exception as error:
            raise BundleError(f"bundle '{self.path}': {name} is damaged: {error}", fix=COPY_AGAIN) from error
        return golden

    def copied_to(self, place: Path) -> "Bundle":
        """Copy the bundle to a folder, which replaces the one that is there. Returns the copy."""
        with writing(place):
            place.parent.mkdir(parents=True, exist_ok=True)
            with replacing(place) as temporary:
                shutil.copytree(self.path, temporary)
        return replace(self, path=place)


def read_bundle(path: str | os.PathLike[str], check_hashes: bool = True) -> Bundle:
    """Read the manifest and labels of a bundle, and check its files.

    Args:
        path: Folder of the bundle.
        check_hashes: Compare the sha256 of every file with the manifest. Without it, only names and sizes are checked.

    Raises:
        BundleError: The folder has no manifest. The manifest has an unknown schema_version, or a key is missing,
            unknown or wrong. A file is missing, is a link to a place outside the folder, or has another size or sha256.
            The number of labels is not the number of classes.
    """
    path = Path(path)
    if not os.path.isdir(path):
        problem = "is a file" if os.path.exists(path) else "doesn't exist"
        raise BundleError(f"'{path}' {problem}", valid="the folder of a bundle")
    if not os.path.lexists(path / MANIFEST):
        raise BundleError(f"'{path}' is not a bundle: it has no {MANIFEST}", fix="Make one with `edgekit deploy MODEL`")
    try:
        manifest = parse_manifest(read_text(path, MANIFEST))
        for name, entry in manifest.files.items():
            _check_file(path, name, entry, check_hashes)
        labels = _parse_labels(read_text(path, manifest.labels_file), manifest)
    except BundleError as error:
        raise _in_bundle(path, error) from error
    except OSError as error:
        raise BundleError(f"bundle '{path}' can't be read: {error.strerror or error}") from error
    return Bundle(path, manifest, labels)


def _in_bundle(path: Path, error: BundleError, file: str = "") -> BundleError:
    """The same error with the path of its bundle."""
    return BundleError(f"bundle '{path}': {file}{error.problem}", valid=error.valid, fix=error.fix)


def write_bundle(
    path: str | os.PathLike[str],
    model_files: Mapping[str, Path],
    manifest: Manifest,
    labels: Sequence[str],
    golden: Golden,
) -> Bundle:
    """Write a bundle in a temporary folder next to `path`, then rename it.

    An older bundle at `path` is replaced, and stays untouched if writing fails.

    Args:
        path: Folder of the new bundle.
        model_files: Files to copy, by their names in the bundle.
        manifest: Manifest without `files`, which this function fills in.
        labels: Names of the classes, in the order of the outputs.
        golden: Samples that `Session.verify` compares with.

    Returns:
        The bundle, read back from disk.

    Raises:
        BundleError: Manifest, labels and test vectors don't fit each other.
        OutputError: `path` is neither a bundle nor an empty folder, or can't be written.
    """
    path = Path(path)
    place = Path(os.path.realpath(path))
    try:
        if place.exists() and not (place.is_dir() and ((place / MANIFEST).is_file() or not any(place.iterdir()))):
            raise OutputError(
                f"'{path}' exists and is not a bundle", fix="Choose another place with --output, or remove it"
            )
        with replacing(place) as building:
            building.mkdir(parents=True)
            bundle = _fill(building, model_files, manifest, labels, golden)
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        raise OutputError(
            f"can't write bundle '{path}': {error.strerror or error}{where}",
            fix="Choose another place with --output, or make room",
        ) from error
    return replace(bundle, path=path)


def _fill(
    folder: Path, model_files: Mapping[str, Path], manifest: Manifest, labels: Sequence[str], golden: Golden
) -> Bundle:
    names = [*model_files, manifest.labels_file, manifest.golden_file]
    for name in names:
        check_file_name("files", name)
    _check_golden(golden, manifest)
    for name, source in model_files.items():
        shutil.copyfile(source, folder / name)
    _write_text(folder / manifest.labels_file, "".join(f"{label}\n" for label in labels))
    np.savez(
        folder / manifest.golden_file,
        pixels=np.ascontiguousarray(golden.pixels),
        logits=np.ascontiguousarray(golden.logits),
        tolerance=np.float64(golden.tolerance),
    )
    files = {
        name: FileEntry(sha256=file_sha256(folder / name), size_bytes=(folder / name).stat().st_size) for name in names
    }
    _write_text(folder / MANIFEST, _text_of(replace(manifest, files=files)))
    return read_bundle(folder, check_hashes=False)  # a bundle that can't be read back must not be shipped


def with_manifest(bundle: Bundle, **changes: Any) -> Bundle:
    """The bundle with other values of these manifest keys, which its manifest on disk has from now on.

    No other file changes. A signature, which covers the manifest, is no longer valid. Raises OutputError.
    """
    manifest = replace(bundle.manifest, **changes)
    if manifest == bundle.manifest:
        return bundle
    with writing(bundle.path / MANIFEST):
        replace_text(bundle.path / MANIFEST, _text_of(manifest))
    return replace(bundle, manifest=manifest)


def _text_of(manifest: Manifest) -> str:
    return json.dumps(manifest.to_dict(), indent=1, allow_nan=False) + "\n"


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, "utf-8", newline="\n")


def _parse_labels(text: str, manifest: Manifest) -> tuple[str, ...]:
    labels = text.removesuffix("\n").split("\n")
    for label in labels:
        check_printable(manifest.labels_file, label)
    if len(labels) != manifest.classes:
        raise BundleError(
            f"{manifest.labels_file} has {len(labels)} labels, but the model has {manifest.classes} classes"
        )
    return tuple(labels)


def own_file(folder: Path, name: str) -> Path:
    """Path of a regular file directly in `folder`; raises BundleError for anything else, and for links to elsewhere."""
    path = folder / name
    if os.path.dirname(os.path.realpath(path)) != os.path.realpath(folder):
        raise BundleError(f"file '{name}' is a link to a place outside the folder")
    if not path.exists():
        raise BundleError(f"file '{name}' is missing", fix=COPY_AGAIN)
    if not stat.S_ISREG(path.stat().st_mode):
        raise BundleError(f"'{name}' is not a regular file")
    return path


def _check_file(folder: Path, name: str, entry: FileEntry, check_hash: bool) -> None:
    """Raise BundleError if a file doesn't have the size or, if asked, the hash of its entry."""
    path = own_file(folder, name)
    size = path.stat().st_size
    if size != entry["size_bytes"]:
        raise BundleError(
            f"file '{name}' has {size} bytes, but the manifest says {entry['size_bytes']}", fix=COPY_AGAIN
        )
    if check_hash and file_sha256(path) != entry["sha256"]:
        raise BundleError(f"file '{name}' was changed: its sha256 differs from the manifest's", fix=COPY_AGAIN)


def read_text(folder: Path, name: str) -> str:
    """Text of a file directly in `folder`; raises BundleError for what `own_file` refuses, and for other content."""
    path = own_file(folder, name)
    if path.stat().st_size > MAX_TEXT_BYTES:
        raise BundleError(f"file '{name}' has {path.stat().st_size} bytes", valid=f"at most {MAX_TEXT_BYTES} bytes")
    try:
        return path.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise BundleError(f"file '{name}' is not UTF-8 text: {error.reason}") from error


def _load_golden(path: Path) -> Golden:
    """Read test vectors; raises BundleError if they are too large, and almost anything if the file is damaged."""
    with zipfile.ZipFile(path) as archive:
        size = sum(member.file_size for member in archive.infolist())
    if size > MAX_GOLDEN_BYTES:
        raise BundleError(f"it unpacks to {size} bytes", valid=f"at most {MAX_GOLDEN_BYTES} bytes")
    with np.load(path, allow_pickle=False) as arrays:
        return Golden(arrays["pixels"], arrays["logits"], float(arrays["tolerance"]))


def _check_golden(golden: Golden, manifest: Manifest) -> None:
    """Raise BundleError if the samples don't fit the manifest."""
    pixels, logits = golden.pixels, golden.logits
    count = len(pixels) if pixels.ndim else 0
    for name, array, shape, dtype in (
        ("pixels", pixels, (count, *manifest.preprocessing.crop_shape), np.uint8),
        ("logits", logits, (count, manifest.classes), np.float32),
    ):
        if array.dtype != dtype or array.shape != shape or count == 0:
            raise BundleError(
                f"the golden {name} are {array.dtype} {list(array.shape)}",
                valid=f"{np.dtype(dtype)} {list(shape)} with at least one sample",
            )
    if not np.isfinite(logits).all() or not math.isfinite(golden.tolerance) or golden.tolerance < 0:
        raise BundleError(
            f"the outputs of the test vectors, or their tolerance ({golden.tolerance}), are not finite, or it is "
            "negative"
        )
