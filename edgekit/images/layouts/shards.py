"""A set in several files, its shards: a file, a folder of files, or a pattern such as `photos-{000..003}.tar`."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgekit.errors import DataError
from edgekit.images.layouts.folder import files_in
from edgekit.images.layouts.layout import SPLITS, by_split, is_image, is_visible

MOST_SHARDS = 100_000
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")


@dataclass(frozen=True)
class Shard:
    """One file of a set."""

    file: Path
    name: str
    """Path of the file relative to the set, with `/`; empty if it is the only one."""
    split: str
    """Split that the path names, such as "train" of `data/train-00001.parquet`; empty if it names none."""

    def within(self, name: str) -> str:
        """The name in the set of what has this name in the shard."""
        return f"{self.name}/{name}" if self.name else name


@dataclass(frozen=True)
class Shards:
    """The files of a set, sorted by name."""

    place: Path
    """Path that names the set."""
    root: Path
    """Folder that the names of the files are relative to; for a single file, that file."""
    files: tuple[Shard, ...]

    def parts(self, split: str) -> list[tuple[str, Path, list[Shard]]]:
        """(split, path that names it, its files) of each split, or of the split `split` alone. Raises DataError."""
        return by_split(self.files, lambda shard: shard.split, self.place, split)


def is_pattern(path: Path) -> bool:
    """Whether a path stands for several files, because it has a range in braces."""
    return _RANGE.search(str(path)) is not None


def find_shards(place: Path, suffix: str, split: str) -> Shards | None:
    """The files with a suffix that a path names; None if it names no such set, or one without the split `split`.

    An empty `split` asks for none. A folder with images is a set of those, whatever else it has. Raises DataError if
    the pattern names a file that doesn't exist.
    """
    shards = _find(place, suffix)
    if shards is None or not split or any(shard.split == split for shard in shards.files):
        return shards
    return None


def _find(place: Path, suffix: str) -> Shards | None:
    if os.path.isdir(place):
        names = []
        for name in files_in(place):
            if is_image(name):
                return None
            if name.lower().endswith(suffix) and is_visible(name):
                names.append(name)
        return _in_folder(place, place, sorted(names)) if names else None
    if place.suffix.lower() != suffix:
        return None
    if os.path.isfile(place):
        return Shards(place, place, (Shard(place, "", ""),))
    files = _expand(str(place))
    if missing := [file for file in files if not os.path.isfile(file)]:
        raise DataError(
            f"{len(missing)} of the {len(files)} files of '{place}' don't exist, such as '{missing[0]}'",
            fix="Correct the range in braces",
        )
    root = Path(os.path.commonpath([os.path.dirname(file) for file in files]))
    return _in_folder(place, root, [Path(os.path.relpath(file, root)).as_posix() for file in files])


def _in_folder(place: Path, root: Path, names: Sequence[str]) -> Shards:
    return Shards(place, root, tuple(Shard(root / name, name, split_of(name)) for name in names))


def split_of(name: str) -> str:
    """The split that a shard's path names: the first of its words that is the name of one; empty without one."""
    return next((word for word in re.split(r"[^A-Za-z0-9]+", name) if word.casefold() in SPLITS), "")


def _expand(pattern: str) -> list[str]:
    """The paths of a pattern: `{008..010}` becomes 008, 009 and 010."""
    match = _RANGE.search(pattern)
    if match is None:
        return [pattern]
    first, last = int(match[1]), int(match[2])
    if last - first >= MOST_SHARDS:
        raise DataError(f"'{pattern}' stands for {last - first + 1} files", valid=f"at most {MOST_SHARDS} files")
    width = len(match[1]) if match[1].startswith("0") else 1
    numbers = [f"{number:0{width}}" for number in range(first, last + 1)]
    return [path for number in numbers for path in _expand(pattern[: match.start()] + number + pattern[match.end() :])]
