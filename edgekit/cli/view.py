"""What commands print: the lines of each answer, and the commands to run next.

This is imported when a command prints, so that the command line starts without msgspec and numpy.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from edgekit.cli import COMMAND
from edgekit.cli.output import NO_DEVICES, answer_width, wrapped
from edgekit.config.runtimes import DeviceClass
from edgekit.errors import EdgekitError
from edgekit.job.saved import continued
from edgekit.report.answer import unsteady, with_interval
from edgekit.report.compare import Comparison, RowComparison, compared_figures, describe_change, inconclusive
from edgekit.report.document import Report
from edgekit.report.figure import NOTHING, Column, all_figures, counted, figure_at, lines_of, score_figures
from edgekit.report.row import Row
from edgekit.report.sensitivity_document import Sensitivity
from edgekit.report.sentences import (
    NextStep,
    after_failures,
    emulated,
    energy_words,
    more_images,
    notes_of,
    rows_whose_gate,
    steps_after_run,
    stream_words,
    sustain_lines,
    target_option,
    timing_words,
)
from edgekit.support.run_folder import JOB

if TYPE_CHECKING:
    from edgekit.devices.messages import AppState, Slot
    from edgekit.devices.push import Pushed, PushedDevice, Status
    from edgekit.measure.evaluation import BundleEvaluation, EvaluatedBundle
    from edgekit.measure.inspect_bundle import Classification, Inspection
    from edgekit.models.soup import SoupRecord
    from edgekit.pipeline.plan import Plan, PlannedBundle

GIB = 2**30
APP_KEY = "/etc/edgekit/trust.pem"
"""Place of an app's copy of the public key in examples: only root can write there."""


def accuracy_answer(evaluation: "BundleEvaluation", width: int) -> Iterator[str]:
    """The lines of `edgekit evaluate`, none longer than `width`."""
    for warning in evaluation.warnings:
        yield from wrapped(f"warning: {warning}", width)
    rows, reference = evaluation.results, evaluation.reference
    if reference is not None:
        yield from wrapped(_loss_of(evaluation), width)
    if evaluation.device is not None:
        yield from wrapped(f"The bundles ran on {evaluation.device.label}: {evaluation.device.cpu}.", width)
    alone = reference is not None and all(row.bundle == reference.engine for row in rows)
    if not alone:  # compared with itself, a bundle loses nothing
        yield ""
        yield from lines_of(_accuracy_columns(rows, evaluation.accuracy_meaningful), width)
    for row in rows:
        for note in notes_of(row):
            yield from wrapped(f"{row.bundle}: {'' if row.failure else f'{row.verdict}: '}{note.sentence}", width)


def _loss_of(evaluation: "BundleEvaluation") -> str:
    """What the bundles lose against the one they are compared with, in one or two sentences."""
    assert evaluation.reference is not None
    name, count = evaluation.reference.engine, f"{evaluation.evaluation.count:,} images"
    if not evaluation.accuracy_meaningful:
        return f"The weights are random, so only the agreement with {name} on {count} means anything."
    compared = [(row, row.accuracy) for row in evaluation.results if row.accuracy and row.bundle != name]
    metric = evaluation.reference.metric
    reached = f"{name} reaches {metric} {100 * evaluation.reference.value:.2f} % on {count}"
    if not compared:
        return f"{reached}."
    row, accuracy = max(compared, key=lambda pair: pair[1].drop_points)
    low, high = accuracy.drop_ci95_points
    most = "" if len(compared) == 1 else "most, "
    return (
        f"{row.bundle} loses {most}{accuracy.drop_points:.2f} points of {metric} (95 % interval {low:.2f} to "
        f"{high:.2f}): {reached}."
    )


def _accuracy_columns(rows: "Sequence[EvaluatedBundle]", meaningful: bool) -> list[Column]:
    (score, loss), agreement = score_figures(rows), figure_at("accuracy.agreement")
    return [
        Column("", [row.bundle for row in rows], left=True),
        Column(score.title, [score.text(row, meaningful) for row in rows], rank=1),
        Column("loss, points (95 %)", [with_interval(loss, row, meaningful) for row in rows]),
        Column("agreement", [agreement.text(row) for row in rows], rank=2),
        Column("verdict", [_word(row) for row in rows], left=True),
    ]


def _word(row: "EvaluatedBundle") -> str:
    """The verdict, if anything was judged."""
    judged = row.verdict != "pass" or any(gate.name == "max-drop" and gate.verdict == "pass" for gate in row.gates)
    return row.verdict if judged else NOTHING


