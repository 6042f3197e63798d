"""Sentences about a report, its rows and the conditions under which they were measured; and what to do after a run."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from edgekit.errors import error_names
from edgekit.report.document import Reference, Report
from edgekit.report.figure import Conditions, Preparation, Sample, figure_at, points
from edgekit.report.page import NextStep
from edgekit.report.row import (
    ACCURACY_GATES,
    TOP1,
    Accuracy,
    Confidence,
    Crossings,
    Energy,
    Gate,
    GateName,
    Judged,
    Measurement,
    Row,
    SustainedPoint,
)
from edgekit.support.progress import explain


def limits(rows: Iterable[Row]) -> str:
    """The limits that gates held the rows against, in a sentence; empty where none applied."""
    applied = (
        (gate, row.accuracy.metric if row.accuracy else TOP1)
        for row in rows
        for gate in row.gates
        if gate.verdict != "skipped" and gate.limit is not None
    )
    words = list(dict.fromkeys(_limit_words(gate, metric) for gate, metric in applied))
    return f"Limits: {'; '.join(words)}." if words else ""


def outcomes(row: Row) -> str:
    """The outcome of each gate that applied to a row; empty where none did."""
    return ", ".join(f"{gate.name}: {gate.verdict}" for gate in row.gates if gate.verdict != "skipped")


def _limit_words(gate: Gate, metric: str) -> str:
    limit = gate.limit or 0.0
    judged = "" if gate.whole_interval is None else ", with its whole 95 % interval"
    if gate.name == "min-agreement":
        return f"{metric} of at least {100 * limit:g} %{judged}"
    if gate.name == "max-drop" and gate.whole_interval is False:
        return f"no proven loss of {metric} of more than {points(limit)}"
    if gate.name == "max-drop":
        return f"a loss of {metric} of at most {points(limit)}{judged}"
    return f"a speedup over float of more than {limit:g}x{judged}"


RANDOM = "Accuracy is meaningless: the weights are random."
SHOWN = 8
"""Number of names in a list before it is cut short."""


def heading(report: Report) -> str:
    """A one-line summary of the model."""
    model = report.model
    size = f"{model.params / 1e6:.2f} M parameters, {model.macs / 1e9:.2f} GMAC"
    shape = "×".join(map(str, model.input_shape))  # noqa: RUF001
    return f"{model.name} ({model.source}, weights {model.weights}): {size}, input {shape}"


def warnings(report: Report) -> list[str]:
    """The facts that the reader must know before any figure: every output has it at its top."""
    if not report.model.accuracy_meaningful:
        return [RANDOM]
    return near_chance(report.reference, report.evaluation.count)


def near_chance(reference: Reference, images: int) -> list[str]:
    """The warning of a reference near chance, with its likely causes; empty for any other."""
    if not reference.near_chance or reference.top1_ci95 is None or reference.chance is None:
        return []
    value, low, high, chance = (
        f"{share * 100:.1f}" for share in (reference.value, *reference.top1_ci95, reference.chance)
    )
    return [
        f"The reference is near chance: {reference.engine} reaches {reference.metric} {value} % (95 % interval {low} "
        f"to {high} %) on {images:,} images, and chance is {chance} %. No accuracy means anything until this is "
        "settled. Likely causes: the classes have another order (list them with `--labels`), the images are "
        "normalized otherwise than in training (`--mean`, `--std`), or the network was trained for other classes."
    ]


def conditions(report: Report) -> list[str]:
    """Sentences on the conditions under which the figures were measured."""
    return [*measured_with(report), *emulated(report.results)]


def emulated(rows: Iterable[Row]) -> list[str]:
    """The warning of emulated devices; empty if there are none."""
    names = ", ".join(dict.fromkeys(row.device.name for row in rows if row.device.emulated))
    return [
        f"Emulated by QEMU: {names}. Timings of an emulated device are not comparable, so no gate judges them."
    ] * bool(names)


def measured_with(report: Report) -> list[str]:
    """Sentences on how accuracy and latency were measured."""
    timing = (
        f"Latency: {timing_words(report.results)}. "
        f"Speedup: over the runtime's fastest float bundle{_low_precision(report.results)}."
    )
    if not report.model.accuracy_meaningful:
        return [timing]
    reference = report.reference
    images = f"{report.evaluation.count:,} images"
    if reference.without_labels:
        return [f"Accuracy: unknown, because the {images} have no labels; loss: of agreement with torch.", timing]
    reached = f"{reference.metric} {reference.value * 100:.2f} %"
    if reference.top5 is not None:
        reached += f", top-5 {reference.top5 * 100:.2f} %"
    return [f"Accuracy: {images}; {reference.engine} reaches {reached}. A loss above 0 is worse.", timing]


def timing_words(rows: Iterable[Row]) -> str:
    """How the latencies of these rows were measured."""
    timed = [(row, row.latency_ms) for row in rows if row.latency_ms]
    runs, threads = _range(latency.count for _, latency in timed), _range(latency.threads for _, latency in timed)
    names: dict[int, list[str]] = {}
    for row, latency in timed:
        names.setdefault(latency.threads, []).append(row.name)
    if len(names) > 1 and len({row.device.name for row, _ in timed}) == 1:
        most, *others = sorted(names, key=lambda each: -len(names[each]))
        threads = ", ".join([*(f"{each} for {', '.join(names[each])}" for each in others), f"{most} for the others"])
    return f"model alone, batch 1, {runs} timed runs, threads: {threads}"


def _low_precision(rows: Iterable[Row]) -> str:
    """Names of the float bundles that were fastest in bf16 or f16, because the float rows themselves are in f32."""
    speedups = [row.speedup for row in rows if row.speedup and row.speedup.baseline != row.speedup.versus]
    names = ", ".join(dict.fromkeys(speedup.baseline for speedup in speedups))
    return f" ({names})" if names else ""


def _range(counts: Iterable[int]) -> str:
    """ "200", or "100 to 200", or "no"."""
    distinct = set(counts)
    return " to ".join(f"{count:,}" for count in sorted({min(distinct), max(distinct)})) if distinct else "no"


def layer_names(names: Sequence[str] | None) -> str:
    """The first names, and the number of further ones."""
    if names is None:
        return ""
    more = f" and {len(names) - SHOWN} more (report.json lists all)" if len(names) > SHOWN else ""
    return (", ".join(names[:SHOWN]) or "none") + more


NoteKind = Literal["unsteady", "unconfirmed", "other"]
BEGINNINGS: dict[NoteKind, str] = {"unsteady": "unreliable timing: ", "unconfirmed": "cannot confirm a"}
"""Beginnings, as report.json has them, of the notes on a disturbed latency and on a loss that isn't confirmed."""


