"""Commands other than the pipeline: inspect, classify and compare."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit import api
from edgekit.cli import completion, panels
from edgekit.cli.arguments import BUNDLE, argument, device_option, output_option
from edgekit.cli.command import command
from edgekit.cli.output import Answer, answer_width, wrapped
from edgekit.devices.registry import LOCAL
from edgekit.errors import printable
from edgekit.job.job import OF_BUNDLE, Job

if TYPE_CHECKING:
    from edgekit.measure.classify_images import Classification
    from edgekit.measure.inspect_bundle import Inspection
    from edgekit.report.compare import Comparison, RowComparison


@command(panels.COMMANDS, "threads", "wheels", defaults={"threads": OF_BUNDLE})
def inspect(
    stated: dict[str, Any],
    json_: bool,
    bundle: Path = argument("BUNDLE", "A bundle folder, or a model file from any source (.onnx, .tflite or .xml)."),
    device: str = device_option(
        "DEVICE",
        "Device to run on: local (this machine), a name from `edgekit devices list`, or ssh://USER@HOST.",
        value=LOCAL,
        autocompletion=completion.devices,
    ),
) -> Answer:
    """Show what a bundle contains and which of its layers run in integer kernels.

    The first line says what ran where. Runs the bundle's golden samples and
    compares the outputs; a difference is an error after the output. A layer
    that runs in float is listed with the reason.
    """
    from edgekit.devices.registry import find_machine
    from edgekit.devices.remote import inspect_on
    from edgekit.measure.inspect_bundle import BundleInspection
    from edgekit.support.progress import Reporter

    job = Job.of("", stated)
    inspection = inspect_on(find_machine(device, job.wheels), bundle, job.threads, Reporter(quiet=json_))
    error = inspection.golden_error if isinstance(inspection, BundleInspection) else None
    return Answer(inspection, map(printable, _lines_of(inspection)), error=error)


def _lines_of(inspection: "Inspection") -> Iterator[str]:
    from edgekit.config.device_classes import host_class
    from edgekit.measure.gates import SIMULATED
    from edgekit.measure.inspect_bundle import portability, summary
    from edgekit.report.figure import all_figures

    ran = inspection.int8
    yield summary(inspection, host_class())
    if inspection.device:
        yield f"device: {inspection.device.name} ({inspection.device.cpu})"
    for name, value in vars(inspection).items():
        if isinstance(value, str | int | float):
            yield f"{name}: {value}"
    for figure in all_figures():
        if figure.is_part_of(inspection) and figure.value(inspection) is not None:
            yield f"{figure.title}: {figure.text(inspection)} {figure.unit}"
    simulated = " (simulated in floating point)" if ran.simulated else ""
    yield f"in integer kernels: {ran.int8_macs / 1e6:.1f} of {ran.total_macs / 1e6:.1f} M MACs{simulated}"
    if sentence := portability(ran, inspection.target):
        yield f"on other processors: {sentence}"
    yield f"method: {ran.method}"
    for op in ran.ops:
        if not op.int8:
            yield f"float: {op.name} [{op.kernel}] {op.macs / 1e6:.2f} M MACs: {op.reason}"
    for kind, ms in (ran.time_by_kind_ms or {}).items():
        yield f"time: {kind} {ms:.3f} ms"
    if ran.simulated:
        yield f"note: {SIMULATED}"


@command(
    panels.MORE,
    "threads",
    "data",
    "threshold",
    defaults={"threads": OF_BUNDLE, "threshold": "0, or those of a model with several labels"},
    helps={
        "data": "Images to search, for a bundle that gives vectors: a folder, or a set in any other layout.",
        "threshold": "Smallest score of a label that is printed, from 0 to 1.",
    },
    shown=("threads", "data", "threshold"),
)
def classify(
    stated: dict[str, Any],
    json_: bool,
    bundle: Path = BUNDLE,
    images: list[Path] = argument("IMAGE", "Image files."),
    top: int | None = output_option(
        "N",
        "Number of labels, or of similar images, to print for each image.",
        min=1,
        show_default="5, or every label that reaches its threshold",
    ),
) -> Answer:
    """Classify images with a bundle.

    Prints the best labels of each image with their softmax scores; of a
    multi-label model, those whose probability reaches the label's threshold.
    With a bundle that gives vectors, prints the images of --data that are
    most similar, with the cosine.
    """
    from edgekit.measure.classify_images import classify_images
    from edgekit.support.progress import Reporter

    job = Job.of("", stated)
    found = classify_images(bundle, images, top, job.threads, job.data, Reporter(quiet=json_), job.threshold)
    return Answer(found, map(printable, _classified(found)))


def _classified(found: "Classification") -> Iterator[str]:
    from edgekit.measure.classify_images import ClassifiedImage

    for result in found.results:
        if len(found.results) > 1:
            yield result.image
        if isinstance(result, ClassifiedImage):
            yield from (f"{scored.score:7.2%}  {scored.label}" for scored in result.top)
            if not result.top:
                yield "no label reaches its threshold"
        else:
            yield from (f"{one.cosine:7.4f}  {one.image}" for one in result.nearest)


@command(panels.MORE, of=api.compare, judges=True)
def compare(
    stated: dict[str, Any],
    before: Path = argument("RUN_A", "The run folder to compare with, such as yesterday's."),
    after: Path = argument("RUN_B", "The run folder to judge."),
) -> Answer:
    """Compare two runs; exit with 1 if something got worse beyond the noise.

    That is a verdict, a figure beyond its confidence interval, or p50 on the
    same processor with the same threads. Runs of different models or
    evaluation images are inconclusive, and exit with 1. Prints all figures.
    """
    from edgekit.report.junit import junit_of_comparison
    from edgekit.report.markdown import summary_of_comparison

    comparison = api.compare(before, after, **stated)
    return Answer(
        comparison,
        _compared(comparison, answer_width()),
        passed=comparison.verdict == "pass",
        junit=lambda: junit_of_comparison(comparison),
        summary=lambda: summary_of_comparison(comparison),
    )


def _compared(comparison: "Comparison", width: int) -> Iterator[str]:
    """What leaves the verdict open, what got worse, then the notes on both runs and every change."""
    from edgekit.report.compare import inconclusive

    for text in inconclusive(comparison):
        yield from wrapped(text, width)
    for text in comparison.regressions:
        yield from wrapped(f"worse: {text}", width)
    if not comparison.regressions:
        yield "nothing got worse beyond the noise"
    for note in comparison.notes:
        yield from wrapped(f"note: {note}", width)
    for row in comparison.results:
        for line in _changes(row):
            yield from wrapped(line, width)


def _changes(row: "RowComparison") -> Iterator[str]:
    """The verdicts of a row in both runs, and its changes, as lines of text."""
    from edgekit.report.compare import compared_figures, describe_change

    first, second = row.verdicts
    yield f"{row.label}: {first or 'missing'} -> {second or 'missing'}"
    for figure in compared_figures():
        if change := row.changes.get(figure.csv_column):
            yield f"  {figure.title}: {describe_change(figure, change)}"
