"""`edgekit sensitivity`, which ranks layers by lost accuracy, and `edgekit tune`, which searches for a recipe."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import typer

from edgekit.cli import panels
from edgekit.cli.app import app
from edgekit.cli.arguments import ModelOrRunOrDemo
from edgekit.cli.described import described
from edgekit.cli.flat import flat
from edgekit.cli.groups import Calibrating, Making, Measuring, Source
from edgekit.cli.options import scheme_of
from edgekit.cli.output import answer_width, clean_stdout, emit, loading, show_report, show_steps, wrapped
from edgekit.cli.saved_job import GivenJob, announce, arguments_of, continued, explicit_options, run_of, with_output
from edgekit.cli.shared import Json, Quiet, Threads, Wide
from edgekit.cli.typed import Typed
from edgekit.compat.typer import REQUIRED
from edgekit.pipeline.options import Options
from edgekit.support.libraries import import_needed

SAMPLES = 128
MOST_MINUTES = 365 * 24 * 60
UNLESS_DEMO = f"{REQUIRED}, except for demo"


def _options(given: GivenJob, command: tuple[str, ...]) -> Options:
    """The options of an analysis, with the scheme of the job and both precisions."""
    return replace(given.options(command), scheme=scheme_of(given.wanted.scheme), as_given=None)


def _of_run(given: GivenJob, run: Path, context: typer.Context) -> GivenJob:
    """The job of a run folder for `sensitivity`, which simulates on few images."""
    job = continued(given, run, context)
    count, drop = job.measuring.num_eval_samples or SAMPLES, job.measuring.max_drop
    if "num_eval_samples" not in explicit_options(context):
        count = min(count, SAMPLES)
    drop = given.measuring.max_drop if drop is None else drop
    return replace(job, measuring=replace(job.measuring, num_eval_samples=count, max_drop=drop))


@app.command(rich_help_panel=panels.MORE)
@described(
    {"data": UNLESS_DEMO, "output": "runs/MODEL, or the run folder that is given as MODEL"},
    {"output": "Run folder for sensitivity.json and sensitivity.svg."},
)
@flat
def sensitivity(
    context: typer.Context,
    model: ModelOrRunOrDemo,
    making: Making,
    calibrating: Calibrating,
    source: Source,
    num_eval_samples: Annotated[
        int,
        typer.Option(min=1, metavar="N", rich_help_panel=panels.IMAGES, help="Number of images to simulate on."),
    ] = SAMPLES,
    max_drop: Annotated[
        float,
        typer.Option(
            min=0,
            max=100,
            metavar="POINTS",
            rich_help_panel=panels.GATES,
            help="Loss of top-1 accuracy, in percentage points, above which a layer is flagged.",
        ),
    ] = 1.0,
    threads: Threads = None,
    json_: Json = False,
    quiet: Quiet = False,
) -> int:
    """Rank layers by the accuracy they lose and the time they save in INT8.

    The loss is simulated from one calibration. Writes sensitivity.json and
    sensitivity.svg to the run folder.
    """
    from edgekit.support.progress import Reporter

    measuring = Measuring(num_eval_samples=num_eval_samples, max_drop=max_drop, threads=threads)
    given = GivenJob(model=model, making=making, calibrating=calibrating, measuring=measuring, source=source)
    command: tuple[str, ...] = context.obj
    if run := run_of(model, making.output):
        given = _of_run(given, run, context)
        command = ("sensitivity", *given.arguments)
        announce(run, command, quiet)
        given = with_output(given, making.output or run)
    options = _options(given, command)
    with clean_stdout() as out:
        reporter = Reporter(quiet)
        with loading(reporter):
            from edgekit.tuning.analysis import analyse
        analysis = analyse(options, reporter)
        if json_:
            emit(out, analysis)
        else:
            from rich.console import Console

            from edgekit.cli.next_steps import after_sensitivity
            from edgekit.report.sensitivity_document import render_sensitivity

            render_sensitivity(analysis, Console(file=out))
            show_steps(after_sensitivity(analysis, options.folder, Typed.of(context)), out)
            out.write(f"\n{options.folder}/sensitivity.json\n{options.folder}/sensitivity.svg\n")
    return 0 if all(part.verdict == "pass" for part in analysis.targets) else 1


@dataclass
class Searching:
    """The extent of the search."""

    num_tuning_samples: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            show_default="half of the images that calibration leaves",
            rich_help_panel=panels.SEARCH,
            help="Number of images to search on. The final figures come from the remaining images.",
        ),
    ] = None
    trials: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            show_default="all",
            rich_help_panel=panels.SEARCH,
            help="Number of recipes to try for each runtime.",
        ),
    ] = None
    budget_minutes: Annotated[
        float | None,
        typer.Option(
            min=0.01,
            max=MOST_MINUTES,
            metavar="MINUTES",
            show_default="no limit",
            rich_help_panel=panels.SEARCH,
            help="Minutes after which no further trial starts. The final measurement comes after the search.",
        ),
    ] = None


def _split(given: GivenJob, searching: Searching, measuring: Measuring) -> tuple[GivenJob, Searching]:
    """Split the evaluation images of a run between the search and the verdict, unless the command line says how."""
    total = given.measuring.num_eval_samples
    if searching.num_tuning_samples is not None or measuring.num_eval_samples is not None:
        held_out = measuring.num_eval_samples
    elif total is None:
        return given, searching
    else:
        searching, held_out = replace(searching, num_tuning_samples=total // 2), total - total // 2
    return replace(given, measuring=replace(given.measuring, num_eval_samples=held_out)), searching


@app.command(rich_help_panel=panels.COMMANDS)
@described({"data": UNLESS_DEMO, "output": "runs/MODEL, or RUN-tuned for a run folder"})
@flat
def tune(
    context: typer.Context,
    model: ModelOrRunOrDemo,
    making: Making,
    calibrating: Calibrating,
    measuring: Measuring,
    searching: Searching,
    source: Source,
    wide: Wide = False,
    json_: Json = False,
    quiet: Quiet = False,
) -> int:
    """Search for the fastest recipe that stays within --max-drop.

    Trials run on this machine, one at a time. With another --device, speed is
    judged only in the final measurement there. Images that the search never
    saw judge the result. Writes recipe.toml and its bundles and report to the
    run folder. After an interruption, the same command resumes.
    """
    from edgekit.support.progress import Reporter

    given = GivenJob(model=model, making=making, calibrating=calibrating, measuring=measuring, source=source)
    command: tuple[str, ...] = context.obj
    if run := run_of(model, making.output):
        given = continued(given, run, context)
        given, searching = _split(given, searching, measuring)
        command = ("tune", *given.arguments, *arguments_of(searching))
        announce(run, command, quiet)
        given = with_output(given, making.output or run.with_name(f"{run.name}-tuned"))
    options = _options(given, command)
    with clean_stdout() as out:
        import_needed("tomlkit", "tune")
        reporter = Reporter(quiet)
        with loading(reporter):
            from edgekit.tuning.search import Search
            from edgekit.tuning.search import tune as search_recipe
        search = Search(searching.trials, searching.budget_minutes, searching.num_tuning_samples)
        report = search_recipe(options, search, reporter)
        if json_:
            emit(out, report)
        else:
            from edgekit.cli.next_steps import after_job
            from edgekit.report.recipe_search import lines

            show_report(report, out, wide)
            for line in lines(report.tuning) if report.tuning else ():
                out.writelines(f"{part}\n" for part in wrapped(line, answer_width()))
            show_steps(after_job(report, options.folder, Typed.of(context), options), out)
            out.write(f"\nRecipe: {options.folder}/recipe.toml\nReport: {options.folder}/report.html\n")
    return 0 if all(row.verdict == "pass" for row in report.results) else 1
