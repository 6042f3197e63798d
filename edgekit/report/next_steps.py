"""What to do after a run: to try the bundle to ship, or to repair what failed a gate."""

from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from edgekit.report.document import Report
from edgekit.report.row import GateName, Row

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


class CommandLine(Protocol):
    """A command line from which the next ones are made."""

    @property
    def command(self) -> str:
        """Name of the command, such as "deploy"."""
        ...

    def value(self, name: str) -> str | None:
        """The value of an option; None if it was not given."""
        ...

    def again(
        self,
        command: str,
        without: Container[str] = (),
        more: Sequence[object] = (),
        arguments: Sequence[object] | None = None,
    ) -> Words:
        """Another command on the same model and images: without these options, and with more words."""
        ...


@dataclass(frozen=True)
class OfRun:
    """Commands that take the run folder in place of the options of its job."""

    command: str

    def value(self, name: str) -> str | None:
        """None, because a report doesn't say which options had folders."""

    def again(
        self,
        command: str,
        without: Container[str] = (),
        more: Sequence[object] = (),
        arguments: Sequence[object] | None = None,
    ) -> Words:
        """The command on the run folder, or with other arguments."""
        return (COMMAND, command, *map(str, (RUN,) if arguments is None else arguments), *map(str, more))


def steps_in_report(report: Report) -> list[NextStep]:
    """The next steps as a report shows them, where `RUN` stands for the run folder."""
    command = "tune" if report.command[:1] == ("tune",) else "report"
    return list(steps_after_run(report, Path(RUN), OfRun(command), None))


def steps_after_run(report: Report, folder: Path, line: CommandLine, images_left: int | None) -> Iterator[NextStep]:
    """The next steps after `edgekit deploy`, `demo` or `tune`: for the bundle to ship, and for what failed.

    `images_left` is the number of images that the run could be evaluated on, or None if nothing is known of them.
    """
    rows = report.results
    if bundle := report.recommendation.bundle:
        yield NextStep("try it on an image", (COMMAND, "classify", str(folder / bundle), "IMAGE"))
    if report.reference.near_chance:
        yield NextStep("Settle what the warning says, and run the same command again.")
        return
    if not bundle and any(row.device.emulated for row in rows):
        command = line.command if line.command in ("deploy", "demo") else "deploy"
        yield NextStep("measure on a real device", line.again(command, ("device",), ["--device", "NAME"]))
    if report.calibration.unlike_evaluation and rows_whose_gate(rows, "max-drop", "fail"):
        yield _calibrate_on_others(line)
    yield from _better_recipes(rows, folder, line)
    if unsure := rows_whose_gate(rows, "max-drop", "inconclusive"):
        yield more_images(unsure, report.evaluation.count, images_left, line)
    if disturbed := rows_whose_gate(rows, "steady-timing", "inconclusive"):
        names = dict.fromkeys(f"{row.target}-{precision}" for row in disturbed for precision in ("float", "int8"))
        bundles = [folder / name for name in names]
        yield time_again(line.again("benchmark", without=("junit", "summary"), arguments=bundles))
    yield from after_failures(rows)


def _calibrate_on_others(line: CommandLine) -> NextStep:
    """How to calibrate on images whose ranges fit the evaluation images."""
    if line.value("calibration_data"):
        words = line.again(line.command, ("calibration_data", "calibration_list"))
        return NextStep("calibrate on some of the images in --data", words)
    return NextStep("Calibrate on images like those that you evaluate on: name their folder with --calibration-data.")


def _better_recipes(rows: Sequence[Row], folder: Path, line: CommandLine) -> Iterator[NextStep]:
    """The next commands for INT8 bundles that lose too much accuracy or gain too little speed."""
    inaccurate, slow = (rows_whose_gate(rows, name, "fail") for name in ("max-drop", "min-speedup"))
    model = ("demo",) if line.command == "demo" else None
    if inaccurate:
        words = line.again("sensitivity", ("target", "num_eval_samples"), target_option(inaccurate), model)
        yield NextStep(f"see which layers of {_names(inaccurate)} lose the accuracy", words)
    if slow:
        name = slow[0].name
        yield NextStep(f"see which layers of {name} run in float", (COMMAND, "inspect", str(folder / name)))
    wrong = [*inaccurate, *(row for row in slow if row not in inaccurate)]
    if wrong and line.command != "tune":
        words = line.again("tune", ("target", "output"), [*target_option(wrong), *tuned_output(folder)], model)
        yield NextStep(f"search for a better recipe for {_names(wrong)}", words)


def more_images(unsure: Sequence[Any], images: int, left: int | None, line: CommandLine) -> NextStep:
    """How to confirm the loss of these rows, which were evaluated on too few images; `left` is how many there are."""
    needs = [row.accuracy.bound.images_needed for row in unsure if row.accuracy and row.accuracy.bound]
    if not needs or None in needs:
        return NextStep("More images would not confirm so small a loss: allow more with --max-drop, or ship float.")
    needed = max(need for need in needs if need is not None)
    if not left or left <= images:
        return NextStep(f"Add labelled images and run the same command again: about {needed:,} would settle it.")
    count = min(needed, left)
    purpose = "evaluate on more images" if count == needed else f"evaluate on all images ({needed:,} would settle it)"
    return NextStep(purpose, line.again(line.command, ("num_eval_samples",), ["--num-eval-samples", count]))


def time_again(command: Words) -> NextStep:
    """Another benchmark, after other load disturbed the timing."""
    return NextStep("time them again while nothing else runs", command)


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
        yield NextStep(f"read the usual cause of {error}", (COMMAND, "explain", error))


def rows_whose_gate(rows: Sequence[Any], name: GateName, verdict: str) -> list[Any]:
    """The rows whose gate of this name has this outcome."""
    return [row for row in rows if any((gate.name, gate.verdict) == (name, verdict) for gate in row.gates)]


def target_option(parts: Sequence[Any]) -> list[str]:
    """The option that chooses the runtimes of these rows or analyses."""
    return ["--target", ",".join(dict.fromkeys(part.target for part in parts))]


def tuned_output(folder: Path) -> list[str]:
    """The option for the run folder of a search, next to that of the run that failed."""
    return ["--output", str(folder.with_name(f"{folder.name}-tuned"))]


def _names(rows: Sequence[Row]) -> str:
    return " and ".join(dict.fromkeys(row.name for row in rows))
