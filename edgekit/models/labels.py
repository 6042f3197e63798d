"""Class names: read from a file, ImageNet's, or numbered."""

from importlib.resources import files
from pathlib import Path

from edgekit.errors import UsageError

IMAGENET_CLASSES = 1000


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
    if len(names) != classes:
        raise UsageError(
            f"labels file '{path}' has {len(names)} names, but the model has {classes} classes",
            valid=f"{classes} names, one per line, in the order of the logits",
            fix="Correct the file, or name another with `--labels`",
        )
    return names
