"""report.json, report.csv and report.html in a run folder, each written beside itself and renamed."""

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edgekit.errors import OutputError
from edgekit.report.columns import Report, Row, is_meaningful, lookup, row_name
from edgekit.report.html import render_html
from edgekit.report.schema import FILE, validate
from edgekit.support.files import replace_text

Value = str | float | int | None


def _at(path: str, scale: float = 1.0) -> Callable[[Report, Row], Value]:
    """The value at a path of the row, times `scale`; nothing where it's an accuracy without meaning."""

    def value(report: Report, row: Row) -> Value:
        found: Value = lookup(row, path)
        if path.startswith("accuracy.") and not is_meaningful(report):
            return None
        if isinstance(found, bool):
            return str(found).lower()
        return round(found * scale, 6) if isinstance(found, float) else found

    return value


def _end(path: str, index: int) -> Callable[[Report, Row], Value]:
    """One end of an interval."""

    def value(report: Report, row: Row) -> Value:
        meaningless = path.startswith("accuracy.") and not is_meaningful(report)
        ends: list[Value] | None = lookup(row, path)
        return None if meaningless or ends is None else ends[index]

    return value


CSV_COLUMNS: dict[str, Callable[[Report, Row], Value]] = {
    "model": lambda report, row: report["model"]["name"],
    "weights": lambda report, row: report["model"]["weights"],
    "img_size": lambda report, row: report["model"]["input_shape"][-1],
    "param_count_million": lambda report, row: report["model"]["params"] / 1e6,
    "macs_giga": lambda report, row: report["model"]["macs"] / 1e9,
    "bundle": lambda report, row: row_name(row),
    "target": _at("target"),
    "precision": _at("precision"),
    "scheme": _at("scheme"),
    "device": _at("device.name"),
    "device_class": _at("device.class"),
    "device_emulated": lambda report, row: str(bool(lookup(row, "device.emulated"))).lower(),
    "verdict": _at("verdict"),
    "reasons": lambda report, row: "; ".join(row["reasons"]),
    "remarks": lambda report, row: "; ".join(row.get("remarks", ())),
    "size_bytes": _at("size_bytes"),
    "top1_percent": _at("accuracy.top1", 100),
    "top5_percent": _at("accuracy.top5", 100),
    "drop_top1_points": _at("accuracy.drop_top1_points"),
    "drop_ci95_low_points": _end("accuracy.drop_ci95_points", 0),
    "drop_ci95_high_points": _end("accuracy.drop_ci95_points", 1),
    "right_to_wrong_images": _at("accuracy.right_to_wrong"),
    "wrong_to_right_images": _at("accuracy.wrong_to_right"),
    "mcnemar_p": _at("accuracy.mcnemar_p"),
    "max_drop_points": _at("accuracy.bound.max_drop_points"),
    "max_drop_shown": _at("accuracy.bound.shown"),
    "max_drop_images_needed": _at("accuracy.bound.images_needed"),
    "agreement_percent": _at("accuracy.agreement", 100),
    "eval_images": _at("accuracy.count"),
    "accuracy_meaningful": lambda report, row: str(is_meaningful(report)).lower(),
    "latency_p50_ms": _at("latency_ms.p50"),
    "latency_p90_ms": _at("latency_ms.p90"),
    "latency_p99_ms": _at("latency_ms.p99"),
    "latency_mean_ms": _at("latency_ms.mean"),
    "latency_std_ms": _at("latency_ms.std"),
    "latency_spread": _at("latency_ms.spread"),
    "timed_runs": _at("latency_ms.count"),
    "threads": _at("latency_ms.threads"),
    "load_ms": _at("latency_ms.load"),
    "first_ms": _at("latency_ms.first"),
    "end_to_end_p50_ms": _at("end_to_end_ms.p50"),
    "speedup_versus": _at("speedup.versus"),
    "speedup_versus_precision": _at("speedup.versus_precision"),
    "speedup_ratio": _at("speedup.ratio"),
    "speedup_ci95_low_ratio": _end("speedup.ci95", 0),
    "speedup_ci95_high_ratio": _end("speedup.ci95", 1),
    "int8_percent_of_macs": _at("int8.share_of_macs", 100),
    "bound_ms": _at("limit.bound_ms"),
    "bound_fraction": _at("limit.fraction"),
    "peak_rss_bytes": _at("peak_rss_bytes"),
    "throttled": lambda report, row: "; ".join(lookup(row, "thermal.throttled") or ()),
    "other_cpus": _at("thermal.other_cpus"),
}


def write_report(report: dict[str, Any], folder: Path) -> None:
    """Writes report.json, report.csv and report.html into `folder`, which is made if need be.

    The JSON comes first, so that what was measured is kept whatever happens to the others. Raises InputError when
    the report doesn't fit its schema, OutputError when the folder can't be written.
    """
    validate(report)
    _write(folder / FILE, json.dumps(report, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    _write(folder / "report.csv", render_csv(report))
    _write(folder / "report.html", render_html(report))


def render_csv(report: Report) -> str:
    """One line per result; an empty cell where there's no figure."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for row in report["results"]:
        writer.writerow([column(report, row) for column in CSV_COLUMNS.values()])
    return text.getvalue()


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_text(path, text)
    except OSError as error:
        raise OutputError(f"'{path}' can't be written: {error}. Give another folder with --output.") from error
