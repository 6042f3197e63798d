"""The files of a report in its run folder: the self-contained HTML page with its pictures, and what lies beside it.

Each file is replaced atomically. The pictures show accuracy against latency, the spread of latencies, temperature and
clocks, and operations.
"""

import base64
import csv
import io
import re
import shlex
from collections import defaultdict
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import msgspec

from edgekit.errors import InputError, OutputError
from edgekit.report import sentences
from edgekit.report.answer import alerts, all_remarks, decision, float_line
from edgekit.report.document import MOST_BYTES, REPORT_FILE, Report, origin, parse, provenance, to_json
from edgekit.report.figure import Conditions, Figure, all_figures, figure_at, lookup, score_figures, table_figures
from edgekit.report.plot import Axis, Mark, Panel, Picture, axis, bar, templates
from edgekit.report.row import ModelAccuracy, Row, TimedKind, TimedLayer
from edgekit.report.sensitivity_document import draw_sensitivity, sentences_of
from edgekit.report.sentences import heat_words
from edgekit.support.files import read_regular, replace_text, write_json
from edgekit.support.run_folder import STATE


def draw(report: Report, device: str) -> Picture | None:
    """Accuracy against latency of the rows of one device, or None if accuracy or latency is unknown.

    Each row has a point: colour and shape for the runtime, filled for int8, with a line for the drop's interval.
    """
    reference, rows = report.reference, report.rows_on(device)
    known = [(row, row.latency_ms.p50, row.accuracy) for row in rows if row.latency_ms and row.accuracy]
    if not report.model.accuracy_meaningful or not known:
        return None
    targets = list(dict.fromkeys(row.target for row, _, _ in known))
    level = 100 * reference.value
    marks = [Mark("line", [(0, level), (max(p50 for _, p50, _ in known), level)], dashes=1, label=reference.engine)]
    for row, p50, accuracy in known:
        series, value = targets.index(row.target), 100 * accuracy.value
        ends = [(p50, value + accuracy.drop_points - end) for end in accuracy.drop_ci95_points]
        marks.append(Mark("line", ends, series))
        marks.append(Mark("point", [(p50, value)], series, row.precision == "int8", label=row.name))
    points = [f"{row.name} {p50:.2f} ms, {100 * accuracy.value:.2f} %" for row, p50, accuracy in known]
    panel = Panel(
        marks=marks, label="latency p50, ms (lower is better)", title=f"{reference.metric}, % (higher is better)"
    )
    return Picture(f"{reference.metric} against latency on {device}: {'; '.join(points)}.", [[panel]])


P99 = figure_at("latency_ms.p99")
FEWEST_SAMPLES = 3
"""Fewest samples with which a time series is drawn."""


def draw_spread(report: Report, device: str) -> Picture | None:
    """The spread of the latencies of one device's rows, or None if there are none."""
    timed = [(row, row.latency_ms) for row in report.rows_on(device) if row.latency_ms]
    if not timed:
        return None
    marks = []
    for index, (row, ms) in enumerate(timed):
        top, middle, bottom = index + 0.48, index + 0.66, index + 0.84
        marks.append(Mark("line", [(ms.p5, middle), (ms.p95, middle)]))
        marks.append(Mark("bar", [(ms.p25, top), (ms.p75, bottom)], 0, row.precision == "int8"))
        ticks = [ms.p50, P99.value(row)]
        marks += [Mark("line", [(tick, top), (tick, bottom)]) for tick in ticks if tick is not None]
    figures = [
        f"{row.name} p50 {ms.p50:.2f} ms, p5 to p95 {ms.p5:.2f} to {ms.p95:.2f}, p99 {P99.text(row)}"
        for row, ms in timed
    ]
    panel = Panel(marks=marks, label="latency, ms (lower is better)", names=[row.name for row, _ in timed])
    return Picture(f"Latency on {device}: {'; '.join(figures)}.", [[panel]])


