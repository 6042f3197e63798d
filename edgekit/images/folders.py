"""Sets in class folders, on the disk or in a zip, which is not unpacked; and in a CSV or TSV of path and label.

Instead of a class folder, an image may have a JSON file with its labels beside it: `photo.json` beside `photo.jpg`. A
set of shards has several files: it is a file, a folder of files, or a pattern such as `photos-{000..003}.tar`.
"""

import csv
import os
import re
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import ClassVar, Self, TextIO

from edgekit.errors import DataError
from edgekit.images.layout import (
    EVALUATION_SPLITS,
    LABEL_COLUMNS,
    LONGEST_LABEL,
    MAX_IMAGE_BYTES,
    PATH_COLUMNS,
    SPLITS,
    TRAINING_SPLITS,
    UNREADABLE,
    Contents,
    Labels,
    ListedImage,
    Part,
    Store,
    Terms,
    as_text,
    by_split,
    file_in,
    find_column,
    is_image,
    is_visible,
    label_in_json,
)
from edgekit.support.files import read_regular

FOLDER_TERMS = Terms("folder", "outside a class folder", "Move each image into the folder of its class")
BESIDE = Terms("label", "without a label in a JSON file beside it", "Write the key label to PHOTO.json for PHOTO.jpg")
JSON = ".json"


def class_folders(path: Path, names: Iterable[str], store_of: Callable[[str], Store]) -> Contents:
    """The images among these files, whose folder is their class, by split if the upper folders are splits.

    If any image has a label in the JSON file beside it, that is the class instead. `store_of` returns the store of a
    folder, "" for all of them; names in it are relative to that folder.
    """
    files = {name for name in names if is_visible(name)}
    images = sorted(filter(is_image, files))
    depth = _depth_of_classes(images) if images else 0
    labels = _labels_beside(images, files, store_of(""))
    terms = BESIDE if labels else FOLDER_TERMS

    def part(split: str, folder: str, depth: int) -> Part:
        inside = {
            name.removeprefix(f"{folder}/"): name for name in images if not folder or name.startswith(f"{folder}/")
        }
        listed = (
            ListedImage(name, labels.get(whole) if labels else _folder(name, depth) or None)
            for name, whole in inside.items()
        )
        return Part(split, path / folder, tuple(listed), store_of(folder))

    upper = {_folder(name, depth) for name in images}
    splits = sorted(name for name in upper if name.casefold() in SPLITS)
    above = "/".join(images[0].split("/")[:depth]) if images else ""
    if splits and len(splits) == len(upper):
        return Contents(tuple(part(split, f"{above}/{split}".lstrip("/"), 0) for split in splits), terms)
    plain = {name.casefold() for name in splits}
    if plain & {*TRAINING_SPLITS} and plain & {*EVALUATION_SPLITS}:
        others = ", ".join(repr(name) if name else "images" for name in sorted(upper - {*splits}))
        raise DataError(
            f"'{path / above}' has the splits {', '.join(splits)}, and beside them {others}",
            valid=f"folders of classes, or the splits {', '.join(SPLITS)} alone",
            fix="Move the others elsewhere, or name the splits with `--calibration-data` and `--data`",
        )
    return Contents((part("", "", depth),), terms)


def _labels_beside(images: Iterable[str], files: Iterable[str], store: Store) -> dict[str, Labels]:
    """The labels of the images that have one in a JSON file of the same name."""
    beside = {name[: -len(JSON)]: name for name in files if name.lower().endswith(JSON)}
    labels: dict[str, Labels] = {}
    for image in images if beside else ():
        if other := beside.get(str(PurePosixPath(image).with_suffix(""))):
            try:
                content = store.read(other)
            except UNREADABLE:
                continue
            if len(content) <= LONGEST_LABEL and (label := label_in_json(content)) is not None:
                labels[image] = label
    return labels


def _folder(name: str, depth: int) -> str:
    """The folder of an image below `depth` others; empty if the image lies directly in those."""
    parts = name.split("/")
    return parts[depth] if len(parts) > depth + 1 else ""


def _depth_of_classes(images: Sequence[str]) -> int:
    """Number of folders above the class folders. A single folder that contains only folders is a wrapper."""
    parts = [name.split("/") for name in images]
    shortest = min(len(part) for part in parts)
    depth = 0
    while shortest >= depth + 3 and len({part[depth] for part in parts}) == 1:
        depth += 1
    return depth