@dataclass(frozen=True)
class Note:
    """A reason or a remark of a row, in words for readers."""

    kind: NoteKind
    """Whether the note is on a disturbed latency, on an unconfirmed loss, or on something else."""
    sentence: str
    """The note with its full stop. An unconfirmed loss is in the words of `confidence`."""
    is_reason: bool
    """Whether the note is a reason why the row did not pass."""

    @property
    def cause(self) -> str:
        """What disturbed the latency."""
        return self.sentence.removeprefix(BEGINNINGS["unsteady"])


def notes_of(row: Judged) -> list[Note]:
    """The reasons of a row, then its remarks."""
    return [Note(kind := _kind(note), _sentence(row, kind, note), note in row.reasons) for note in row.notes]


def _kind(note: str) -> NoteKind:
    for kind, beginning in BEGINNINGS.items():
        if note.startswith(beginning):
            return kind
    return "other"


def task_details(accuracy: Accuracy | None) -> str:
    """The other figures of a task than its metric."""
    shown = accuracy.score.details if accuracy and accuracy.score else ()
    return "; ".join(
        f"{each.name}: {each.value:.4f}" + ("" if each.reference is None else f", in float {each.reference:.4f}")
        for each in shown
    )


def confidence(accuracy: Accuracy) -> str:
    """Whether the images confirm that the loss is within its bound, in one or two sentences."""
    low, high = accuracy.drop_ci95_points
    images, bound = f"{accuracy.count:,} images", accuracy.bound
    if bound is None:
        if accuracy.without_labels:
            return f"The 95 % interval of the agreement is {100 - high:.2f} to {100 - low:.2f} % on {images}."
        return f"The 95 % interval of the loss is {low:.2f} to {high:.2f} points on {images}."
    shown, unsure = f"the loss is at most {high:.2f} points", f"the loss may be up to {high:.2f} points"
    required, allowed = f"{bound.max_drop_points:g} is allowed", points(bound.max_drop_points)
    if accuracy.without_labels:
        shown, unsure = f"the agreement is at least {100 - high:.2f} %", f"the agreement may be {100 - high:.2f} %"
        required, allowed = (f"{100 - bound.max_drop_points:g} %{end}" for end in (" is required", ""))
    if bound.shown:
        return f"Confirmed on {images}: {shown}, and {required}."
    if bound.images_needed is None:
        return f"Not confirmed: {unsure}. More than these {images} would not settle {allowed}."
    if bound.images_needed <= accuracy.count:
        return f"Not confirmed: {unsure}. This run had {images}."
    return (
        f"Not confirmed: {unsure}. About {bound.images_needed:,} images would settle {allowed}; this run had "
        f"{accuracy.count:,}."
    )


