"""manifest.json: what a bundle says of itself, and the strict reading of it.

A manifest may come from a stranger, so every key, type, name and size is checked before anything is done with it.
"""

import json
import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, NoReturn, TypedDict

from edgekit.config.runtimes import RUNTIMES
from edgekit.errors import BundleError
from edgekit.images.preprocess import MAX_SIDE, Preprocessing

MANIFEST = "manifest.json"
SCHEMA_VERSION = 1
MAX_CLASSES = 1_000_000

_FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_PACKAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_VERSION = re.compile(r"\d+(\.\d+){0,4}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


class FileEntry(TypedDict):
    """What a manifest says of one file."""

    sha256: str
    size_bytes: int


class EngineRequirement(TypedDict):
    """The package that runs the model, and the oldest version that can load it."""

    package: str
    minimum: str


class ManifestLayer(TypedDict):
    """A dense, convolution or matmul layer as compiled; `macs` is for one image."""

    name: str
    op: str
    macs: int
    int8: bool


@dataclass(frozen=True)
class Manifest:
    """What manifest.json holds besides schema_version.

    `input_shape` is [1,3,H,W] whatever the file's own `layout`; `session` holds engine options (each engine names
    those it knows); `files` is filled by `write_bundle`; `fingerprint` is a hash of everything that went in.
    """

    target: str
    precision: Literal["float", "int8"]
    scheme: str
    model_file: str
    input_shape: tuple[int, int, int, int]
    layout: Literal["NCHW", "NHWC"]
    dtype: Literal["float32"]
    input_name: str
    output_name: str
    classes: int
    preprocessing: Preprocessing
    engine: EngineRequirement
    device_class: str
    fingerprint: str
    session: Mapping[str, Any] = field(default_factory=dict)
    layers: Sequence[ManifestLayer] = ()
    provenance: Mapping[str, Any] = field(default_factory=dict)
    labels_file: str = "labels.txt"
    golden_file: str = "golden.npz"
    files: Mapping[str, FileEntry] = field(default_factory=dict)

    def to_dict(self) -> dict[str, object]:
        """The manifest as JSON can hold it, schema_version first."""
        values = {"schema_version": SCHEMA_VERSION} | asdict(self)
        return values | {"preprocessing": self.preprocessing.to_dict(), "input_shape": list(self.input_shape)}

    @classmethod
    def from_dict(cls, values: object) -> "Manifest":
        """The inverse of `to_dict`; raises BundleError naming the key that is missing, unknown or wrong."""
        given = _object("manifest", values)
        version = given.get("schema_version")
        if type(version) is not int or version != SCHEMA_VERSION:
            _refuse("schema_version", version, f"{SCHEMA_VERSION} (a newer bundle needs a newer edgekit)")
        _check_keys("manifest", given, ("schema_version", *(item.name for item in fields(cls))))
        manifest = cls(**{key: parse(key, given[key]) for key, parse in _PARSERS.items()})
        _check_agreement(manifest)
        return manifest


def parse_manifest(text: str) -> Manifest:
    """The manifest in a JSON text; raises BundleError for anything that `to_dict` wouldn't have written."""
    try:
        values = json.loads(text, object_pairs_hook=_unique_keys, parse_constant=_no_constant)
        for key, string in _strings("manifest", values):
            check_printable(f"key '{key}'", string.replace("\n", " ").replace("\t", " "))
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{MANIFEST} is not valid JSON: {error}") from error
    return Manifest.from_dict(values)


def check_printable(what: str, text: str) -> None:
    """Refuse control characters: a label from a stranger must not steer the terminal that prints it."""
    if any(unicodedata.category(character) in ("Cc", "Cs") for character in text):
        raise BundleError(f"{what} holds a control character in {text[:40]!r}")


def check_file_name(key: str, value: object) -> str:
    """A plain file name without a folder, or BundleError."""
    if not isinstance(value, str) or not _FILE_NAME.fullmatch(value) or value.casefold() == MANIFEST:
        _refuse(key, value, "a file name of letters, digits, '.', '_' and '-', without a folder")
    return value


def _refuse(key: str, value: object, valid: str) -> NoReturn:
    shown = repr(value)
    raise BundleError(f"key '{key}' is {shown[:80]}{'…' if len(shown) > 80 else ''}: valid is {valid}")


def _check_keys(what: str, given: Mapping[str, object], keys: Sequence[str]) -> None:
    for key in keys:
        if key not in given:
            raise BundleError(f"{what}: key '{key}' is missing")
    for key in given:
        if key not in keys:
            raise BundleError(f"{what}: key {key!r} is unknown; the keys are {', '.join(keys)}")


def _object(key: str, value: object) -> dict[str, object]:
    if not isinstance(value, dict):
        _refuse(key, value, "an object")
    return value


def _text(key: str, value: object) -> str:
    if not isinstance(value, str):
        _refuse(key, value, "a text")
    check_printable(f"key '{key}'", value)
    return value


def _choice(*choices: str) -> Callable[[str, object], str]:
    def parse(key: str, value: object) -> str:
        if not isinstance(value, str) or value not in choices:
            _refuse(key, value, f"one of {', '.join(choices)}")
        return value

    return parse


def _whole(low: int, high: int) -> Callable[[str, object], int]:
    def parse(key: str, value: object) -> int:
        if type(value) is not int or not low <= value <= high:
            _refuse(key, value, f"a whole number from {low} to {high}")
        return value

    return parse


def _boolean(key: str, value: object) -> bool:
    if not isinstance(value, bool):
        _refuse(key, value, "true or false")
    return value


def _pattern(pattern: re.Pattern[str], valid: str) -> Callable[[str, object], str]:
    def parse(key: str, value: object) -> str:
        if not isinstance(value, str) or not pattern.fullmatch(value):
            _refuse(key, value, valid)
        return value

    return parse


def _record(**parsers: Callable[[str, object], Any]) -> Callable[[str, object], dict[str, object]]:
    """A parser of an object with exactly these keys."""

    def parse(key: str, value: object) -> dict[str, object]:
        given = _object(key, value)
        _check_keys(key, given, tuple(parsers))
        return {name: parser(f"{key}.{name}", given[name]) for name, parser in parsers.items()}

    return parse


def _shape(key: str, value: object) -> tuple[int, int, int, int]:
    fits = isinstance(value, list) and len(value) == 4 and all(type(size) is int for size in value)
    if not isinstance(value, list) or not fits or value[:2] != [1, 3] or not all(1 <= n <= MAX_SIDE for n in value):
        _refuse(key, value, f"[1, 3, height, width] with sides from 1 to {MAX_SIDE}")
    return (1, 3, value[2], value[3])


_layer = _record(name=_text, op=_text, macs=_whole(0, 1 << 60), int8=_boolean)
_file_entry = _record(sha256=_pattern(_SHA256, "64 hexadecimal digits"), size_bytes=_whole(0, 1 << 50))


def _layers(key: str, value: object) -> tuple[dict[str, object], ...]:
    if not isinstance(value, list | tuple):
        _refuse(key, value, "a list")
    return tuple(_layer(f"{key}[{index}]", item) for index, item in enumerate(value))


def _files(key: str, value: object) -> dict[str, dict[str, object]]:
    entries = _object(key, value)
    return {check_file_name(key, name): _file_entry(f"{key}.{name}", entry) for name, entry in entries.items()}


_PARSERS: dict[str, Callable[[str, object], Any]] = {
    "target": lambda key, value: _choice(*RUNTIMES)(key, value),  # a runtime may be registered later
    "precision": _choice("float", "int8"),
    "scheme": _text,
    "model_file": check_file_name,
    "input_shape": _shape,
    "layout": _choice("NCHW", "NHWC"),
    "dtype": _choice("float32"),
    "input_name": _text,
    "output_name": _text,
    "classes": _whole(1, MAX_CLASSES),
    "preprocessing": lambda _, value: Preprocessing.from_dict(value),
    # Both end up in a pip command that a user may paste into a shell.
    "engine": _record(package=_pattern(_PACKAGE, "a package name"), minimum=_pattern(_VERSION, "a version like 1.20")),
    "device_class": _text,
    "fingerprint": _text,
    "session": _object,
    "layers": _layers,
    "provenance": _object,
    "labels_file": check_file_name,
    "golden_file": check_file_name,
    "files": _files,
}


def _check_agreement(manifest: Manifest) -> None:
    """What no single key shows: the keys must fit each other."""
    named = {key: getattr(manifest, key) for key in ("model_file", "labels_file", "golden_file")}
    for key, name in named.items():
        if name not in manifest.files:
            _refuse(key, name, "a file that key 'files' lists")
    for key in ("labels_file", "golden_file"):
        others = [name.casefold() for other, name in named.items() if other != key]
        if named[key].casefold() in others:
            _refuse(key, named[key], "a file of its own")
    sides = (manifest.preprocessing.height, manifest.preprocessing.width)
    if manifest.input_shape[2:] != sides:
        _refuse(
            "input_shape", list(manifest.input_shape), f"[1, 3, {sides[0]}, {sides[1]}], as the preprocessing gives"
        )


def _unique_keys(pairs: list[tuple[str, object]]) -> dict[str, object]:
    values = dict(pairs)
    if len(values) < len(pairs):
        raise ValueError(f"a key is given twice among {', '.join(repr(key) for key, _ in pairs[:9])}")
    return values


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def _strings(key: str, value: object) -> Iterator[tuple[str, str]]:
    """Every text in a JSON value, keys included, each with the key that it is found under."""
    if isinstance(value, str):
        yield key, value
    elif isinstance(value, dict):
        for name, item in value.items():
            yield key, name
            yield from _strings(name, item)
    elif isinstance(value, list):
        for item in value:
            yield from _strings(key, item)
