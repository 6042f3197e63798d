"""The commands to run next: to try the bundle to ship, or to repair what failed a gate, with the user's own options."""

import shlex
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.cli.names import COMMAND
from edgekit.cli.typed import Typed, Words
from edgekit.errors import EdgekitError

if TYPE_CHECKING:
    from edgekit.measure.evaluation import EvaluatedBundle
    from edgekit.pipeline.options import Options
    from edgekit.report.document import Report
    from edgekit.report.gate import GateName
    from edgekit.report.row import Row
    from edgekit.report.sensitivity_document import Sensitivity

INDENT = "  "
CONTINUED = " \\"


@dataclass(frozen=True)
class NextStep:
    """One command with its purpose."""

    purpose: str
    """Purpose of the command, as an instruction without a full stop; a whole sentence if there is no command."""
    command: Words = ()


def after_job(report: "Report", folder: Path, typed: Typed, options: "Options | None" = None) -> Iterator[NextStep]:
    """The next commands after `edgekit deploy`, `demo` or `tune`: for the bundle to ship, and for what failed.

    Without options, the run folder stands for its job, as after `edgekit report`.
    """
    if bundle := report.recommendation.bundle:
        yield NextStep("try it on an image", (COMMAND, "classify", str(folder / bundle), "IMAGE"))
    yield from _better_recipes(report.results, folder, typed)
    if unsure := _rows(report.results, "max-drop", "inconclusive"):
        left = None
        if options and (options.num_eval_samples or typed.value("num_eval_samples")):
            taken = 0 if options.calibration_data else report.calibration.count
            left = _images_in(options.data, folder / str(unsure[0].bundle), taken + len(report.evaluation.unreadable))
        yield _more_images(unsure, report.evaluation.count, left, typed)
    if disturbed := _rows(report.results, "steady-timing", "inconclusive"):
        names = dict.fromkeys(f"{row.target}-{precision}" for row in disturbed for precision in ("float", "int8"))
        bundles = [folder / name for name in names]
        yield _time_again(typed.again("benchmark", without=("junit", "summary"), arguments=bundles))
    yield from _failures(report.results)


def _better_recipes(rows: Sequence["Row"], folder: Path, typed: Typed) -> Iterator[NextStep]:
    """The next commands for INT8 bundles that lose too much accuracy or gain too little speed."""
    inaccurate, slow = (_rows(rows, name, "fail") for name in ("max-drop", "min-speedup"))
    model = ("demo",) if typed.command == "demo" else None
    if inaccurate:
        words = typed.again("sensitivity", ("target", "num_eval_samples"), _targets(inaccurate), model)
        yield NextStep(f"see which layers of {_names(inaccurate)} lose the accuracy", words)
    if slow:
        name = slow[0].name
        yield NextStep(f"see which layers of {name} run in float", (COMMAND, "inspect", str(folder / name)))
    wrong = [*inaccurate, *(row for row in slow if row not in inaccurate)]
    if wrong and typed.command != "tune":
        words = typed.again("tune", ("target", "output"), [*_targets(wrong), *_tuned(folder)], model)
        yield NextStep(f"search for a better recipe for {_names(wrong)}", words)


def after_sensitivity(analysis: "Sensitivity", folder: Path, typed: Typed) -> Iterator[NextStep]:
    """The next command after `edgekit sensitivity`, for the runtimes whose loss is too large."""
    if flagged := [part for part in analysis.targets if part.verdict != "pass"]:
        without = ("target", "output", "num_eval_samples")
        words = typed.again("tune", without, [*_targets(flagged), *_tuned(folder)])
        yield NextStep("search for a recipe that loses less", words)


def after_benchmark(rows: Sequence["Row"], typed: Typed) -> Iterator[NextStep]:
    """The next commands after `edgekit benchmark`."""
    if slow := _rows(rows, "min-speedup", "fail"):
        yield NextStep("see which of its layers run in float", (COMMAND, "inspect", slow[0].name))
    if _rows(rows, "steady-timing", "inconclusive"):
        yield _time_again(typed.again("benchmark"))
    yield from _failures(rows)


