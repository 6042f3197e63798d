"""The command evaluate: the accuracy of bundles on labelled images."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from edgekit.cli import panels
from edgekit.cli.app import app
from edgekit.cli.arguments import Bundles
from edgekit.cli.checks import check_images, check_scheduler
from edgekit.cli.flat import flat
from edgekit.cli.for_pipelines import check_files, write_files
from edgekit.cli.groups import ForPipelines
from edgekit.cli.options import data_of, evaluation_browser, gates_of
from edgekit.cli.output import answer_width, clean_stdout, emit, show_steps
from edgekit.cli.saved_job import bundles_of
from edgekit.cli.shared import (
    EVERY_CORE,
    MOST_THREADS,
    EvalCount,
    EvaluationDevice,
    Json,
    Labelled,
    Quiet,
    Seed,
    WebNetwork,
    WebRuntime,
    Wide,
)
from edgekit.cli.typed import Typed
from edgekit.devices.registry import LOCAL
from edgekit.errors import UsageError

EXAMPLES = """
Examples:
  edgekit evaluate runs/demo --data photos
  edgekit evaluate runs/demo/onnx-float runs/demo/onnx-int8 --data photos
  edgekit evaluate new/onnx-int8 --reference old/onnx-int8 --data photos \\
      --max-drop 0.5
"""


@dataclass
class Compared:
    """The bundle that `edgekit evaluate` compares the others with, and how much they may lose against it."""

    reference: Annotated[
        Path | None,
        typer.Option(
            metavar="BUNDLE",
            show_default="the first float bundle, or else the first bundle",
            rich_help_panel=panels.BUNDLES,
            help="Bundle that the others are compared with.",
        ),
    ] = None
    max_drop: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=100,
            metavar="POINTS",
            show_default="no gate",
            rich_help_panel=panels.GATES,
            help="Largest loss of top-1 accuracy against the reference, in percentage points, with which a bundle "
            "passes. Its whole 95 % confidence interval must lie within the bound. Float bundles are exempt if int8 "
            "bundles are compared with one.",
        ),
    ] = None


@dataclass
class Scaling:
    """The processes that evaluate, and the folder of what they have finished."""

    threads: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=MOST_THREADS,
            metavar="N",
            show_default=f"{EVERY_CORE}, or 1 for each of several workers",
            rich_help_panel=panels.MEASUREMENT,
            help="Number of threads that the runtime uses in each process.",
        ),
    ] = None
    workers: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=MOST_THREADS,
            metavar="N",
            show_default="1, in this process",
            rich_help_panel=panels.MEASUREMENT,
            help="Number of processes to spread the images over.",
        ),
    ] = None
    scheduler: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            rich_help_panel=panels.MEASUREMENT,
            help="Address of a Dask scheduler, such as tcp://HOST:8786, whose workers evaluate too. They need the "
            "bundles and images at the same paths. Dask sends pickles, which can run code, so use it only between "
            "machines that you trust, on a private network.",
        ),
    ] = None
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FOLDER",
            rich_help_panel=panels.OUTPUT,
            help="Folder for finished parts, from which the same command resumes after an interruption.",
        ),
    ] = None


@app.command(rich_help_panel=panels.MORE, epilog=EXAMPLES)
@flat
def evaluate(
    context: typer.Context,
    bundles: Bundles,
    files: ForPipelines,
    compared: Compared,
    scaling: Scaling,
    data: Labelled = None,
    num_eval_samples: EvalCount = None,
    seed: Seed = 0,
    device: EvaluationDevice = LOCAL,
    web_runtime: WebRuntime = None,
    web_network: WebNetwork = None,
    wide: Wide = False,
    json_: Json = False,
    quiet: Quiet = False,
) -> int:
    """Measure the accuracy of bundles on labelled images.

    Prints top-1 and top-5 accuracy, and each bundle's drop compared with a
    reference, such as the float bundle. The exit code is 1 if a bundle misses
    --max-drop, or if the interval can't confirm it.
    """
    from edgekit.measure.evaluate_bundles import Scale, evaluate_bundles
    from edgekit.report.junit import junit_of_rows
    from edgekit.report.markdown import summary_of_rows
    from edgekit.support.progress import Reporter
    from edgekit.support.run_folder import check_output

    bundles = bundles_of(bundles)
    images = data_of(data)
    check_images(images)
    check_scheduler(scaling.scheduler)
    check_files(files)
    if scaling.output is not None:
        check_output(scaling.output)
    browser = evaluation_browser(device, web_network, web_runtime)
    if browser is not None and (scaling.workers or scaling.scheduler or scaling.output):
        raise UsageError(
            f"'{device}' is a browser, for which --workers, --scheduler and --output don't work",
            fix="Leave them out",
        )
    gates = None if compared.max_drop is None else gates_of(max_drop=compared.max_drop)
    with clean_stdout() as out:
        reporter = Reporter(quiet)
        what = (bundles, images, num_eval_samples, seed, scaling.threads, reporter)
        if browser is not None:
            from edgekit.devices.web.evaluate import evaluate_in_browser

            evaluation = evaluate_in_browser(browser, *what, reference=compared.reference, gates=gates)
        else:
            scale = Scale(scaling.workers, scaling.scheduler, scaling.output)
            evaluation = evaluate_bundles(*what, scale, reference=compared.reference, gates=gates)
        if json_:
            emit(out, evaluation)
            for warning in evaluation.warnings:
                reporter.warn(warning)
        else:
            from edgekit.cli.measured import accuracy_answer
            from edgekit.cli.next_steps import after_evaluate

            out.writelines(f"{line}\n" for line in accuracy_answer(evaluation, answer_width(), wide))
            count = evaluation.evaluation.count
            show_steps(after_evaluate(evaluation.results, count, images, Typed.of(context)), out)
    title, rows, meaningful = "edgekit evaluate", evaluation.results, evaluation.accuracy_meaningful
    write_files(
        files,
        lambda: junit_of_rows(title, rows, meaningful, evaluation.doubts),
        lambda: summary_of_rows(title, rows, meaningful, evaluation.warnings),
    )
    return 0 if all(row.verdict == "pass" for row in evaluation.results) else 1
