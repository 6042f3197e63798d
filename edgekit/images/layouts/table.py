"""A CSV or TSV with a path and a label in each row."""

import csv
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Self, TextIO

from edgekit.errors import DataError
from edgekit.images.layouts.folder import Folder
from edgekit.images.layouts.layout import (
    LABEL_COLUMNS,
    PATH_COLUMNS,
    Contents,
    Labels,
    ListedImage,
    Part,
    Terms,
    by_split,
    find_column,
    is_image,
)

DELIMITERS = ",;\t|"
TERMS = Terms("label", "without a label", "Write their labels")
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

    Without a column of labels, every other column is one of zeros and ones, and its name that of a class.
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
        "a CSV or TSV with the columns path and label, or path and one of 0 or 1 for each class"
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
            if label is not None or len(table.classes) > 1:
                return table
        listed = ", ".join(f"'{name}'" for name in header) or "nothing"
        raise DataError(
            f"'{place}' has no column with the {'labels' if path else 'paths'} of images: its first line has {listed}",
            valid=f"a first line with names such as path,label; for paths: {', '.join(PATH_COLUMNS)}; for labels: "
            f"{', '.join(LABEL_COLUMNS)}, or the names of classes for columns of 0 and 1",
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
        return Contents(tuple(parts), TERMS, tuple(name.strip() for name in self.classes))

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
