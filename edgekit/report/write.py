"""The files of a report in its run folder, each of which is replaced atomically, and the thumbnails beside them."""

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from edgekit.errors import InputError, OutputError
from edgekit.report.document import Report
from edgekit.report.figure import Figure, all_figures, lookup
from edgekit.report.html import render_html
from edgekit.report.row import Row
from edgekit.report.serialization import MOST_BYTES, REPORT_FILE, parse, to_json
from edgekit.support.files import read_regular, replace_text, write_json
from edgekit.support.run_folder import STATE

THUMBNAILS = f"{STATE}/thumbnails.json"
"""File in a run folder with a JPEG file for the name of each image."""


def read_thumbnails(folder: Path) -> dict[str, bytes]:
    """JPEG files by the names of the images; empty where the run keeps none. Raises InputError for a damaged file."""
    file = folder / THUMBNAILS
    try:
        content = read_regular(file, MOST_BYTES)
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise InputError(f"can't read '{file}': {error.strerror or error}", fix="Delete it") from error
    return parse(content, dict[str, bytes], f"'{file}'")


def write_thumbnails(folder: Path, thumbnails: Mapping[str, bytes]) -> None:
    """Replace the thumbnails of a run. Without any, there is no file."""
    if thumbnails:
        write_json(folder / THUMBNAILS, msgspec.to_builtins(dict(thumbnails)))
    else:
        (folder / THUMBNAILS).unlink(missing_ok=True)


Value = str | float | int | None
OF_MODEL = ("model", "weights", "img_size", "param_count_million", "macs_giga", "accuracy_meaningful")
"""Columns of report.csv that are the same in all lines."""
OF_ROW = {
    "bundle": "name",
    "target": "target",
    "precision": "precision",
    "scheme": "scheme",
    "device": "device.name",
    "device_class": "device.device_class",
    "engine": "engine",
    "device_emulated": "device.emulated",
    "verdict": "verdict",
    "reasons": "reasons",
    "remarks": "remarks",
    "speedup_versus": "speedup.versus",
    "speedup_versus_precision": "speedup.versus_precision",
    "max_drop_shown": "accuracy.bound.shown",
    "throttled": "thermal.throttled",
}
"""Columns of report.csv that are not figures, and the paths of their cells in a row."""


def write_report(report: Report, folder: Path) -> None:
    """Write report.json, report.csv and report.html into `folder`, and create it if necessary.

    The JSON comes first, so that the measurements are saved even if one of the others fails. Raises OutputError if the
    folder can't be written.
    """
    _write(folder / REPORT_FILE, to_json(report))
    render_files(report, folder)


def render_files(report: Report, folder: Path, thumbnails: bool = True) -> None:
    """Write report.csv, and report.html with the thumbnails that the run keeps, unless it shall have none.

    Raises OutputError if the folder can't be written, and MissingExtraError if a package for the page is missing.
    """
    _write(folder / "report.csv", render_csv(report))
    _write(folder / "report.html", render_html(report, read_thumbnails(folder) if thumbnails else {}))


def render_csv(report: Report) -> str:
    """One line per row, with an empty cell for each figure that was not measured."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=csv_columns(), lineterminator="\n")
    writer.writeheader()
    writer.writerows(_line(report, row) for row in report.results)
    return text.getvalue()


def csv_columns() -> list[str]:
    """Names of the columns of report.csv."""
    columns = [*OF_MODEL, *OF_ROW]
    for figure in all_figures():
        columns.append(figure.csv_column)
        columns += _ends(figure) if figure.interval else ()
    return columns


def _line(report: Report, row: Row) -> dict[str, Value]:
    """Cells of one row, by column."""
    model = report.model
    sizes = [model.input_shape[-1], model.params / 1e6, model.macs / 1e9]
    facts: list[Any] = [model.name, model.weights, *sizes, model.accuracy_meaningful]
    cells = {column: _cell(fact) for column, fact in zip(OF_MODEL, facts, strict=True)}
    cells |= {column: _cell(lookup(row, path)) for column, path in OF_ROW.items()}
    cells["device_emulated"] = _cell(bool(row.device.emulated))
    for figure in all_figures():
        if figure.is_accuracy and not model.accuracy_meaningful:
            continue
        cells[figure.csv_column] = _scaled(lookup(row, figure.path), figure)
        if figure.interval and (ends := lookup(row, figure.interval)):
            cells |= {column: _scaled(end, figure) for column, end in zip(_ends(figure), ends, strict=True)}
    return cells


def _cell(value: bool | Value | tuple[str, ...]) -> Value:
    """The value; a text that a spreadsheet would compute begins with an apostrophe."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        value = "; ".join(value)
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")) else value


def _scaled(value: float | None, figure: Figure) -> float | None:
    """A value in the unit of the figure's column. An integer without a scale stays an integer."""
    if value is None or (isinstance(value, int) and figure.csv_scale == 1):
        return value
    return round(value * figure.csv_scale, 6)


def _ends(figure: Figure) -> tuple[str, str]:
    """Columns of a figure's 95 % interval."""
    return f"{figure.csv_column}_ci95_low", f"{figure.csv_column}_ci95_high"


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_text(path, text)
    except OSError as error:
        raise OutputError(f"'{path}' can't be written: {error}", fix="Choose another folder with --output") from error