def latency_answer(rows: Sequence[Row], width: int) -> Iterator[str]:
    """The lines of `edgekit benchmark`, none longer than `width`."""
    for warning in (*emulated(rows), *unsteady(rows)):
        yield from wrapped(f"warning: {warning}", width)
    several = len({row.device.name for row in rows}) > 1
    for device in dict.fromkeys(row.device.name for row in rows):
        measured = [row for row in rows if row.device.name == device]
        yield from wrapped(_fastest(measured, several), width)
        yield ""
        yield from lines_of(_latency_columns(measured), width)
        yield from wrapped(f"Latency: {timing_words(measured)}.", width)
        for row in measured:
            yield from _more_on(row, width, several)


def _fastest(rows: Sequence[Row], several: bool) -> str:
    """The fastest bundle on a device, with its latency and speed-up."""
    where = f" on {rows[0].device.label}" if several or rows[0].device.name != "local" else ""
    timed = [(row.latency_ms.p50, row) for row in rows if row.latency_ms]
    if not timed:
        return f"No bundle could be timed{where}."
    p50, row = min(timed, key=lambda pair: pair[0])
    versus = f", {row.speedup.ratio:.2f}x {row.speedup.baseline}" if row.speedup else ""
    return f"Fastest{where}: {row.name}, {p50:.2f} ms{versus}."


def _latency_columns(rows: Sequence[Row]) -> list[Column]:
    p50, p99, ratio, peak = map(figure_at, ("latency_ms.p50", "latency_ms.p99", "speedup.ratio", "peak_rss_bytes"))
    return [
        Column("", [row.name for row in rows], left=True),
        Column("p50 ms", [p50.text(row) for row in rows]),
        Column("p99 ms", [p99.text(row) for row in rows], rank=2),
        Column("speedup (95 %)", [with_interval(ratio, row) for row in rows], rank=1),
        Column("peak MB", [peak.text(row) for row in rows], rank=3),
        Column("verdict", [row.verdict for row in rows], left=True),
    ]


def _more_on(row: Row, width: int, several: bool) -> Iterator[str]:
    """A row's energy where a sensor was read, its streams, its sustained run, and the notes on it."""
    emulation = " (emulated: timings are not comparable)" if row.device.emulated else ""
    name = f"{row.device.name}{emulation}: {row.name}" if several or emulation else row.name
    lines = []
    if row.energy and row.energy.inference_mj is not None:
        lines.append(f"{name}: {energy_words(row.energy)}")
    if words := stream_words(row):
        lines.append(f"{name}: {words}")
    lines += sustain_lines(name, row)
    verdict = "" if row.failure else f"{row.verdict}: "
    lines += [f"{name}: {verdict}{note.sentence}" for note in notes_of(row) if note.kind != "unsteady"]
    for line in lines:
        yield from wrapped(line, width)


def inspection_lines(inspection: "Inspection") -> Iterator[str]:
    """What a bundle contains, and which of its layers run in integer kernels."""
    from edgekit.measure.gates import SIMULATED
    from edgekit.measure.inspect_bundle import portability, summary

    ran = inspection.int8
    yield summary(inspection, DeviceClass.of_host())
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


def classified_lines(found: "Classification") -> Iterator[str]:
    """The labels, or the similar images, of each image."""
    from edgekit.measure.inspect_bundle import ClassifiedImage

    for result in found.results:
        if len(found.results) > 1:
            yield result.image
        if isinstance(result, ClassifiedImage):
            yield from (f"{scored.score:7.2%}  {scored.label}" for scored in result.top)
            if not result.top:
                yield "no label reaches its threshold"
        else:
            yield from (f"{one.cosine:7.4f}  {one.image}" for one in result.nearest)


def comparison_lines(comparison: Comparison, width: int) -> Iterator[str]:
    """What leaves the verdict open, what got worse, then the notes on both runs and every change."""
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


def _changes(row: RowComparison) -> Iterator[str]:
    """The verdicts of a row in both runs, and its changes, as lines of text."""
    first, second = row.verdicts
    yield f"{row.label}: {first or 'missing'} -> {second or 'missing'}"
    for figure in compared_figures():
        if change := row.changes.get(figure.csv_column):
            yield f"  {figure.title}: {describe_change(figure, change)}"