def draw_heat(report: Report, device: str) -> Picture | None:
    """A device's temperature and clocks while its rows were timed.

    None if the device does not report its temperature, or the timing was too short for a time series.
    """
    by_target: dict[str, Conditions] = {}
    for row in report.rows_on(device):  # rows of one target were timed together
        if row.thermal and len(_samples(row.thermal, "celsius")) >= FEWEST_SAMPLES:
            by_target.setdefault(row.target, row.thermal)
    if not by_target:
        return None
    panels = []
    for key, title in {"celsius": "temperature, °C", "clock_mhz": "clock, MHz"}.items():
        lines = {target: _samples(thermal, key) for target, thermal in by_target.items()}
        if any(len(line) >= FEWEST_SAMPLES for line in lines.values()):
            marks = [
                Mark("line", line, index, dashes=index, label=target)
                for index, (target, line) in enumerate(lines.items())
            ]
            panels.append([Panel(marks=marks, label="seconds since the start of the timing", title=title)])
    words = "; ".join(f"{target}: {heat_words(thermal)}" for target, thermal in by_target.items())
    return Picture(f"Temperature and clocks of {device} during the timing. {words}.", panels)


def _samples(thermal: Conditions, key: str) -> list[tuple[float, float]]:
    """(seconds, value) of the samples that have this value."""
    return [(sample.s, value) for sample in thermal.series if (value := getattr(sample, key)) is not None]


KINDS, LAYERS = 8, 10
"""Number of kinds of operation and of layers that the page shows."""
OTHERS = "all others"
TOLERANCE = 0.1
"""Largest difference between the profiler's sum and the measured latency, as a share of the latency."""
NUMBER_FORMAT = re.compile(r"^(DynamicQuantize|QLinear|Fused|Dynamic |Q(?=[A-Z]))|(IntegerToFloat|Integer|Quantized)$")
"""Part of an operation's name for which a runtime has another number format, or another operation fused into it."""


@dataclass(frozen=True)
class LayerLine:
    """A line of the table of the slowest layers."""

    name: str
    times: tuple[float | None, ...]
    """Milliseconds in each bundle with what surrounds the layer, None where the profiler doesn't list it."""
    kernel: str
    """Kernel of the last bundle, which is the INT8 one where there are two; empty where that doesn't list the layer."""


@dataclass(frozen=True)
class RuntimeTimes:
    """The times of one runtime's bundles on one device."""

    title: str
    bundles: tuple[str, ...]
    """Names of the bundles that have times, float first."""
    sentences: tuple[str, ...]
    """The profiler's sum next to the measured latency for each bundle, or the reason why there are no times."""
    picture: Picture | None
    """The bars; None if no bundle has times."""
    layers: tuple[LayerLine, ...]


def timings(report: Report) -> list[RuntimeTimes]:
    """Times of each runtime on each device."""
    groups: dict[tuple[str, str], list[Row]] = {(row.target, row.device.label): [] for row in report.results}
    for row in sorted(report.results, key=lambda row: row.precision != "float"):
        if row.profile is not None:
            groups[row.target, row.device.label].append(row)
    several = report.has_several_devices
    return [_timing(" on ".join(place) if several else place[0], rows) for place, rows in groups.items() if rows]


def sum_words(row: Row) -> str:
    """The profiler's sum next to the measured latency, or the reason why there are no times."""
    profile, latency = row.profile, row.latency_ms
    if profile is None or profile.sum_ms is None or latency is None:
        reason = (profile.missing if profile else None) or "it was not profiled"
        return f"{row.name} has no times by operation: {reason.removesuffix('.')}"
    total, measured = profile.sum_ms, latency.p50
    digits = 2 if min(total, measured) >= 1 else 3
    words = f"{row.name}: the profiler's sum {total:.{digits}f} ms, measured {measured:.{digits}f} ms"
    if total > measured * (1 + TOLERANCE):
        return f"{words}; profiling itself adds time"
    if total < measured * (1 - TOLERANCE):
        return f"{words}; the rest passes outside these operations, or the machine was busier while it was timed"
    return words


