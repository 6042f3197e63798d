"""A CSV or TSV with a path and a label in each row."""

import csv
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Self, TextIO

from edgekit.errors import DataError
from edgekit.images.layouts.folder import Folder
from edgekit.images.layouts.layout import (
    LABEL_COLUMNS,
    PATH_COLUMNS,
    Contents,
    Label,
    Labels,
    ListedImage,
    Part,
    Terms,
    by_split,
    find_column,
)

SNIFFED = 64 << 10
"""Characters from which the delimiter is guessed."""
DELIMITERS = ",;\t|"
TERMS = Terms("label", "without a label", "Write their labels, or remove their rows")
FIRST = 8
"""Rows of which one must name a file that exists; otherwise the paths are taken to be relative to another folder."""


@dataclass(frozen=True, slots=True)
class _Row:
    path: str
    label: str | None
    split: str


@dataclass(frozen=True)
class Table:
    """A CSV or TSV whose header names a column of paths and one of labels, and possibly one of splits."""

    file: Path
    split: str
    """The only split to list; empty for all."""
    delimiter: str
    columns: tuple[int, int, int | None]
    """Indices of the columns with the paths, the labels and the splits."""
    description: ClassVar[str] = "a CSV or TSV with the columns path and label"

    @classmethod
    def open(cls, place: Path, inner: str) -> Self | None:
        """The set of a file with the suffix .csv or .tsv. Raises DataError unless its header has the columns."""
        if place.suffix.lower() not in (".csv", ".tsv") or not os.path.isfile(place):
            return None
        with _reading(place) as file:
            start = file.read(SNIFFED)
            file.seek(0)
            delimiter = _delimiter(start, place)
            header = next(csv.reader(file, delimiter=delimiter), [])
        columns = [find_column(header, names) for names in (PATH_COLUMNS, LABEL_COLUMNS, ("split",))]
        for column, what, names in zip(columns, ("paths", "labels"), (PATH_COLUMNS, LABEL_COLUMNS), strict=False):
            if column is None:
                listed = ", ".join(f"'{name}'" for name in header)
                raise DataError(
                    f"'{place}' has no column with the {what} of images: its first line has {listed or 'nothing'}",
                    valid=f"a first line with names such as path,label; for {what}: {', '.join(names)}",
                    fix="Correct the first line",
                )
        path, label, split = (None if column is None else header.index(column) for column in columns)
        assert path is not None
        assert label is not None
        return cls(place, inner, delimiter, (path, label, split))

    def contents(self) -> Contents:
        """List the rows. Paths are relative to the CSV's folder. Raises DataError for rows without a path."""
        rows = list(self._rows())
        _check_first(self.file, rows)
        root = _root(self.file.parent, rows)
        parts = []
        for split, path, group in by_split(rows, lambda row: row.split, self.file, self.split):
            labels: dict[str, dict[str, None]] = {}
            for row in group:
                of_image = labels.setdefault(self._name(row, root), {})
                of_image |= {row.label: None} if row.label else {}
            images = tuple(ListedImage(name, _one_or_several([*labels[name]])) for name in sorted(labels))
            parts.append(Part(split, path, images, Folder(root)))
        return Contents(tuple(parts), TERMS)

    def _name(self, row: _Row, root: Path) -> str:
        return Path(os.path.relpath(self.file.parent / row.path, root)).as_posix()

    def _rows(self) -> Iterator[_Row]:
        path, label, split = self.columns
        with _reading(self.file) as file:
            reader = csv.reader(file, delimiter=self.delimiter)
            next(reader, None)
            for cells in reader:
                if not any(cell.strip() for cell in cells):
                    continue
                row = _Row(_cell(cells, path), _cell(cells, label) or None, _cell(cells, split))
                if not row.path:
                    raise DataError(f"line {reader.line_num} of '{self.file}' has no path", fix="Correct the line")
                yield row


def _one_or_several(labels: Sequence[Label]) -> Labels:
    """The labels that the rows of an image have."""
    return tuple(labels) if len(labels) > 1 else next(iter(labels), None)


def _cell(cells: Sequence[str], column: int | None) -> str:
    return cells[column].strip() if column is not None and column < len(cells) else ""


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


def _delimiter(text: str, path: Path) -> str:
    """The delimiter that the csv module guesses. Where it can't tell, that of the suffix."""
    try:
        return csv.Sniffer().sniff(text, DELIMITERS).delimiter
    except csv.Error:
        return "\t" if path.suffix.lower() == ".tsv" else ","


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