def plan_lines(planned: "Plan", machine: str) -> list[str]:
    """A plan as lines of text."""
    height, width = planned.input_shape[2:]
    lines = [
        f"{planned.model}: {planned.params / 1e6:,.2f} M parameters, {planned.macs / 1e9:,.2f} GMAC at "
        f"{height}x{width}",
        f"{machine} has {planned.memory_available_bytes / GIB:.1f} GiB of memory free; all bundles take "
        f"{planned.disk_bytes / 1e6:,.0f} MB of disk",
        f"peak memory per stage, {planned.memory_model}:",
    ]
    for stage in planned.stages:
        over = "" if stage.peak_bytes < planned.memory_available_bytes else "  more than is free"
        lines.append(f"{stage.target:<9} {stage.stage:<14} {stage.peak_bytes / GIB:6.2f} GiB{over}")
    lines += [_planned(planned, bundle, machine) for bundle in planned.artifacts]
    if nominal := planned.latency_bound_ms:
        lines.append(
            f"multiply-accumulates at the nominal rate of {nominal.device_class}: {nominal.float_ms:.2f} ms in float, "
            f"{nominal.int8_ms:.2f} ms in int8 ({nominal.threads} threads)"
        )
    for target in planned.float_on_device:
        lines.append(f"{target}-int8 will hardly be faster than float, because most of it runs in float on Arm")
    return lines


def _planned(planned: "Plan", bundle: "PlannedBundle", machine: str) -> str:
    """Whether a bundle fits where it will run, and whether the machine can make it."""
    line = f"{bundle.name}: {'fits' if bundle.fits else 'does not fit'}: {bundle.why}"
    if bundle.peak_bytes is None:
        return line
    verdict = "suffices" if planned.possible(bundle) else "does not suffice"
    return f"{line}; making it takes {bundle.peak_bytes / GIB:.1f} GiB: {machine} {verdict}"


def soup_lines(record: "SoupRecord") -> list[str]:
    """A record as lines of text."""
    lines = []
    for member in record.members:
        single = f": {member.held_out_top1:.2%} alone" if member.held_out_top1 is not None else ""
        lines.append(f"{'kept' if member.kept else 'left out':<8} {member.file}{single}")
    if record.accuracy is None or record.held_out is None:
        return lines
    for name, accuracy in vars(record.accuracy).items():
        final = accuracy.final_top1
        rest = f", {final:.2%} on the other {record.final_count}" if final is not None else ""
        lines.append(
            f"{name.replace('_', ' ')}: top-1 {accuracy.held_out_top1:.2%} on the {record.held_out.count} "
            f"images that chose the members{rest}"
        )
    return lines


def pushed_lines(pushed: "Pushed") -> Iterator[str]:
    """A table of what each device has now, the reasons of those that didn't pass, and how an app loads the bundle."""
    results = pushed.results
    yield from lines_of(
        [
            Column("", [result.device for result in results], left=True),
            Column(
                "verdict",
                [result.verdict or ("unknown" if result.reasons else "not begun") for result in results],
                left=True,
            ),
            Column("active", [_active(result) for result in results], left=True),
            Column("since", [(result.app and result.app.since) or NOTHING for result in results], left=True, rank=2),
            Column("p50 ms", [_ms(result, "p50_ms") for result in results], rank=1),
            Column("p99 ms", [_ms(result, "p99_ms") for result in results]),
        ],
        answer_width(),
    )
    for result in results:
        for reason in result.reasons:
            text = reason if reason.startswith(f"{result.device}: ") else f"{result.device}: {reason}"
            yield from wrapped(text, answer_width())
    active = [result.app for result in results if result.verdict == "pass" and result.app]
    for path, trust in dict.fromkeys((state.path, state.trust) for state in active):
        yield f"An app loads it with edgekit.load({path!r}{f', trust={APP_KEY!r}' if trust else ''})."
        if trust:
            text = (
                "Whoever may push can write the device's own copy of it, so an app needs one that only root can write"
            )
            yield from wrapped(f"Copy the public key to {APP_KEY} as root. {text}.", answer_width())
    if waiting := [result.device for result in results if result.verdict is None]:
        yield from wrapped(f"See what the others have: edgekit devices status {' '.join(waiting)}", answer_width())


def _ms(result: "PushedDevice", key: str) -> str:
    return f"{getattr(result.trial, key):.2f}" if result.trial else NOTHING


def _active(result: "PushedDevice") -> str:
    if result.app is None:
        return NOTHING if result.verdict == "fail" else "unknown"
    return _bundle(result.app.active)


def _bundle(slot: "Slot | None") -> str:
    """The name and the beginning of the hash of the bundle in a slot."""
    from edgekit.devices.push import HASH_DIGITS

    if slot is None:
        return NOTHING
    return f"{slot.record.bundle} {slot.record.sha256[:HASH_DIGITS]}" if slot.record else "unknown"


def status_lines(status: "Status") -> Iterator[str]:
    """A paragraph for each app on each device."""
    if not status.devices:
        yield NO_DEVICES
    for device in status.devices:
        if device.failure:
            yield from wrapped(device.failure.message, answer_width())
            continue
        free = f"{(device.disk_free_bytes or 0) / 1e6:,.0f} MB free"
        if not device.apps:
            yield f"{device.device}: no apps, {free}"
        for state in device.apps:
            yield f"{device.device}: {state.name}, {free}"
            yield from (f"  {key + ':':<9} {value}" for key, value in _facts(state))


