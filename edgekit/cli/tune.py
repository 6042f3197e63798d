"""`edgekit sensitivity`, which ranks layers by lost accuracy, and `edgekit tune`, which searches for a recipe."""

from dataclasses import dataclass
from typing import Annotated, Any

import typer

from edgekit.cli import completion, panels
from edgekit.cli.app import app
from edgekit.cli.groups import Calibrating, Making, MakingOrDemo, Measuring, Source, flat
from edgekit.cli.options import demo_options, job_options, model_options
from edgekit.cli.output import clean_stdout, emit, loading
from edgekit.cli.shared import Json, Quiet, Threads
from edgekit.pipeline.options import Options
from edgekit.support.libraries import import_needed

SAMPLES = 128
MOST_MINUTES = 365 * 24 * 60
Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        autocompletion=completion.models_and_demo,
        help="A timm name, open_clip:NAME, module:factory, a .onnx file, or demo for edgekit's own model.",
    ),
]


def _job(
    model: str, making: Making, calibrating: Calibrating, measuring: Measuring, source: Source, command: Any
) -> Options:
    """The job that the options describe; "demo" is edgekit's own model, with its images and threads."""
    if model == "demo":
        return demo_options(making, calibrating, measuring, command)
    return job_options(model_options(model, making.weights, source), making, calibrating, measuring, command)


@app.command(rich_help_panel=panels.MORE)
@flat
def sensitivity(
    context: typer.Context,
    model: Model,
    making: MakingOrDemo,
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
    options = _job(model, making, calibrating, measuring, source, context.obj)
    with clean_stdout() as out:
        reporter = Reporter(quiet)
        with loading(reporter):
            from edgekit.tuning.analysis import analyse
        analysis = analyse(options, reporter)
        if json_:
            emit(out, analysis)
        else:
            from rich.console import Console

            from edgekit.report.sensitivity import render_sensitivity

            render_sensitivity(analysis, Console(file=out))
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


@app.command(rich_help_panel=panels.COMMANDS)
@flat
def tune(
    context: typer.Context,
    model: Model,
    making: MakingOrDemo,
    calibrating: Calibrating,
    measuring: Measuring,
    searching: Searching,
    source: Source,
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
    from edgekit.tuning.options import Search

    options = _job(model, making, calibrating, measuring, source, context.obj)
    search = Search(
        trials=searching.trials,
        minutes=searching.budget_minutes,
        num_tuning_samples=searching.num_tuning_samples,
    )
    with clean_stdout() as out:
        import_needed("tomlkit", "tune")
        reporter = Reporter(quiet)
        with loading(reporter):
            from edgekit.tuning.search import tune as search_recipe
        report = search_recipe(options, search, reporter)
        if json_:
            emit(out, report)
        else:
            from rich.console import Console

            from edgekit.report import render_table
            from edgekit.report.tuning import lines

            render_table(report, Console(file=out))
            if report.tuning:
                out.writelines(f"{line}\n" for line in lines(report.tuning))
            out.write(f"\n{options.folder}/recipe.toml\n{options.folder}/report.html\n")
    return 0 if all(row.verdict == "pass" for row in report.results) else 1
