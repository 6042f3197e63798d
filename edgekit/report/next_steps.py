"""What to do after a run: to try the bundle to ship, or to repair what failed a gate."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekit.errors import error_names
from edgekit.report.document import Report
from edgekit.report.row import GateName, Row
from edgekit.support.error_text import explain

Words = tuple[str, ...]
COMMAND = "edgekit"
BROWSER_ERROR = "BrowserError"
"""Error of a browser that never came, so that nothing else shows that its device is one."""
RUN = "RUN"
"""Stands for the run folder in the commands of a report, which is shared without its path."""


@dataclass(frozen=True)
class NextStep:
    """One command with its purpose."""

    purpose: str
    """Purpose of the command, as an instruction without a full stop; a whole sentence if there is no command."""
    command: Words = ()


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
    if report.calibration.unlike_evaluation and rows_whose_gate(rows, "max-drop", "fail"):
        yield NextStep(
            "Calibrate on images like those that you evaluate on: name their folder with --calibration-data."
        )
    yield from _better_int8(rows, folder, keeps_job)
    if unsure := rows_whose_gate(rows, "max-drop", "inconclusive"):
        yield more_images(unsure, report.evaluation.count, images_left, folder if keeps_job else None)
    if disturbed := rows_whose_gate(rows, "steady-timing", "inconclusive"):
        names = dict.fromkeys(f"{row.target}-{precision}" for row in disturbed for precision in ("float", "int8"))
        bundles = [str(folder / name) for name in names]
        yield NextStep("time them again while nothing else runs", (COMMAND, "benchmark", *bundles))
    yield from after_failures(rows)


def _better_int8(rows: Sequence[Row], folder: Path, keeps_job: bool) -> Iterator[NextStep]:
    """The next commands for INT8 bundles that lose too much accuracy or gain too little speed."""
    inaccurate, slow = (rows_whose_gate(rows, name, "fail") for name in ("max-drop", "min-speedup"))
    if inaccurate and keeps_job:
        words = (COMMAND, "sensitivity", str(folder), *target_option(inaccurate))
        yield NextStep(f"see which layers of {_names(inaccurate)} lose the accuracy", words)
    if slow:
        name = slow[0].name
        yield NextStep(f"see which layers of {name} run in float", (COMMAND, "inspect", str(folder / name)))


def more_images(unsure: Sequence[Any], images: int, left: int | None, run: Path | None) -> NextStep:
    """How to confirm the loss of these rows, which were evaluated on too few images; `left` is how many there are.

    The command is that of the run folder `run`; without one, a sentence says what to state.
    """
    needs = [row.accuracy.bound.images_needed for row in unsure if row.accuracy and row.accuracy.bound]
    if not needs or None in needs:
        return NextStep("More images would not confirm so small a loss: allow more with --max-drop, or ship float.")
    needed = max(need for need in needs if need is not None)
    if not left or left <= images:
        return NextStep(f"Add labelled images and run the same command again: about {needed:,} would settle it.")
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


def rows_whose_gate(rows: Sequence[Any], name: GateName, verdict: str) -> list[Any]:
    """The rows whose gate of this name has this outcome."""
    return [row for row in rows if any((gate.name, gate.verdict) == (name, verdict) for gate in row.gates)]


def target_option(parts: Sequence[Any]) -> list[str]:
    """The option that chooses the runtimes of these rows or analyses."""
    return ["--target", ",".join(dict.fromkeys(part.target for part in parts))]


def _names(rows: Sequence[Row]) -> str:
    return " and ".join(dict.fromkeys(row.name for row in rows))
