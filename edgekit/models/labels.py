"""Class names: read from a file of the user's or from the model's own file, ImageNet's, or numbered."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from edgekit.errors import BundleError, UsageError
from edgekit.models.class_names import StoredNames
from edgekit.runtime.strict_json import check_printable

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


def choose_labels(path: Path | None, classes: int, stored: Sequence[StoredNames], file: str) -> Labels:
    """Take the names from the labels file `path`, or else from the model's own file, or else as `resolve_labels` does.

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


def resolve_labels(path: Path | None, classes: int) -> tuple[str, ...]:
    """Names of the model's `classes` classes, in the order of the logits.

    A file has one name per line (UTF-8). Without a file, 1000 classes get ImageNet's names and any other number of
    classes the names class_0, class_1, …. Raises UsageError for a file that can't be read, has an empty line or has
    another number of names.
    """
    if path is not None:
        return _read(path, classes)
    if classes == IMAGENET_CLASSES:
        asset = files("edgekit") / "_assets" / "imagenet_labels.txt"
        return tuple(asset.read_text(encoding="utf-8").splitlines())
    return tuple(f"class_{index}" for index in range(classes))


def _read(path: Path, classes: int) -> tuple[str, ...]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise UsageError(f"labels file '{path}' doesn't exist", fix="Correct the path after `--labels`") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"can't read labels file '{path}' ({error})", valid="a UTF-8 file with one class name per line"
        ) from error
    # Not splitlines, which also splits at characters such as U+2028 that a name may contain.
    names = tuple(line.strip() for line in text.rstrip().split("\n"))
    if "" in names:
        raise UsageError(
            f"line {names.index('') + 1} of labels file '{path}' is empty",
            valid="one class name per line",
            fix="Remove the line, or write the name of its class",
        )
    for name in names:
        try:
            check_printable(f"labels file '{path}'", name)
        except BundleError as error:
            raise UsageError(error.problem, fix="Remove the character") from None
    if len(names) != classes:
        raise UsageError(
            f"labels file '{path}' has {len(names)} names, but the model has {classes} classes",
            valid=f"{classes} names, one per line, in the order of the logits",
            fix="Correct the file, or name another with `--labels`",
        )
    return names