MOST_CROSSING = 0.01
"""Share of the images up to which answers may cross a threshold that no option states without a remark."""


def crossing(accuracy: Accuracy | None) -> list[str]:
    """The remark on answers that cross the confidence threshold; empty for few that cross one which isn't stated."""
    confidence = accuracy.confidence if accuracy else None
    if accuracy is None or confidence is None or not confidence.crossings:
        return []
    last = confidence.crossings[-1]
    stated = last.stated and last.threshold is not None
    if last.images <= (0 if stated else MOST_CROSSING * accuracy.count):
        return []
    return [
        f"answers of {last.images:,} of {accuracy.count:,} images cross {_threshold(last)}: {last.upward:,} reach it "
        f"only with this bundle, {last.downward:,} only with the reference"
    ]


def confidence_details(confidence: Confidence | None) -> str:
    """The calibration error beside the reference's, the answers that cross each threshold, and the temperature."""
    if confidence is None:
        return ""
    sentences = [
        f"{each.upward:,} of {each.count:,} answers reach {_threshold(each)} only with this bundle, {each.downward:,} "
        f"only with the reference, and {each.changed_class:,} with both name another class"
        for each in confidence.crossings
    ]
    error, was = confidence.calibration_error, confidence.reference_calibration_error
    if error is not None and was is not None and (change := confidence.calibration_error_change_ci95):
        low, high = (100 * end for end in change)
        words = f"calibration error {100 * error:.2f} %, the reference's {100 * was:.2f} %"
        sentences.insert(0, f"{words} (95 % interval of the difference {low:.2f} to {high:.2f} points)")
    if confidence.temperature is not None:
        sentences.append(f"the last layer divides the outputs by {confidence.temperature:.3f}")
    return "; ".join(sentences)


def _threshold(crossings: Crossings) -> str:
    if crossings.threshold is None:
        return "the thresholds of their classes"
    return f"a confidence of {crossings.threshold:g}"


def _sentence(row: Judged, kind: NoteKind, note: str) -> str:
    """The note as a sentence; a row that passes although its loss isn't confirmed says so before."""
    accuracy: Accuracy | None = getattr(row, "accuracy", None)
    if kind != "unconfirmed" or accuracy is None or accuracy.bound is None:
        return ended(note)
    if row.verdict != "pass":
        return confidence(accuracy)
    return f"no loss of more than {points(accuracy.bound.max_drop_points)} is proven. {confidence(accuracy)}"


def ended(text: str) -> str:
    """A sentence with its full stop."""
    return text if text.endswith((".", "!", "?")) else f"{text}."


LINES = 10
"""Number of points of a time series that the terminal shows."""


def heat_words(thermal: Conditions | None) -> str:
    """One line with the values that the system reported."""
    if thermal is None:
        return ""
    celsius = [thermal.before.celsius, *(sample.celsius for sample in thermal.series)]
    throttled, other = thermal.throttled, thermal.other_cpus
    parts = [
        _extent(celsius, "°C"),
        _extent((sample.clock_mhz for sample in thermal.series), "MHz"),
        None if throttled is None else f"throttled: {', '.join(throttled)}" if throttled else "not throttled",
        None if other is None else f"other processes used {other:.1f} of {thermal.cpus} CPUs",
    ]
    return ", ".join(filter(None, parts))


def energy_words(energy: Energy | None) -> str:
    """The energy of one inference with its source, or the reason why it is unknown."""
    if energy is None or None in (energy.inference_mj, energy.load_w, energy.idle_w):
        return energy.source if energy else ""
    return (
        f"{energy.inference_mj:.2f} mJ per inference ({energy.load_w:.2f} W under load, {energy.idle_w:.2f} W idle, "
        f"from {energy.source})"
    )


def preparation_words(row: Measurement) -> str:
    """The times of decoding, resizing and normalizing beside that of the model; empty where they weren't measured."""
    end_to_end = row.end_to_end_ms
    if end_to_end is None or end_to_end.images is None:
        return ""
    parts = [f"{_added(end_to_end.images)} for one of these images"]
    if end_to_end.photo and end_to_end.frame:
        parts += [
            f"{_added(end_to_end.photo)} for a photo of 12 megapixels",
            f"and {_added(end_to_end.frame)} for a frame of 1920x1080, both made of the first image",
        ]
    return f"the model takes {row.p50:.2f} ms; decoding, resizing and normalizing take {', '.join(parts)}"