def _timing(title: str, rows: list[Row]) -> RuntimeTimes:
    timed = {row.name: row.profile for row in rows if row.profile and row.profile.missing is None}
    kinds = {name: _by_operation(profile.kinds) for name, profile in timed.items()}
    layers = {name: profile.layers for name, profile in timed.items()}
    return RuntimeTimes(
        title=title,
        bundles=tuple(timed),
        sentences=tuple(map(sum_words, rows)),
        picture=_draw_bars(title, kinds, {row.name for row in rows if row.precision == "int8"}) if kinds else None,
        layers=_slowest_layers(layers),
    )


def _by_operation(kinds: Iterable[TimedKind]) -> dict[str, float]:
    """Milliseconds by operation, whatever number format it computes in, so that float and INT8 stand side by side."""
    total: dict[str, float] = defaultdict(float)
    for kind in kinds:
        total[NUMBER_FORMAT.sub("", re.sub(" (int8|float)$", "", kind.kind))] += kind.ms
    return total


def _slowest_layers(layers: dict[str, tuple[TimedLayer, ...]]) -> tuple[LayerLine, ...]:
    times: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for bundle, profiled in layers.items():
        for layer in profiled:
            times[layer.name][bundle] += layer.ms + layer.around_ms
    kernels = {layer.name: layer.kernel for layer in next(reversed(layers.values()), ())}
    slowest = sorted(times, key=lambda name: -max(times[name].values()))[:LAYERS]
    return tuple(
        LayerLine(name, tuple(times[name].get(bundle) for bundle in layers), kernels.get(name, "")) for name in slowest
    )


def _draw_bars(title: str, kinds: Mapping[str, Mapping[str, float]], filled: Container[str]) -> Picture:
    """The times of the slowest operations, with a bar for each bundle."""
    operations = dict.fromkeys(operation for times in kinds.values() for operation in times)
    slowest = sorted(operations, key=lambda operation: -max(times.get(operation, 0.0) for times in kinds.values()))
    bars = {
        name: {operation: times.get(operation, 0.0) for operation in slowest[:KINDS]} for name, times in kinds.items()
    }
    if len(slowest) > KINDS:
        for name, times in kinds.items():
            bars[name][OTHERS] = sum(times.get(operation, 0.0) for operation in slowest[KINDS:])
    marks = [
        bar(row, ms, 0, name in filled, nth, len(bars), label=name)
        for nth, (name, times) in enumerate(bars.items())
        for row, ms in enumerate(times.values())
    ]
    texts = [
        f"{name}: {', '.join(f'{what} {ms:.3f} ms' for what, ms in times.items())}" for name, times in bars.items()
    ]
    shown = list(next(iter(bars.values())))
    panel = Panel(marks=marks, label="time of one inference, ms (lower is better)", names=shown)
    return Picture(f"Time by kind of operation with {title}. {'; '.join(texts)}.", [[panel]])


CLASSES = 10
"""Number of classes that the page shows without a click, and of changed classes of a bundle that it shows at all."""
EXAMPLES = 3
"""Number of flipped images that the page shows for each changed class."""


class ClassLine(NamedTuple):
    """Accuracy of one class in percent: the share of its images that are right, or F1 where images have several."""

    label: str
    images: int
    reference: float
    bundles: list[float]
    """Accuracy of each bundle of the table."""


def class_tables(report: Report) -> Iterator[tuple[str, list[str], list[ClassLine]]]:
    """Device, INT8 bundles and lines, the largest loss first, of a table of the accuracies of each class.

    There is none if accuracies mean nothing, or aren't known class by class.
    """
    classes = report.evaluation.classes or ()
    if not report.model.accuracy_meaningful or report.reference.right_by_class is None:
        return
    for device in report.devices:
        rows = [row for row in report.rows_on(device) if row.precision == "int8"]
        known = {row.name: row.accuracy for row in rows if row.accuracy and row.accuracy.right_by_class}
        lines = []
        for index, each in enumerate(classes if known else ()):
            judged = (report.reference, *known.values())
            reference, *bundles = (_of_class(counts, index, each.images) for counts in judged)
            lines.append(ClassLine(each.label, each.images, reference, bundles))
        if lines:
            lines.sort(key=lambda line: (min(line.bundles) - line.reference, line.reference, line.label))
            yield device, [*known], lines


