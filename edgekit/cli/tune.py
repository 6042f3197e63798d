"""`edgekit sensitivity` and `edgekit tune`: which layers cost accuracy, and the recipe that keeps a bound."""

from dataclasses import dataclass
from typing import Annotated, Any

import typer

from edgekit.cli.app import app
from edgekit.cli.groups import Calibrating, Json, Making, Measuring, Quiet, Source, Threads, flat
from edgekit.cli.options import demo_options, job_options, model_options
from edgekit.cli.output import clean_stdout, emit
from edgekit.pipeline.options import Options
from edgekit.support.libraries import import_needed, needs

SAMPLES = 128
Model = Annotated[str, typer.Argument(help="timm name, module:factory, or demo: the model that edgekit ships.")]


def _job(
    model: str, making: Making, calibrating: Calibrating, measuring: Measuring, source: Source, command: Any
) -> Options:
    """The job that was asked for; "demo" is the model that edgekit ships, on its images and threads."""
    if model == "demo":
        return demo_options(making, calibrating, measuring, command)
    return job_options(model_options(model, making.weights, source), making, calibrating, measuring, command)


@app.command()
@flat
def sensitivity(
    context: typer.Context,
    model: Model,
    making: Making,
    calibrating: Calibrating,
    source: Source,
    num_eval_samples: Annotated[int, typer.Option(min=1, help="Images to simulate on.")] = SAMPLES,
    max_drop: Annotated[float, typer.Option(help="Points of top-1 above which layers are flagged.")] = 1.0,
    threads: Threads = None,
    json_: Json = False,
    quiet: Quiet = False,
) -> int:
    """Which layers cost accuracy in INT8, and the time that each saves: simulated from one calibration."""
    from edgekit.support.progress import Reporter

    measuring = Measuring(num_eval_samples=num_eval_samples, max_drop=max_drop, threads=threads)
    options = _job(model, making, calibrating, measuring, source, context.obj)
    with clean_stdout() as out:
        with needs("build"):
            from edgekit.tuning.analysis import analyse
        found = analyse(options, Reporter(quiet))
        if json_:
            emit(out, found)
        else:
            from rich.console import Console

            from edgekit.report.sensitivity import render_sensitivity

            render_sensitivity(found, Console(file=out))
            out.write(f"\n{options.folder}/sensitivity.json\n{options.folder}/sensitivity.svg\n")
    return 0 if all(part.verdict == "pass" for part in found.targets) else 1


@dataclass
class Searching:
    """How to search."""

    num_tuning_samples: Annotated[
        int | None, typer.Option(help="Images to search on. [default: half of what calibration leaves]")
    ] = None
    trials: Annotated[int | None, typer.Option(min=1, help="Recipes to try for each target. [default: all]")] = None
    budget_minutes: Annotated[
        float | None, typer.Option(min=0.01, help="Time for the search; the verdict comes after it. [default: no end]")
    ] = None
    budget_memory: Annotated[
        int | None, typer.Option(min=1, help="MB of memory of each worker; a trial that takes more is given up.")
    ] = None
    workers: Annotated[int, typer.Option(min=1, help="Processes that search.")] = 1
    storage: Annotated[
        str | None,
        typer.Option(help="SQLite file of the search, which several commands may share. [default: OUTPUT/tune.db]"),
    ] = None
    silence: Annotated[
        int, typer.Option(min=6, help="Seconds without a sign after which a worker's trial is taken up by another.")
    ] = 60


@app.command()
@flat
def tune(
    context: typer.Context,
    model: Model,
    making: Making,
    calibrating: Calibrating,
    measuring: Measuring,
    searching: Searching,
    source: Source,
    json_: Json = False,
    quiet: Quiet = False,
) -> int:
    """Find the recipe that keeps --max-drop at the most speed, judged on images that the search never saw."""
    from edgekit.support.progress import Reporter
    from edgekit.tuning.options import Search

    options = _job(model, making, calibrating, measuring, source, context.obj)
    search = Search(
        trials=searching.trials,
        minutes=searching.budget_minutes,
        memory_mb=searching.budget_memory,
        workers=searching.workers,
        storage=searching.storage,
        num_tuning_samples=searching.num_tuning_samples,
        silence_s=searching.silence,
    )
    with clean_stdout() as out:
        import_needed("tomlkit", "tune")
        with needs("build"):
            from edgekit.tuning.search import tune as search_recipe
        report = search_recipe(options, search, Reporter(quiet))
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