@dataclass(frozen=True)
class Folder:
    """A folder with one folder of images for each class, or such folders for each split."""

    root: Path
    description: ClassVar[str] = (
        "a folder or a zip with one folder of images for each class, or a JSON beside each image"
    )

    @classmethod
    def open(cls, place: Path, inner: str) -> Self | None:
        """The set of a folder that exists."""
        return cls(place) if not inner and os.path.isdir(place) else None

    def contents(self) -> Contents:
        """List the images of the folder. Links to folders are followed."""
        return class_folders(self.root, files_in(self.root), lambda folder: Folder(file_in(self.root, folder)))

    def read(self, name: str) -> bytes:
        """The bytes of the file with this path relative to the folder."""
        return read_regular(file_in(self.root, name), MAX_IMAGE_BYTES)


def files_in(root: Path) -> Iterator[str]:
    """Paths of the files below a folder, relative to it, as text and with `/`. DataError if a folder is closed."""
    for folder, inner, file_names in os.walk(root, onerror=_refuse, followlinks=True):
        # Following a link to a folder that contains the link would never end.
        inner[:] = [name for name in inner if not _is_loop(os.path.join(folder, name))]
        place = Path(folder).relative_to(root)
        yield from (as_text((place / name).as_posix()) for name in file_names)


def _is_loop(folder: str) -> bool:
    return os.path.islink(folder) and Path(os.path.realpath(os.path.dirname(folder))).is_relative_to(
        os.path.realpath(folder)
    )


def _refuse(error: OSError) -> None:
    raise DataError(f"can't list '{error.filename}': {error.strerror}") from error


@dataclass(frozen=True)
class Zip:
    """A zip, or a folder in a zip (`images.zip/val`), which is laid out as a `Folder`."""

    file: Path
    prefix: str
    """Start of the names of the members, which ends with `/` unless it is empty."""
    description: ClassVar[str] = Folder.description

    @classmethod
    def open(cls, place: Path, inner: str) -> Self | None:
        """The set of a zip, whatever its suffix."""
        if not os.path.isfile(place):
            return None
        opened = cls(place, f"{inner}/" if inner else "")
        try:
            opened._archive()
        except (zipfile.BadZipFile, ValueError, NotImplementedError):
            return None
        except OSError as error:
            raise DataError(f"can't read '{place}': {error.strerror or error}") from error
        return opened

    def contents(self) -> Contents:
        """List the images of the zip."""
        path = self.file / self.prefix.rstrip("/")
        return class_folders(
            path, self._names(), lambda folder: Zip(self.file, f"{self.prefix}{folder}/" if folder else self.prefix)
        )

    def read(self, name: str) -> bytes:
        """The bytes of the member with this path relative to the folder in the zip."""
        archive = self._archive()
        member = archive.getinfo(self.prefix + name)
        if member.file_size > MAX_IMAGE_BYTES:
            raise OSError(f"its uncompressed size exceeds {MAX_IMAGE_BYTES} bytes")
        return archive.read(member)

    def _names(self) -> Iterator[str]:
        for name in self._archive().namelist():
            if name.startswith(self.prefix) and not name.endswith("/"):
                yield name[len(self.prefix) :]

    def _archive(self) -> zipfile.ZipFile:
        return _zip_of_process(self.file, os.getpid())


@lru_cache(maxsize=8)
def _zip_of_process(file: Path, pid: int) -> zipfile.ZipFile:
    """An open zip for this process. Forked processes would share a file position, so each opens its own."""
    return zipfile.ZipFile(file)


MOST_SHARDS = 100_000
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")


@dataclass(frozen=True)
class ShardFile:
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
    files: tuple[ShardFile, ...]
    split: str = ""
    """The only split to list; empty for all."""

    def contents(
        self, images_of: Callable[[ShardFile], Iterable[ListedImage]], store: Store, terms: Terms, *classes: str
    ) -> Contents:
        """The images of each file, by split. Raises DataError for a set without the split."""
        return Contents(
            tuple(
                Part(split, path, tuple(image for shard in shards for image in images_of(shard)), store)
                for split, path, shards in by_split(self.files, lambda shard: shard.split, self.place, self.split)
            ),
            terms,
            classes,
        )


def is_pattern(path: Path) -> bool:
    """Whether a path stands for several files, because it has a range in braces."""
    return _RANGE.search(str(path)) is not None


