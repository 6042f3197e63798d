"""The origin of a report's figures, and the licence of its model."""

import re
import shlex
from collections.abc import Sequence
from math import floor
from pathlib import Path

from edgekit.report.device import DeviceFacts
from edgekit.report.document import Calibration, Evaluation, Model, PreprocessingFacts, Report
from edgekit.report.figure import NOTHING
from edgekit.report.row import Row

LICENSES = re.compile(r"\b(apache-2\.0|mit|bsd-[23]-clause|cc0-1\.0|cc-by(?:-nc)?(?:-sa|-nd)?-\d\.0)\b", re.IGNORECASE)
"""Identifiers of licences that model hubs know, as timm and open_clip spell them."""
NO_LICENSE = "edgekit does not know the licence of these weights."


def license_id(model: Model) -> str | None:
    """The identifier of the licence of published weights in lower case, if their note names one that hubs know."""
    named = LICENSES.search(model.license or "")
    return named[0].lower() if named and not _is_file(model) else None


def license_text(model: Model) -> str:
    """What edgekit knows about the licence, in sentences."""
    if not model.license:
        return NO_LICENSE
    note = f"{model.license[0].upper()}{model.license[1:]}."
    return f"{NO_LICENSE} {note}" if _is_file(model) else note


def _is_file(model: Model) -> bool:
    """Whether the weights are a checkpoint, about which the note says what holds if it is derived from others."""
    return bool(Path(model.weights).suffix)


def origin(report: Report) -> str:
    """When, with what and on which machines the report was made, in one line."""
    machines = [_short(report.facts_of(device), report.has_several_devices) for device in report.devices]
    on = f" on {', '.join(machines)}" if machines else ""
    return f"Measured{on}; {report.created[:10]}, edgekit {report.edgekit}."


def provenance(report: Report) -> dict[str, str]:
    """Facts about the origin of the figures, by title."""
    model, calibration = report.model, report.calibration
    return {
        "Written by": f"edgekit {report.edgekit}, {report.created}",
        "Command": shlex.join(report.command),
        "Weights": f"{model.weights}, SHA-256 {model.weights_sha256 or NOTHING}",
        **({"License": model.license} if model.license else {}),
        "Outputs": f"{model.classes:,}",
        **({"Preprocessing": preprocessing_words(model.preprocessing)} if model.preprocessing else {}),
        "Calibration": _calibration(calibration),
        "Evaluation": _evaluation(report.evaluation),
        **{f"Device {device}": _machine(report.facts_of(device), report.results) for device in report.devices},
    }


def _short(device: DeviceFacts, several: bool) -> str:
    """The machine by its processor, after its name if there are several."""
    processor = device.cpu or "an unknown processor"
    return f"{device.label}: {processor}" if several else processor


def _machine(device: DeviceFacts, rows: Sequence[Row]) -> str:
    """The facts of a device in words, with the versions of the runtimes on it."""
    cores, memory = device.cores or "unknown", _gib(device.memory_bytes)
    processor = f"{device.cpu or 'unknown processor'}, class {device.device_class or 'unknown'}"
    python = f"Python {device.python}" if device.python else None
    engines = (row.engine for row in rows if row.device.name == device.name)
    versions = dict.fromkeys((device.system, python, *engines, _browser(device)))
    words = f"{processor}, cores: {cores}, memory: {memory}" + (", emulated by QEMU" if device.emulated else "")
    return ", ".join(filter(None, (words, *versions)))


def _browser(device: DeviceFacts) -> str | None:
    """What a page knows about the browser that it ran in."""
    browser = device.browser
    if browser is None:
        return None
    return (
        f"license of LiteRT.js {browser.license}, integer dot product {browser.dot_product}, clock in steps of "
        f"{browser.clock_ms:g} ms, {'secure' if browser.secure else 'not secure'} page"
    )


def _calibration(part: Calibration) -> str:
    doubts = "".join(f"; {doubt}" for doubt in part.doubts)
    recipe = f"recipe {part.recipe}, seed {part.seed}"
    return f"{part.count:,} images, {recipe}{_skipped(part)}{doubts}, SHA-256 {part.sha256 or NOTHING}"


def _evaluation(part: Evaluation) -> str:
    copies = ((part.copies_left_out, "copies of calibration images"), (part.repeated_left_out, "repeated images"))
    left_out = "".join(f", {len(names):,} {what} left out" for names, what in copies if names)
    alike = f", {len(part.lookalikes):,} similar to calibration images" if part.lookalikes else ""
    overlap = f"{part.overlap_with_calibration} of them also calibration images"
    return f"{part.count:,} images, {overlap}{_skipped(part)}{left_out}{alike}, SHA-256 {part.sha256 or NOTHING}"


def _skipped(part: Calibration | Evaluation) -> str:
    return f", {len(part.unreadable):,} unreadable images skipped" if part.unreadable else ""


def _gib(size: int | None) -> str:
    return "unknown" if size is None else f"{size / 2**30:,.2f} GiB"


SCALE = {
    "center": "scale to cover {size} ({filter}), then crop the centre",
    "squash": "scale to {size} ({filter}) whatever the aspect ratio, then crop the centre",
    "border": "scale to fit into {size} ({filter}), then pad or crop",
}


def preprocessing_words(facts: PreprocessingFacts) -> str:
    """The conversion in one line, with sizes as HEIGHTxWIDTH in pixels."""
    height, width = (floor(side / facts.crop_pct) for side in (facts.height, facts.width))
    scale = SCALE[facts.crop_mode].format(size=f"{height}x{width}", filter=facts.interpolation)
    mean, std = (", ".join(f"{value:g}" for value in values) for values in (facts.mean, facts.std))
    return f"{scale} to {facts.height}x{facts.width}; mean {mean}; standard deviation {std}"