def _facts(state: "AppState") -> Iterator[tuple[str, str]]:
    if state.active is None:
        yield "active", "nothing yet"
        return
    yield "active", f"{_bundle(state.active)} since {state.since}"
    yield "verdict", str(state.verdict) + (f": {state.active.problem}" if state.active.problem else "")
    if record := state.active.record:
        trial = record.trial
        yield "model", f"{record.model or 'unknown'}, {record.precision}, made for {record.device_class}"
        yield "runtime", f"{trial.engine}, Python {trial.python}, pushed by edgekit {record.edgekit}"
        bound = f", at most {record.max_p99_ms:.2f} ms" if record.max_p99_ms else ""
        threads = counted(trial.threads, "thread")
        yield from [("trust", f"bundles that the key in {state.trust} signed")] if state.trust else []
        note = ", emulated: not comparable" if trial.emulated else ""
        yield "latency", f"p50 {trial.p50_ms:.2f} ms, p99 {trial.p99_ms:.2f} ms{bound}, {threads}{note}"
    other, record = state.previous, state.active.record
    newer = record is not None and record.sha256 == state.returns_to
    problem = f": {other.problem}" if other and other.problem else ""
    yield "newer" if newer else "previous", f"{_bundle(other)}{problem}"


def after_job(report: Report, folder: Path) -> Iterator[NextStep]:
    """The next commands after `edgekit deploy` or `demo`: for the bundle to ship, and for what failed."""
    left = None
    unsure = rows_whose_gate(report.results, "max-drop", "inconclusive")
    if unsure and keeps_job(folder) and (job := continued(folder, {})).num_eval_samples:
        taken = 0 if job.calibration_data else report.calibration.count
        left = _images_in(job.data, folder / str(unsure[0].bundle), taken + len(report.evaluation.unreadable))
    yield from steps_after_run(report, folder, keeps_job(folder), left)


def after_sensitivity(analysis: Sensitivity, folder: Path) -> Iterator[NextStep]:
    """The next command after `edgekit sensitivity`, for the runtimes whose loss is too large."""
    flagged = [part for part in analysis.targets if part.verdict != "pass"]
    if flagged and keeps_job(folder):
        bound = ("--max-drop", f"{analysis.max_drop_points:g}") if "--max-drop" in analysis.command else ()
        words = (COMMAND, "deploy", str(folder), *bound, *target_option(flagged))
        yield NextStep("keep such layers in float where int8 stays faster", words)


def after_benchmark(rows: Sequence[Row]) -> Iterator[NextStep]:
    """The next commands after `edgekit benchmark`."""
    if slow := rows_whose_gate(rows, "min-speedup", "fail"):
        yield NextStep("see which of its layers run in float", (COMMAND, "inspect", slow[0].name))
    if rows_whose_gate(rows, "steady-timing", "inconclusive"):
        yield NextStep("Run the same command again while nothing else runs.")
    yield from after_failures(rows)


def after_evaluate(
    rows: "Sequence[EvaluatedBundle]", images: int, data: Path | None, max_drop: float | None = None
) -> Iterator[NextStep]:
    """The next commands after `edgekit evaluate` on this number of the images in `data`; None if those are all."""
    bound = ("--max-drop", f"{max_drop:g}") if max_drop is not None else ()
    lossy = [Path(row.bundle) for row in rows_whose_gate(rows, "max-drop", "fail")]
    for run in dict.fromkeys(bundle.parent for bundle in lossy):
        targets = ",".join(bundle.name.rpartition("-")[0] for bundle in lossy if bundle.parent == run)
        if keeps_job(run):
            words = (COMMAND, "sensitivity", str(run), *bound, "--target", targets)
            yield NextStep("see which layers lose the accuracy", words)
        else:
            yield NextStep(f"Deploy the model again: {run} does not say how these bundles were made.")
    if unsure := rows_whose_gate(rows, "max-drop", "inconclusive"):
        left = _images_in(data, Path(unsure[0].bundle), 0) if data else None
        yield more_images(unsure, images, left, None)
    yield from after_failures(rows)


def keeps_job(run: Path) -> bool:
    """Whether a run folder stands for its job, so that other commands take it as their model."""
    return (run / JOB).is_file()


def _images_in(data: Path, bundle: Path, taken: int) -> int | None:
    """Number of images in a data set without those that are taken; None if the set can't be listed."""
    from edgekit.images.dataset import Dataset
    from edgekit.measure.accuracy import task_in
    from edgekit.runtime.bundle import read_bundle

    try:
        opened = read_bundle(bundle)
        return len(Dataset.open(data, opened.labels, task_in(opened).labelling).samples) - taken
    except EdgekitError:
        return None