def find_shards(place: Path, suffix: str, split: str) -> Shards | None:
    """The files with a suffix that a path names; None if it names no such set, or one without the split `split`.

    An empty `split` asks for none. A folder with images is a set of those, whatever else it has. Raises DataError if
    the pattern names a file that doesn't exist.
    """
    shards = _find(place, suffix)
    if shards is None or (split and all(shard.split != split for shard in shards.files)):
        return None
    return replace(shards, split=split)


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
        return Shards(place, place, (ShardFile(place, "", ""),))
    files = _expand(str(place))
    if missing := [file for file in files if not os.path.isfile(file)]:
        raise DataError(
            f"{len(missing)} of the {len(files)} files of '{place}' don't exist, such as '{missing[0]}'",
            fix="Correct the range in braces",
        )
    root = Path(os.path.commonpath([os.path.dirname(file) for file in files]))
    return _in_folder(place, root, [Path(os.path.relpath(file, root)).as_posix() for file in files])


def _in_folder(place: Path, root: Path, names: Sequence[str]) -> Shards:
    return Shards(place, root, tuple(ShardFile(file_in(root, name), as_text(name), split_of(name)) for name in names))


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


DELIMITERS = ",;\t|"
TABLE_TERMS = Terms("label", "without a label", "Write their labels")
BITS = {"0": 0, "0.0": 0, "false": 0, "1": 1, "1.0": 1, "true": 1}
"""What a column of one class says about images, in lower case."""
FIRST = 8
"""Rows of which one must name a file that exists; otherwise the paths are taken to be relative to another folder."""


@dataclass(frozen=True, slots=True)
class _Row:
    path: str
    label: Labels
    split: str


@dataclass(frozen=True)
class Table:
    """A CSV or TSV whose header names a column of paths and one of labels, and possibly one of splits.

    Without a column of labels, every other column is one of zeros and ones, and its name that of a class. Without
    those, the images have no labels.
    """

    file: Path
    split: str
    """The only split to list; empty for all."""
    delimiter: str
    header: tuple[str, ...]
    path: str
    """The column of paths."""
    label: str | None
    """The column of labels."""
    description: ClassVar[str] = (
        "a CSV or TSV with the columns path and label, path and one of 0 or 1 for each class, or path alone"
    )

    @classmethod
    def open(cls, place: Path, inner: str) -> Self | None:
        """The set of a file with the suffix .csv or .tsv. Raises DataError unless its header has the columns."""
        if place.suffix.lower() not in (".csv", ".tsv") or not os.path.isfile(place):
            return None
        with _reading(place) as file:
            line = file.readline()
            delimiter = max(DELIMITERS, key=lambda each: len(_cells(line, each)))
            header = tuple(_cells(line, delimiter))
        path, label = find_column(header, PATH_COLUMNS), find_column(header, LABEL_COLUMNS)
        if path is not None:
            table = cls(place, inner, delimiter, header, path, label)
            if label is not None or len(table.classes) != 1:
                return table
        listed = ", ".join(f"'{name}'" for name in header) or "nothing"
        raise DataError(
            f"'{place}' has no column with the {'labels' if path else 'paths'} of images: its first line has {listed}",
            valid=f"a first line with names such as path,label; for paths: {', '.join(PATH_COLUMNS)}; for labels: "
            f"{', '.join(LABEL_COLUMNS)}, or the names of classes for columns of 0 and 1; or a column of paths alone",
            fix="Correct the first line",
        )

    @property
    def classes(self) -> tuple[str, ...]:
        """The columns that are neither that of paths nor that of splits, if there is none of labels."""
        others = {self.path, find_column(self.header, ("split",))}
        return () if self.label else tuple(name for name in self.header if name.strip() and name not in others)

    def contents(self) -> Contents:
        """List the rows. Paths are relative to the CSV's folder. Raises DataError for rows without a path."""
        rows = _with_files(self.file.parent, list(self._rows()))
        _check_first(self.file, rows)
        root = _root(self.file.parent, rows)
        parts = []
        for split, path, group in by_split(rows, lambda row: row.split, self.file, self.split):
            labels: dict[str, list[Labels]] = {}
            for row in group:
                labels.setdefault(self._name(row, root), []).append(row.label)
            images = tuple(ListedImage(name, _joined(labels[name])) for name in sorted(labels))
            parts.append(Part(split, path, images, Folder(root)))
        return Contents(tuple(parts), TABLE_TERMS, tuple(name.strip() for name in self.classes))

    def _name(self, row: _Row, root: Path) -> str:
        return Path(os.path.relpath(self.file.parent / row.path, root)).as_posix()

    def _rows(self) -> Iterator[_Row]:
        split = find_column(self.header, ("split",))
        with _reading(self.file) as file:
            reader = csv.reader(file, delimiter=self.delimiter)
            next(reader, None)
            for values in reader:
                cells = dict(reversed([*zip(self.header, map(str.strip, values), strict=False)]))
                if not any(cells.values()):
                    continue
                if not cells[self.path]:
                    raise DataError(f"line {reader.line_num} of '{self.file}' has no path", fix="Correct the line")
                label = cells.get(self.label) or () if self.label else self._bits(cells, reader.line_num)
                yield _Row(cells[self.path], label, cells.get(split or "", ""))

    def _bits(self, cells: Mapping[str, str], line: int) -> tuple[int, ...]:
        """Which classes an image has, from the columns of zeros and ones."""
        bits = {name: BITS.get(cells.get(name, "").casefold()) for name in self.classes}
        if wrong := [name for name, bit in bits.items() if bit is None]:
            raise DataError(
                f"'{self.file}' has no column with the labels of images, and its column '{wrong[0]}' has "
                f"'{cells.get(wrong[0], '')}' in line {line}",
                valid="a column called label, or 0 or 1 in every column but those of paths and splits",
                fix="Name the column of the labels, or remove the columns that aren't classes",
            )
        return tuple(bit for bit in bits.values() if bit is not None)


