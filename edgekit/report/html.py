"""The report as one page that needs nothing but itself."""

import shlex
from collections.abc import Callable
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from edgekit.report import columns as c
from edgekit.report.columns import Report, Row, devices, is_meaningful, lookup, row_name
from edgekit.report.plot import draw
from edgekit.report.sensitivity import advice, draw_sensitivity, whole
from edgekit.report.sentences import conditions, heading, recommendation, stability_words
from edgekit.report.telemetry_text import heat_words
from edgekit.report.timeline import draw_heat, draw_spread
from edgekit.report.tuning import draw_tuning, lines
from edgekit.support.libraries import import_needed

if TYPE_CHECKING:
    from jinja2 import Template

COLUMNS = (
    c.VERDICT, c.SIZE, c.TOP1, c.DROP, c.P50, c.SPEEDUP, c.INT8, c.LIMIT, c.PEAK, c.P90, c.P99, c.END_TO_END, c.TOP5,
    c.AGREEMENT, c.IMAGES, c.RUNS,
)  # fmt: skip
SHOWN = 8


def render_html(report: Report) -> str:
    """The whole page. Raises MissingExtraError without jinja2 or matplotlib."""
    return _template().render(
        report=report,
        heading=heading(report),
        recommendation=recommendation(report),
        conditions=conditions(report),
        headlines=_headlines(report),
        columns=[c.DEVICE, *COLUMNS] if len(devices(report)) > 1 else COLUMNS,
        pictures=_pictures(report, draw),
        spreads=_pictures(report, draw_spread),
        heats=_pictures(report, draw_heat),
        sensitivity=_sensitivity(report),
        tuning=_tuning(report),
        random=None if is_meaningful(report) else c.RANDOM,
        details=[(row, _details(report, row)) for row in report["results"]],
        provenance=_provenance(report),
        row_name=row_name,
        shown_device=c.shown_device,
        said=c.said,
        several=len(devices(report)) > 1,
    )


def _pictures(report: Report, draw_one: Callable[[Report, str], tuple[str, str] | None]) -> list[dict[str, str]]:
    """One picture for each device that has what it takes."""
    labels = {row["device"]["name"]: c.shown_device(row) for row in report["results"]}
    drawn = {device: draw_one(report, device) for device in devices(report)}
    return [{"device": labels[name], "svg": each[0], "words": each[1]} for name, each in drawn.items() if each]


def _sensitivity(report: Report) -> dict[str, Any] | None:
    """The picture of the layers' sensitivity, and what is said of each target."""
    found = report.get("sensitivity")
    if not found or not found["targets"]:
        return None
    svg, words = draw_sensitivity(found)
    said = [f"{part['target']}: {whole(found, part)}. {advice(found, part)}" for part in found["targets"]]
    return {"svg": svg, "words": words, "said": said, "images": found["evaluation"]["count"]}


def _tuning(report: Report) -> dict[str, Any] | None:
    """The picture of a search, and what is said of each target."""
    found = report.get("tuning")
    if not found:
        return None
    svg, words = draw_tuning(found)
    return {"svg": svg, "words": words, "said": lines(found)}


@cache
def _template() -> "Template":
    import_needed("jinja2", "build")
    import jinja2

    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string((files("edgekit.report") / "report.html.j2").read_text(encoding="utf-8"))


def _headlines(report: Report) -> list[tuple[str, str, str]]:
    """(title, figure with unit, what it was measured with) of the bundle to ship."""
    advice = report["recommendation"] or {}
    for row in report["results"]:
        if row["bundle"] and (row["bundle"], row["device"]["name"]) == (advice.get("bundle"), advice.get("device")):
            images, versus = lookup(row, "accuracy.count"), c.best_float(row)
            notes = {
                c.SPEEDUP: f"over {versus}" if versus else "it is the float bundle itself",
                c.P50: _runs(row),
                c.DROP: f"n = {images:,} images" if images and is_meaningful(report) else "",
                c.SIZE: "",
            }
            return [_headline(column, report, row, note) for column, note in notes.items()]
    return []


def _headline(column: c.Column, report: Report, row: Row, note: str) -> tuple[str, str, str]:
    """One of the figures at the top, its interval with the note."""
    figure, _, interval = column.text(report, row).partition(" [")
    unit = "" if column.value(report, row) is None else f" {column.unit}"
    interval = f"95 %: {interval.removesuffix(']').replace(', ', ' to ')}" if interval else ""
    return column.title, figure + unit, ", ".join(filter(None, (interval, note)))