def _of_class(counts: ModelAccuracy, index: int, images: int) -> float:
    """Percent of a class's images that are right, or F1 where images have several classes."""
    right, given = (counts.right_by_class or ())[index], counts.given_by_class
    return 100 * right / images if given is None else 200 * right / (images + given[index])


def changed_rows(report: Report) -> list[Row]:
    """The INT8 rows with changed predictions; none if accuracies mean nothing."""
    if not report.model.accuracy_meaningful:
        return []
    return [row for row in report.results if row.precision == "int8" and row.accuracy and row.accuracy.changes]


def shown_images(report: Report) -> Iterator[str]:
    """What the page shows of flipped images: their names, and both answers, which may be names of images."""
    for row in changed_rows(report):
        for change in (row.accuracy.changes or ())[:CLASSES] if row.accuracy else ():
            for shown in change.examples[:EXAMPLES]:
                yield from (shown.image, shown.before, shown.after)


def render_html(report: Report, thumbnails: Mapping[str, bytes] = MappingProxyType({})) -> str:
    """The whole page; `thumbnails` are JPEG files by the names of evaluation images.

    Raises MissingExtraError if jinja2 is not installed.
    """
    meaningful = report.model.accuracy_meaningful
    figures = table_figures(report.results, meaningful)
    _, loss = score_figures(report.results)
    int8, float_ = ([row for row in report.results if row.precision == kind] for kind in ("int8", "float"))
    return (
        templates()
        .get_template("report.html.j2")
        .render(
            report=report,
            words=sentences,
            origin=origin(report),
            alerts=alerts(report),
            decisions=[decision(report, advice) for advice in report.recommendations],
            steps=[(step.purpose, shlex.join(step.command)) for step in sentences.steps_in_report(report)],
            columns=[figure for figure in figures if figure.is_main],
            others=[figure for figure in figures if not figure.is_main],
            loss=loss,
            scale=_loss_axis(report.results, loss, meaningful),
            int8=int8,
            floats=float_,
            float_line=float_line(float_) if len(report.devices) == 1 else "Float bundles.",
            remarks=all_remarks(report),
            pictures=_pictures(report, draw),
            spreads=_pictures(report, draw_spread),
            heats=_pictures(report, draw_heat),
            timings=timings(report),
            by_class=[*class_tables(report)],
            changed=changed_rows(report),
            classes=CLASSES,
            examples=EXAMPLES,
            thumbnails={name: base64.b64encode(jpeg).decode() for name, jpeg in thumbnails.items()},
            sensitivity=draw_sensitivity(report.sensitivity)
            if report.sensitivity and report.sensitivity.targets
            else None,
            sensitivity_sentences=sentences_of,
            provenance=provenance(report),
        )
    )


def _pictures(report: Report, draw_one: Callable[[Report, str], Picture | None]) -> list[tuple[str, Picture]]:
    """(processor, or name if there are several devices; picture) of devices with the figures that `draw_one` needs."""
    machines = [report.facts_of(device) for device in report.devices]
    names = [facts.label if report.has_several_devices else facts.cpu or facts.label for facts in machines]
    pictures = [draw_one(report, device) for device in report.devices]
    return [(name, picture) for name, picture in zip(names, pictures, strict=True) if picture]


def _loss_axis(rows: Sequence[Row], loss: Figure, meaningful: bool) -> Axis | None:
    """The axis of the lines of all losses, with a place for zero and each limit; None if no loss has an interval."""
    ends = [end for row in rows for end in loss.ends(row, meaningful) or ()]
    limits = [row.accuracy.bound.max_drop_points for row in rows if row.accuracy and row.accuracy.bound]
    return axis([0, *ends, *limits]) if ends else None


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