def _joined(labels: Sequence[Labels]) -> Labels:
    """The labels of an image with several rows."""
    different = [*dict.fromkeys(label for label in labels if label != ())]
    if len(different) < 2:
        return next(iter(different), ())
    vectors = [label for label in different if isinstance(label, tuple)]
    texts = tuple(label for label in different if isinstance(label, str))
    return texts or tuple(max(bits) for bits in zip(*vectors, strict=True))


def _cells(line: str, delimiter: str) -> list[str]:
    return next(csv.reader([line], delimiter=delimiter), [])


@contextmanager
def _reading(path: Path) -> Iterator[TextIO]:
    """The file as text. Raises DataError if it, or what is read of it in the block, is no valid text or CSV."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            yield file
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(
            f"can't read '{path}': {getattr(error, 'strerror', None) or error}", valid="a CSV or TSV in UTF-8"
        ) from error


def _with_files(folder: Path, rows: Sequence[_Row]) -> Sequence[_Row]:
    """The rows. If they name no files but have identifiers, as Kaggle's do, these become paths of images.

    An image is in the folder or one level below, and its name is the identifier, possibly with a suffix.
    """
    if any(os.path.exists(folder / row.path) for row in rows[:FIRST]):
        return rows
    paths: dict[str, str] = {}
    for place in filter(lambda place: is_image(place.name), (*folder.glob("*"), *folder.glob("*/*"))):
        for key in (place.stem, place.name):
            paths[key] = "" if key in paths else str(place.relative_to(folder))  # none for two images
    return [replace(row, path=paths.get(row.path) or row.path) for row in rows]


def _check_first(file: Path, rows: Sequence[_Row]) -> None:
    """Raise DataError if none of the first rows' files exists, because then the others won't either."""
    if rows and not any(os.path.exists(file.parent / row.path) for row in rows[:FIRST]):
        raise DataError(
            f"none of the first {len(rows[:FIRST])} files that '{file}' lists exists, such as '{rows[0].path}'",
            valid="absolute paths, or paths relative to the folder of the CSV",
            fix=f"Move the file to the folder that its paths start from; now they start from '{file.parent}'",
        )


def _root(folder: Path, rows: Sequence[_Row]) -> Path:
    """The folder that contains all files: the CSV's own, unless some lie elsewhere. Names are relative to it, so that
    reports, which are shared, don't show where the images are."""
    own = os.path.abspath(folder)
    places = [os.path.dirname(os.path.abspath(folder / row.path)) for row in rows]
    if all(f"{place}{os.sep}".startswith(os.path.join(own, "")) for place in places):
        return folder
    return Path(os.path.commonpath(places))