def _added(times: Preparation) -> str:
    return f"{times.decode:.2f} + {times.resize:.2f} + {times.normalize:.2f} ms"


def stream_words(row: Measurement) -> str:
    """The throughput of several streams, next to the latency of a single one."""
    many, one = row.throughput, row.latency_ms
    if many is None or one is None:
        return ""
    return (
        f"{many.streams} {'stream' if many.streams == 1 else 'streams'}, threads {many.threads} each: "
        f"{many.images_per_second:.1f} images/s, p50 {many.p50_ms:.2f} ms, p99 {many.p99_ms:.2f}, n = {many.count:,}; "
        f"alone, threads {one.threads}: p50 {one.p50:.2f} ms, p99 {figure_at('latency_ms.p99').text(row)}"
    )


def camera_words(row: Measurement) -> str:
    """The time of a camera's frame, and the frames per second; empty without `--camera`."""
    camera = row.camera
    if camera is None:
        return ""
    return (
        f"frames of {camera.width}x{camera.height}: p50 {camera.p50_ms:.2f} ms, of which decoding, resizing and "
        f"normalizing take {_added(camera.preparation)}; {camera.frames_per_second:.1f} frames/s one after the other, "
        f"{camera.frames_per_second_ahead:.1f} if the next is prepared while the model runs"
    )


