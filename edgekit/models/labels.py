"""Class names: from a file, ImageNet's, or numbered."""

from importlib.resources import files
from pathlib import Path

from edgekit.errors import UsageError

IMAGENET_CLASSES = 1000


def resolve_labels(path: Path | None, classes: int) -> tuple[str, ...]:
    """The name of each class, `classes` of them in the order of the logits.

    A file has one name a line (UTF-8). Without one, 1000 classes are taken for ImageNet's and other counts become
    class_0, class_1, …. Raises UsageError for a file that can't be read, has an empty line or another count.
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
        raise UsageError(f"labels file '{path}' doesn't exist: check --labels") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"can't read labels file '{path}' ({error}): give a UTF-8 file, one class name a line"
        ) from error
    # Not splitlines: it also breaks at characters such as U+2028, which a name may hold.
    names = tuple(line.strip() for line in text.rstrip().split("\n"))
    if "" in names:
        raise UsageError(f"line {names.index('') + 1} of labels file '{path}' is empty: write one class name a line")
    if len(names) != classes:
        raise UsageError(
            f"labels file '{path}' has {len(names)} names and the model {classes} classes: they must be equal, "
            "one name a line in the order of the logits"
        )
    return names
