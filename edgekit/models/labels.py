"""Class names: those in a labels file, or those that a model's file carries, ImageNet's, or numbers."""

import argparse
import ast
import json
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from torch import Tensor

from edgekit.errors import BundleError, UsageError
from edgekit.runtime.strict_json import check_printable

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