def _details(report: Report, row: Row) -> dict[str, str]:
    """What the table has no room for; nothing that wasn't measured."""
    int8 = (row["int8"] or {}) if row["precision"] == "int8" else {}
    latency = row["latency_ms"] if lookup(row, "latency_ms.p50") is not None else {}
    details = {
        "Scheme": row["scheme"],
        "Timing": latency and _runs(row),
        "Mean": latency and f"{_scaled(latency['mean'])}, standard deviation {_scaled(latency['std'])}",
        "Load": _scaled(latency.get("load")),
        "First inference": _scaled(latency.get("first")),
        "In low precision": _low_precision(row.get("low_precision"), is_meaningful(report)),
        "Lower bound": _scaled(lookup(row, "limit.bound_ms")),
        "What ran in int8": int8.get("method"),
        "Layers in float": _layers(int8.get("float_layers")),
        "Heat and clocks": heat_words(row["thermal"]),
        "Flips": _flips(row["accuracy"] or {}),
        "Reasons": "; ".join(row["reasons"]),
        "Remarks": "; ".join(row.get("remarks", ())),
    }
    return {title: text for title, text in details.items() if text}


def _low_precision(low: Row | None, meaningful: bool) -> str:
    """What bf16 or f16 makes of a float bundle."""
    if not low:
        return ""
    found = low["accuracy"]
    drop = f"drop {found['drop_top1_points']:.2f} points, " if meaningful else ""
    words = f"{low['computes_in']}: p50 {_scaled(low['p50_ms'])}, {drop}agreement {found['agreement']:.1%}"
    return words if low["verdict"] == "pass" else f"{words}: more than is allowed"


def _flips(accuracy: Row) -> str:
    """Images that changed sides, and whether that may be chance."""
    if accuracy.get("mcnemar_p") is None:
        return ""
    lost, won = accuracy["right_to_wrong"], accuracy["wrong_to_right"]
    return (
        f"{lost:,} right to wrong, {won:,} wrong to right of {accuracy['count']:,} images, "
        f"McNemar p = {accuracy['mcnemar_p']:.2g}"
    )


def _layers(names: list[str] | None) -> str:
    """The first names, and how many more there are."""
    if names is None:
        return ""
    more = f" and {len(names) - SHOWN} more (report.json has all)" if len(names) > SHOWN else ""
    return (", ".join(names[:SHOWN]) or "none") + more


def _provenance(report: Report) -> dict[str, str]:
    """Where the figures come from."""
    model, calibration, evaluation = report["model"], report["calibration"] or {}, report["evaluation"] or {}
    return {
        "Written by": f"edgekit {report['edgekit']}, {report['created']}",
        "Command": shlex.join(report["command"]),
        "Weights": f"{model['weights']}, SHA-256 {model['weights_sha256'] or c.NOTHING}",
        **({"License": model["license"]} if model.get("license") else {}),
        "Classes": f"{model['classes']:,}",
        "Calibration": _images(calibration, f"recipe {calibration.get('recipe')}, seed {calibration.get('seed')}"),
        **{f"Stability {each['target']}": stability_words(each) for each in calibration.get("stability", ())},
        "Evaluation": _images(evaluation, f"{evaluation.get('overlap_with_calibration')} of them in calibration"),
        **{f"Device {row['device']['name']}": _machine(row["device"]) for row in report["results"]},
    }


def _machine(device: dict[str, Any]) -> str:
    """A device in words."""
    cores, memory = device["cores"] or "unknown", _scaled(device["memory_bytes"], 2**30, "GiB") or "unknown"
    known = f"{device['cpu'] or 'unknown processor'}, class {device['class'] or 'unknown'}"
    return f"{known}, cores: {cores}, memory: {memory}" + (", emulated by QEMU" if device.get("emulated") else "")


def _images(part: dict[str, Any], more: str) -> str:
    if not part:
        return "none"
    unreadable = len(part.get("unreadable", ()))
    passed_over = f", {unreadable:,} unreadable passed over" if unreadable else ""
    for key, what in (
        ("copies_left_out", "copies of calibration images left out"),
        ("lookalikes", "look-alikes of them"),
    ):
        passed_over += f", {len(part[key]):,} {what}" if part.get(key) else ""
    passed_over += "".join(f"; {doubt}" for doubt in part.get("doubts", ()))
    return f"{part['count']:,} images, {more}{passed_over}, SHA-256 {part['sha256'] or c.NOTHING}"


def _runs(row: Row) -> str:
    latency = row["latency_ms"]
    return f"n = {latency['count']:,} runs, threads: {latency['threads']}"


def _scaled(value: float | None, divisor: float = 1, unit: str = "ms") -> str:
    return "" if value is None else f"{value / divisor:,.2f} {unit}"