def sustain_lines(name: str, row: Measurement) -> Iterator[str]:
    """Latency in the first and the last minute of a sustained run, then its time series."""
    sustain = row.sustain
    if sustain is None:
        return
    minute = "minute" if sustain.window_s >= 60 else f"{sustain.window_s:.0f} s"
    first, last = sustain.first, sustain.last
    yield (
        f"{name}: sustained for {sustain.seconds:.0f} s: first {minute} p50 {first.p50:.2f} ms (n = {first.count:,}), "
        f"last {minute} p50 {last.p50:.2f} ms (n = {last.count:,}), {sustain.change:+.1%}"
    )
    if words := heat_words(row.thermal):
        yield f"  {words}"
    samples = row.thermal.series if row.thermal else ()
    for point in sustain.series[:: -(-len(sustain.series) // LINES)]:
        yield "  ".join(_point(point, min(samples, key=lambda sample: abs(sample.s - point.s), default=None)))


def _point(point: SustainedPoint, nearest: Sample | None) -> Iterator[str]:
    """One point of a sustained run, with the nearest sample of clock and temperature."""
    yield f"  {point.s:7.0f} s"
    yield f"p50 {point.p50:.2f} ms"
    if nearest is None:
        return
    if nearest.clock_mhz is not None:
        yield f"{nearest.clock_mhz:.0f} MHz"
    if nearest.celsius is not None:
        yield f"{nearest.celsius:.0f} °C"
    if nearest.throttled:
        yield ", ".join(nearest.throttled)


def _extent(values: Iterable[float | None], unit: str) -> str | None:
    numbers = [value for value in values if value is not None]
    if not numbers:
        return None
    low, high = f"{min(numbers):.0f}", f"{max(numbers):.0f}"
    return f"{low} {unit}" if low == high else f"{low} to {high} {unit}"


COMMAND = "edgekit"
BROWSER_ERROR = "BrowserError"
"""Error of a browser that never came, so that nothing else shows that its device is one."""
RUN = "RUN"
"""Stands for the run folder in the commands of a report, which is shared without its path."""


def steps_in_report(report: Report) -> list[NextStep]:
    """The next steps as a report shows them, where `RUN` stands for the run folder."""
    return list(steps_after_run(report, Path(RUN)))


def steps_after_run(
    report: Report, folder: Path, keeps_job: bool = True, images_left: int | None = None
) -> Iterator[NextStep]:
    """The next steps after `edgekit deploy` or `demo`: for the bundle to ship, and for what failed.

    A folder that keeps its job is the model of the next commands. `images_left` is the number of images that the run
    could be evaluated on, or None if nothing is known of them.
    """
    rows = report.results
    if bundle := report.recommendation.bundle:
        words = (COMMAND, "classify", str(folder / bundle), "IMAGE")
        if report.model.task == "embedding":
            yield NextStep("find similar images in a folder", (*words, "--data", "FOLDER"))
        else:
            yield NextStep("try it on an image", words)
    if report.reference.near_chance:
        yield NextStep("Settle what the warning says, and run the same command again.")
        return
    if not bundle and keeps_job and any(row.device.emulated for row in rows):
        yield NextStep("measure on a real device", (COMMAND, "deploy", str(folder), "--device", "NAME"))
    if report.calibration.unlike_evaluation and rows_whose_accuracy(rows, "fail"):
        yield NextStep(
            "Calibrate on images like those that you evaluate on: name their folder with --calibration-data."
        )
    yield from _better_int8(rows, folder, keeps_job)
    if unsure := rows_whose_accuracy(rows, "inconclusive"):
        yield more_images(unsure, report.evaluation.count, images_left, folder if keeps_job else None)
    if disturbed := rows_whose_gate(rows, ["steady-timing"], "inconclusive"):
        names = dict.fromkeys(f"{row.target}-{precision}" for row in disturbed for precision in ("float", "int8"))
        bundles = [str(folder / name) for name in names]
        yield NextStep("time them again while nothing else runs", (COMMAND, "benchmark", *bundles))
    yield from after_failures(rows)


def _better_int8(rows: Sequence[Row], folder: Path, keeps_job: bool) -> Iterator[NextStep]:
    """The next commands for INT8 bundles that lose too much accuracy or gain too little speed."""
    inaccurate, slow = rows_whose_accuracy(rows, "fail"), rows_whose_gate(rows, ["min-speedup"], "fail")
    if inaccurate and keeps_job:
        targets = ",".join(dict.fromkeys(row.target for row in inaccurate))
        words = (COMMAND, "sensitivity", str(folder), "--target", targets)
        yield NextStep(f"see which layers of {_names(inaccurate)} lose the accuracy", words)
    if slow:
        name = slow[0].name
        yield NextStep(f"see which layers of {name} run in float", (COMMAND, "inspect", str(folder / name)))


def more_images(unsure: Sequence[Any], images: int, left: int | None, run: Path | None) -> NextStep:
    """How to confirm the loss of these rows, which were evaluated on too few images; `left` is how many there are.

    The command is that of the run folder `run`; without one, a sentence says what to state.
    """
    needs = [row.accuracy.bound.images_needed for row in unsure if row.accuracy and row.accuracy.bound]
    without_labels = any(row.accuracy and row.accuracy.without_labels for row in unsure)
    if not needs or None in needs:
        option = "--min-agreement" if without_labels else "--max-drop"
        return NextStep(f"More images would not confirm so small a loss: allow more with {option}, or ship float.")
    needed = max(need for need in needs if need is not None)
    if not left or left <= images:
        kind = "images" if without_labels else "labelled images"
        return NextStep(f"Add {kind} and run the same command again: about {needed:,} would settle it.")
    count = min(needed, left)
    purpose = "evaluate on more images" if count == needed else f"evaluate on all images ({needed:,} would settle it)"
    if run is None:
        return NextStep(f"Run the same command with `--num-eval-samples {count}` to {purpose}.")
    return NextStep(purpose, (COMMAND, "deploy", str(run), "--num-eval-samples", str(count)))


def after_failures(rows: Iterable[Any]) -> Iterator[NextStep]:
    """The commands that say more about rows with an error."""
    failures = [(row, row.failure) for row in rows if row.failure]
    lost = [(row.device, failure.error) for row, failure in failures if failure.stage == "device"]
    browsers = [error for device, error in lost if device.browser or error == BROWSER_ERROR]
    boards = [device.name for device, error in lost if not device.browser and error != BROWSER_ERROR]
    for board in dict.fromkeys(boards):
        yield NextStep(f"see what {board} lacks", (COMMAND, "doctor", board))
    errors = [failure.error for _, failure in failures if failure.stage not in ("device", "bug in edgekit")] + browsers
    for error in dict.fromkeys(errors):
        if error in error_names():  # a later edgekit may have others
            yield NextStep(f"{error}: {explain(error).cure}")


def rows_whose_gate(rows: Sequence[Any], names: Sequence[GateName], verdict: str) -> list[Any]:
    """The rows of which a gate of one of these names has this outcome."""
    return [row for row in rows if any(gate.name in names and gate.verdict == verdict for gate in row.gates)]


def rows_whose_accuracy(rows: Sequence[Any], verdict: str) -> list[Any]:
    """The rows of which the gate of the accuracy, or of the agreement without labels, has this outcome."""
    return rows_whose_gate(rows, ACCURACY_GATES, verdict)


def _names(rows: Sequence[Row]) -> str:
    return " and ".join(dict.fromkeys(row.name for row in rows))