def after_evaluate(rows: Sequence["EvaluatedBundle"], images: int, data: Path, typed: Typed) -> Iterator[NextStep]:
    """The next commands after `edgekit evaluate` on this number of the images in `data`."""
    lossy = [Path(row.bundle) for row in _rows(rows, "max-drop", "fail")]
    for run in dict.fromkeys(bundle.parent for bundle in lossy):
        targets = ",".join(bundle.name.rpartition("-")[0] for bundle in lossy if bundle.parent == run)
        bound = typed.again("sensitivity", [name for name, _ in typed.options if name != "max_drop"], arguments=[run])
        if keeps_job(run):
            yield NextStep("see which layers lose the accuracy", (*bound, "--target", targets))
            yield NextStep("search for a better recipe", (COMMAND, "tune", *bound[2:], "--target", targets))
        else:
            yield NextStep(f"Deploy the model again: {run} does not say how these bundles were made.")
    if unsure := _rows(rows, "max-drop", "inconclusive"):
        left = _images_in(data, Path(unsure[0].bundle), 0) if typed.value("num_eval_samples") else None
        yield _more_images(unsure, images, left, typed)
    yield from _failures(rows)


def keeps_job(run: Path) -> bool:
    """Whether a run folder stands for its job, so that other commands take it as their model."""
    from edgekit.support.run_folder import JOB

    return (run / JOB).is_file()


def _more_images(unsure: Sequence["Row | EvaluatedBundle"], images: int, left: int | None, typed: Typed) -> NextStep:
    """How to confirm the loss of these rows, which were evaluated on too few images; `left` is how many there are."""
    needs = [row.accuracy.bound.images_needed for row in unsure if row.accuracy and row.accuracy.bound]
    if not needs or None in needs:
        return NextStep("More images would not confirm so small a loss: allow more with --max-drop, or ship float.")
    needed = max(need for need in needs if need is not None)
    if not left or left <= images:
        return NextStep(f"Add labelled images and run the same command again: about {needed:,} would settle it.")
    count = min(needed, left)
    purpose = "evaluate on more images" if count == needed else f"evaluate on all images ({needed:,} would settle it)"
    return NextStep(purpose, typed.again(typed.command, ("num_eval_samples",), ["--num-eval-samples", count]))


def _images_in(data: Path, bundle: Path, taken: int) -> int | None:
    """Number of images in a data set without those that are taken; None if the set can't be listed."""
    from edgekit.images.dataset import open_dataset
    from edgekit.runtime.bundle import read_bundle

    try:
        return len(open_dataset(data, read_bundle(bundle).labels).samples) - taken
    except EdgekitError:
        return None


def _time_again(command: Words) -> NextStep:
    return NextStep("time them again while nothing else runs", command)


def _failures(rows: Sequence[Any]) -> Iterator[NextStep]:
    """The commands that say more about rows with an error."""
    failures = [(row, row.failure) for row in rows if row.failure]
    devices = [row.device.name for row, failure in failures if failure.stage == "device"]
    for device in dict.fromkeys(devices):
        yield NextStep(f"see what {device} lacks", (COMMAND, "devices", "check", device))
    errors = [failure.error for _, failure in failures if failure.stage not in ("device", "bug in edgekit")]
    for error in dict.fromkeys(errors):
        yield NextStep(f"read the usual cause of {error}", (COMMAND, "explain", error))


def _rows(rows: Sequence[Any], name: "GateName", verdict: str) -> list[Any]:
    """The rows whose gate of this name has this outcome."""
    return [row for row in rows if any((gate.name, gate.verdict) == (name, verdict) for gate in row.gates)]


def _targets(parts: Sequence[Any]) -> list[str]:
    return ["--target", ",".join(dict.fromkeys(part.target for part in parts))]


def _tuned(folder: Path) -> list[str]:
    """The run folder of a search, next to that of the run that failed."""
    return ["--output", str(folder.with_name(f"{folder.name}-tuned"))]


def _names(rows: Sequence["Row"]) -> str:
    return " and ".join(dict.fromkeys(row.name for row in rows))


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
        if len(lines[-1]) + 1 + needed + len(CONTINUED) <= width or len(lines[-1].split()) < 2:
            lines[-1] += f" {quoted}"
        else:
            lines[-1] += CONTINUED
            lines.append(f"{INDENT * 3}{quoted}")
    return lines
