"""The commands to run next: to try the bundle to ship, or to repair what failed a gate."""

import shlex
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from edgekit.cli import COMMAND
from edgekit.errors import EdgekitError
from edgekit.job.saved import continued
from edgekit.report.next_steps import (
    NextStep,
    Words,
    after_failures,
    more_images,
    rows_whose_gate,
    steps_after_run,
    target_option,
)
from edgekit.support.run_folder import JOB

if TYPE_CHECKING:
    from edgekit.measure.evaluation import EvaluatedBundle
    from edgekit.report.document import Report
    from edgekit.report.row import Row
    from edgekit.report.sensitivity_document import Sensitivity

INDENT = "  "
CONTINUED = " \\"


def after_job(report: "Report", folder: Path) -> Iterator[NextStep]:
    """The next commands after `edgekit deploy` or `demo`: for the bundle to ship, and for what failed."""
    left = None
    unsure = rows_whose_gate(report.results, "max-drop", "inconclusive")
    if unsure and keeps_job(folder) and (job := continued(folder, {})).num_eval_samples:
        taken = 0 if job.calibration_data else report.calibration.count
        left = _images_in(job.data, folder / str(unsure[0].bundle), taken + len(report.evaluation.unreadable))
    yield from steps_after_run(report, folder, keeps_job(folder), left)


def after_sensitivity(analysis: "Sensitivity", folder: Path) -> Iterator[NextStep]:
    """The next command after `edgekit sensitivity`, for the runtimes whose loss is too large."""
    flagged = [part for part in analysis.targets if part.verdict != "pass"]
    if flagged and keeps_job(folder):
        bound = ("--max-drop", f"{analysis.max_drop_points:g}") if "--max-drop" in analysis.command else ()
        words = (COMMAND, "deploy", str(folder), *bound, *target_option(flagged))
        yield NextStep("keep such layers in float where int8 stays faster", words)


def after_benchmark(rows: Sequence["Row"]) -> Iterator[NextStep]:
    """The next commands after `edgekit benchmark`."""
    if slow := rows_whose_gate(rows, "min-speedup", "fail"):
        yield NextStep("see which of its layers run in float", (COMMAND, "inspect", slow[0].name))
    if rows_whose_gate(rows, "steady-timing", "inconclusive"):
        yield NextStep("Run the same command again while nothing else runs.")
    yield from after_failures(rows)


def after_evaluate(
    rows: Sequence["EvaluatedBundle"], images: int, data: Path | None, max_drop: float | None = None
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
    from edgekit.images.dataset import open_dataset
    from edgekit.measure.shards import task_in
    from edgekit.runtime.bundle import read_bundle

    try:
        opened = read_bundle(bundle)
        return len(open_dataset(data, opened.labels, task_in(opened).labelling).samples) - taken
    except EdgekitError:
        return None


def lines_of(steps: Iterable[NextStep], width: int) -> list[str]:
    """The steps as lines. Those of a command can be pasted into a shell."""
    lines: list[str] = []
    for step in steps:
        line = f"{'Or' if lines else 'Next,'} {step.purpose}"
        if step.command:
            short = f"{line}: {shlex.join(step.command)}"
            lines += [short] if len(short) <= width else [f"{line}:", *command_lines(step.command, width)]
        else:
            lines += textwrap.wrap(step.purpose, width)
    return lines


def command_lines(words: Words, width: int) -> list[str]:
    """A command, quoted for a shell and broken between words. A word that is longer than a line stays whole."""
    lines = [INDENT + words[0]]
    for word, following in zip(words[1:], [*words[2:], "-"], strict=True):
        quoted = shlex.quote(word)
        with_value = word.startswith("-") and not following.startswith("-")
        needed = len(quoted) + (1 + len(shlex.quote(following)) if with_value else 0)
        if len(lines[-1]) + 1 + needed + len(CONTINUED) <= width or lines == [INDENT + words[0]]:
            lines[-1] += f" {quoted}"
        else:
            lines[-1] += CONTINUED
            lines.append(f"{INDENT * 3}{quoted}")
    return lines
