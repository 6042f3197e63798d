"""report.json: the results of a run, the model and images that it used, and the bundle to ship.

The dataclasses are the schema; here documents become JSON and are read back. The provenance is the origin of a report's
figures, and the licence of its model.
"""

import ast
import dataclasses
import inspect
import json
import os
import re
import shlex
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from math import floor
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args, get_type_hints

import msgspec
from msgspec import Meta

from edgekit.errors import InputError, all_printable
from edgekit.report.figure import NOTHING, Count, DeviceFacts, Fraction, Interval, Positive, all_figures
from edgekit.report.row import ModelAccuracy, Row
from edgekit.report.sensitivity_document import Sensitivity
from edgekit.support.files import read_regular
from edgekit.support.run_folder import STATE

Timestamp = Annotated[str, Meta(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)$")]


@dataclass(frozen=True, kw_only=True)
class PreprocessingFacts:
    """Conversion of an image to the network's input: resize, crop, and (pixel / 255 - mean) / std for each channel."""

    height: int
    """Height of the input, in pixels."""
    width: int
    """Width of the input, in pixels."""
    interpolation: str
    """Filter that resizes images, such as "bicubic"."""
    crop_pct: Annotated[float, Meta(gt=0)]
    """Side of the input as a fraction of the resized image's side."""
    crop_mode: Literal["center", "squash", "border"]
    """Way to fit other aspect ratios: "center" crops, "squash" distorts and "border" pads."""
    mean: tuple[float, ...]
    """Mean of each channel, on a scale of 0 to 1."""
    std: tuple[float, ...]
    """Standard deviation of each channel, on a scale of 0 to 1."""
    margin: float | None = None
    """Size, as a multiple of that which an image is scaled to, down to which the fast form reduces it before; null for
    the exact form."""


@dataclass(frozen=True, kw_only=True)
class Model:
    """The network that was deployed."""

    name: str
    """Name of the model, as given to edgekit."""
    source: str
    """Source of the network, such as "timm" or "open_clip"."""
    weights: str
    """Name of the weights: a file name, a tag or "random"."""
    weights_sha256: str | None
    """SHA-256 of the weights."""
    params: Count
    """Number of parameters."""
    macs: Count
    """Number of multiply-accumulates of one inference."""
    input_shape: tuple[int, int, int, int]
    """Shape of the input: batch, channels, height, width."""
    classes: Positive
    """Number of outputs: of classes, or of values of a vector."""
    task: str = "single-label"
    """Meaning of the outputs: "single-label", "multi-label" or "embedding"."""
    class_order: str | None = None
    """Order of the images' classes, "alphabetical" or "natural", in which the float network is clearly better; null
    where names tell the order, where the two are the same, and in reports of an edgekit without it."""
    accuracy_meaningful: bool
    """Whether accuracies mean anything; false for random weights."""
    license: str | None = None
    """Note on the licence of the published weights."""
    preprocessing: PreprocessingFacts | None = None
    """Conversion of an image to the network's input; null in reports of an edgekit without it."""

    @property
    def hub_task(self) -> str:
        """Name of the task on model hubs."""
        return "image-feature-extraction" if self.task == "embedding" else "image-classification"


@dataclass(frozen=True)
class Unreadable:
    """An image that was skipped because it could not be decoded."""

    name: str
    """Path of the image within its data set."""
    reason: str
    """Error that the decoder reported."""


@dataclass(frozen=True)
class Lookalike:
    """An evaluation image that looks like a calibration image, for example because it is a re-encoded copy."""

    name: str
    """Path of the evaluation image within its data set."""
    like: str
    """Path of the calibration image that it looks like."""


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """The calibration images and the recipe."""

    count: Count
    """Number of calibration images."""
    sha256: str | None
    """SHA-256 over the contents of the calibration images."""
    seed: int | None
    """Random seed of the choice of calibration images."""
    recipe: str | None
    """Name of the quantization recipe."""
    unreadable: tuple[Unreadable, ...] = ()
    """Images that were skipped because they could not be decoded."""
    doubts: tuple[str, ...] = ()
    """Reasons why ranges from these images may not fit other images, such as too few images or missing classes."""
    unlike_evaluation: bool = False
    """Whether the evaluation images are so much brighter or darker that ranges from these images may not fit them."""


@dataclass(frozen=True)
class EvaluatedClass:
    """A class that evaluation images have."""

    label: str
    """Name of the class."""
    images: Positive
    """Number of evaluation images of this class."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The evaluation images, and their overlap with the calibration images."""

    count: Count
    """Number of evaluation images."""
    sha256: str | None
    """SHA-256 over the contents of the evaluation images."""
    overlap_with_calibration: Count
    """Number of evaluation images that are also calibration images."""
    unreadable: tuple[Unreadable, ...] = ()
    """Images that were skipped because they could not be decoded."""
    copies_left_out: tuple[str, ...] = ()
    """Images that were left out because their content is that of a calibration image."""
    repeated_left_out: tuple[str, ...] = ()
    """Images that were left out because their content is that of another evaluation image."""
    lookalikes: tuple[Lookalike, ...] = ()
    """Evaluation images that look like a calibration image."""
    classes: tuple[EvaluatedClass, ...] | None = None
    """Classes that the images have, in the order of the network's outputs; null for more than 1,000 classes, and in
    reports of an edgekit without it."""


@dataclass(frozen=True, kw_only=True)
class Choosing:
    """Images, none of them an evaluation image, on which the job chose what the verdict must not choose."""

    thresholds: Count = 0
    """Number of images that chose the thresholds of several labels; 0 for thresholds of 0.5, or one that was stated."""
    temperature: Count = 0
    """Number of images that INT8's temperature was fitted to; 0 for a temperature of 1."""
    repair: Count = 0
    """Number of images on which a repair compares INT8 bundles; 0 if the evaluation images have to."""


@dataclass(frozen=True, kw_only=True)
class Reference(ModelAccuracy):
    """Accuracy of the model that the rows are compared with, on the evaluation images."""

    engine: str
    """Framework that ran the float network, such as "torch"; for `edgekit evaluate`, the bundle to compare with."""
    top1_ci95: Interval | None = None
    """95 % interval of the task's metric (Wilson's score interval for shares of the images, else a bootstrap); null
    without labels, and in reports of an edgekit without it."""
    chance: Fraction | None = None
    """Metric of the same answers if they were dealt to the images at random, for top-1 at most one over the number of
    classes that the images have; null without labels, and in reports of an edgekit without it."""
    near_chance: bool = False
    """Whether the interval reaches down to chance and ends below the middle between chance and 1, so that no accuracy
    means anything; for several labels, whether the metric is below the upper end of chance's own interval, or the
    outputs fit other classes better. False for random weights, whose accuracies mean nothing anyway."""


@dataclass(frozen=True)
class Recommendation:
    """The bundle to ship to one device, and the reason for the choice."""

    device: str | None
    """Name of the device."""
    bundle: str | None
    """Name of the bundle to ship; null where no row passed."""
    why: str
    """Reason for the choice, or for the lack of one."""
    others: tuple["Recommendation", ...] = ()
    """Recommendations for the other devices of the run."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """The results of a run: figures, verdicts and the bundle to ship."""

    schema_version: Literal[1] = 1
    """Version of the document's format."""
    name: str | None = None
    """Name of the run, which is that of its folder; null in reports of an edgekit without it."""
    edgekit: str
    """Version of edgekit that wrote the document."""
    created: Timestamp
    """Time at which the report was written."""
    command: tuple[str, ...]
    """Command line, split into its arguments; paths without their folders, because reports are shared."""
    model: Model
    """Network that was deployed."""
    calibration: Calibration
    """Calibration images and recipe."""
    evaluation: Evaluation
    """Evaluation images."""
    choosing: Choosing | None = None
    """Images to choose on; null in reports of an edgekit without it."""
    reference: Reference
    """Accuracy of the float network in its own framework, on the evaluation images."""
    results: tuple[Row, ...]
    """One row for each bundle on each device."""
    recommendation: Recommendation
    """Bundle to ship to each device."""
    sensitivity: Sensitivity | None = None
    """Result of `edgekit sensitivity` in the same run folder; null where it was not run."""

    def __post_init__(self) -> None:
        datetime.fromisoformat(self.created)  # a ValueError for a day that doesn't exist
        judged: list[ModelAccuracy] = [self.reference, *(row.accuracy for row in self.results if row.accuracy)]
        classes = len(self.evaluation.classes or ())
        for counts in (each for part in judged for each in (part.right_by_class, part.given_by_class)):
            if counts is not None and len(counts) != classes:
                raise ValueError(f"{len(counts)} counts by class don't belong to {classes} classes")

    @property
    def title(self) -> str:
        """Name of the run and of its model, such as "vehicles (resnet18)"; one name if they have the same."""
        model = self.model.name
        return model if self.name in (None, model) else f"{self.name} ({model})"

    @property
    def devices(self) -> list[str]:
        """Names of the devices in the results, in order."""
        return list(dict.fromkeys(row.device.name for row in self.results))

    @property
    def has_several_devices(self) -> bool:
        """Whether the results are of more than one device."""
        return len(self.devices) > 1

    @property
    def bundles(self) -> tuple[str, ...]:
        """Names of the bundles that were made, without repetitions."""
        return tuple(dict.fromkeys(row.bundle for row in self.results if row.bundle))

    @property
    def recommendations(self) -> tuple[Recommendation, ...]:
        """The recommendation for each device."""
        return (self.recommendation, *self.recommendation.others)

    def rows_on(self, device: str | None) -> list[Row]:
        """The rows of one device; all of them if it has no name."""
        return [row for row in self.results if device is None or row.device.name == device]

    def facts_of(self, device: str) -> DeviceFacts:
        """The facts of a device with this name, which a row that failed before they were asked for may lack."""
        return min((row.device for row in self.rows_on(device)), key=lambda facts: not facts.cpu)


T = TypeVar("T")


def to_json(document: Any) -> str:
    """A document as indented JSON. Raises ValueError for NaN and infinity, which JSON cannot represent."""
    return json.dumps(msgspec.to_builtins(document), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def parse(text: str | bytes, kind: type[T], what: str) -> T:
    """The document in a JSON text from elsewhere, whose texts are made printable.

    Raises InputError with `what` and the place if the text does not fit the type, or has a number beyond `LARGEST`.
    """
    try:
        plain = json.loads(text, parse_int=_number, parse_float=_number, parse_constant=_number)
        return msgspec.convert(all_printable(plain), kind)
    except (ValueError, RecursionError) as error:  # includes those of msgspec and of text that isn't UTF-8
        raise InputError(
            f"{what} is not a valid {kind.__name__}: {error}", fix="Run the command that wrote it again"
        ) from error


LARGEST = 2**64
"""Largest number in a document from elsewhere: seeds reach it, and no measurement comes near."""


def _number(text: str) -> int | float:
    if not abs(value := float(text)) <= LARGEST:
        raise ValueError(f"it contains the number {text[:20]}")
    return int(text) if text.lstrip("-").isdigit() else value


def schema_of(kind: type[Any]) -> dict[str, Any]:
    """The JSON schema (2020-12) of a type of document."""
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **msgspec.json.schema(kind)}
    for cls in _documents(kind, set()):
        properties, names = schema["$defs"][cls.__name__]["properties"], _json_names(cls)
        for field, text in _docstrings(cls):
            properties[names[field]]["description"] = " ".join(text.split())
    return schema


def _documents(hint: Any, seen: set[type[Any]]) -> Iterator[type[Any]]:
    """The documents within a type, each once; adds them to those that were seen."""
    is_document = isinstance(hint, type) and (dataclasses.is_dataclass(hint) or issubclass(hint, msgspec.Struct))
    if is_document and hint not in seen:
        seen.add(hint)
        yield hint
        for inner in get_type_hints(hint).values():
            yield from _documents(inner, seen)
    for inner in get_args(hint):
        yield from _documents(inner, seen)


def _json_names(cls: type[Any]) -> dict[str, str]:
    if issubclass(cls, msgspec.Struct):
        return {field.name: field.encode_name for field in msgspec.structs.fields(cls)}
    return {field.name: field.name for field in dataclasses.fields(cls)}


def _docstrings(cls: type[Any]) -> Iterator[tuple[str, str]]:
    """Each field with the string literal that follows it in the source, those of the base classes first."""
    for base in reversed(cls.__mro__):
        if base.__module__.startswith("edgekit."):
            (definition,) = ast.parse(textwrap.dedent(inspect.getsource(base))).body
            assert isinstance(definition, ast.ClassDef)
            for statement, follower in pairwise(definition.body):
                match statement, follower:
                    case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                        yield name, text


REPORT_FILE = "report.json"
MOST_BYTES = 256 << 20
"""Size of a report that is not read any more. One of 1,000 classes has a few megabytes."""


def report_schema() -> dict[str, Any]:
    """The JSON schema (2020-12) of report.json, with a description of each field; of a figure, title, meaning, unit."""
    schema = schema_of(Report)
    definitions = schema["$defs"]
    for figure in all_figures():
        *parents, name = figure.path.split(".")
        properties = definitions["Row"]["properties"]
        for parent in parents:
            properties = definitions[_name_of_definition(properties[parent])]["properties"]
        unit = f" (shown in {figure.unit})" if figure.unit else ""
        properties[name]["description"] = f"{figure.title}: {figure.meaning}{unit}"
    return schema


def _name_of_definition(entry: dict[str, Any]) -> str:
    """Name of the definition that a property refers to, whether or not the property may be null."""
    references = [choice["$ref"] for choice in entry.get("anyOf", [entry]) if "$ref" in choice]
    return str(references[0]).rsplit("/", 1)[-1]


def is_run(path: Path) -> bool:
    """Whether a path is that of a run folder."""
    return os.path.isdir(path / STATE) or os.path.isfile(path / REPORT_FILE)  # False for a name that is too long


def load_report(path: Path) -> Report:
    """The report in a run folder or in a report.json. Raises InputError if there is none, or it is not valid."""
    file = path / REPORT_FILE if path.is_dir() else path
    try:
        content = read_regular(file, MOST_BYTES)
    except OSError as error:
        reason = f"has no readable report: {error.strerror or error}" if path.exists() else "doesn't exist"
        raise InputError(f"'{path}' {reason}", fix="Give a run folder that `edgekit deploy` wrote") from error
    return parse(content, Report, f"'{file}'")


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
    cores, size = device.cores or "unknown", device.memory_bytes
    memory = "unknown" if size is None else f"{size / 2**30:,.2f} GiB"
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
    if facts.margin is not None:
        scale = f"reduce to no less than {facts.margin:g} times the scaled size, {scale}"
    return f"{scale} to {facts.height}x{facts.width}; mean {mean}; standard deviation {std}"
