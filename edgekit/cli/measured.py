"""What `edgekit evaluate` and `edgekit benchmark` print: the answer, then a line for each bundle."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from edgekit.cli.output import wrapped
from edgekit.report.answer import unsteady, with_interval
from edgekit.report.figure import NOTHING, figure_at, score_figures
from edgekit.report.measurement import TOP1
from edgekit.report.sentences import emulated, energy_words, notes_of, stream_words, sustain_lines, timing_words
from edgekit.report.table import Column, lines_of

if TYPE_CHECKING:
    from edgekit.measure.evaluation import BundleEvaluation, EvaluatedBundle
    from edgekit.report.row import Row


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


def _accuracy_columns(rows: Sequence["EvaluatedBundle"], meaningful: bool) -> list[Column]:
    (score, loss), agreement = score_figures(rows), figure_at("accuracy.agreement")
    metric = next((row.accuracy.metric for row in rows if row.accuracy), TOP1)
    return [
        Column("", [row.bundle for row in rows], left=True),
        Column(metric, [score.text(row, meaningful) for row in rows], rank=1),
        Column("loss, points (95 %)", [with_interval(loss, row, meaningful) for row in rows]),
        Column("agreement", [agreement.text(row) for row in rows], rank=2),
        Column("verdict", [_word(row) for row in rows], left=True),
    ]


def _word(row: "EvaluatedBundle") -> str:
    """The verdict, if anything was judged."""
    judged = row.verdict != "pass" or any(gate.name == "max-drop" and gate.verdict == "pass" for gate in row.gates)
    return row.verdict if judged else NOTHING


def latency_answer(rows: Sequence["Row"], width: int) -> Iterator[str]:
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


def _fastest(rows: Sequence["Row"], several: bool) -> str:
    """The fastest bundle on a device, with its latency and speed-up."""
    where = f" on {rows[0].device.label}" if several or rows[0].device.name != "local" else ""
    timed = [(row.latency_ms.p50, row) for row in rows if row.latency_ms]
    if not timed:
        return f"No bundle could be timed{where}."
    p50, row = min(timed, key=lambda pair: pair[0])
    versus = f", {row.speedup.ratio:.2f}x {row.speedup.baseline}" if row.speedup else ""
    return f"Fastest{where}: {row.name}, {p50:.2f} ms{versus}."


def _latency_columns(rows: Sequence["Row"]) -> list[Column]:
    p50, p99, ratio, peak = map(figure_at, ("latency_ms.p50", "latency_ms.p99", "speedup.ratio", "peak_rss_bytes"))
    return [
        Column("", [row.name for row in rows], left=True),
        Column("p50 ms", [p50.text(row) for row in rows]),
        Column("p99 ms", [p99.text(row) for row in rows], rank=2),
        Column("speedup (95 %)", [with_interval(ratio, row) for row in rows], rank=1),
        Column("peak MB", [peak.text(row) for row in rows], rank=3),
        Column("verdict", [row.verdict for row in rows], left=True),
    ]


def _more_on(row: "Row", width: int, several: bool) -> Iterator[str]:
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
