"""`edgekit deploy` and `edgekit demo`, which run the whole job."""

from dataclasses import dataclass, replace
from typing import Annotated

import typer

from edgekit.cli import panels
from edgekit.cli.app import app
from edgekit.cli.arguments import ModelOrRun
from edgekit.cli.described import described
from edgekit.cli.flat import flat
from edgekit.cli.for_pipelines import check_files, write_files
from edgekit.cli.groups import Calibrating, ForPipelines, Making, Measuring, Source, Wanted
from edgekit.cli.options import precisions_of, scheme_of
from edgekit.cli.output import clean_stdout, emit, loading, show_report, show_steps
from edgekit.cli.saved_job import DEMO, GivenJob, announce, check_again, continued, run_of, with_output
from edgekit.cli.shared import DryRun, Json, Quiet, Wide
from edgekit.cli.typed import Typed
from edgekit.models.demo import OUTPUT, THREADS
from edgekit.pipeline.options import check_scheme

OF_DEMO = {
    "weights": "edgekit's own",
    "data": "edgekit's own images",
    "calibration_data": "edgekit's own images; with --data, its split train or a part of it",
    "threads": str(THREADS),
    "output": str(OUTPUT),
}
"""Defaults of `edgekit demo`."""
DEPLOY_EXAMPLES = """
Examples:
  edgekit deploy resnet18 --data photos
  edgekit deploy resnet18 --weights best.pth --data photos
  edgekit deploy my-saved-model --data validation.zip --labels labels.txt
  edgekit deploy resnet18 --data photos --device pi5 --target tflite
  edgekit deploy resnet18 --data photos --max-drop 0.5 --json > report.json
  edgekit deploy resnet18 --data photos --junit junit.xml --summary summary.md
  edgekit deploy --again runs/resnet18 --labels corrected.txt
"""


@app.command(rich_help_panel=panels.COMMANDS, epilog=DEPLOY_EXAMPLES)
@flat
def deploy(
    context: typer.Context,
    model: ModelOrRun,
    making: Making,
    calibrating: Calibrating,
    measuring: Measuring,
    source: Source,
    wanted: Wanted,
    files: ForPipelines,
    again: Annotated[
        bool,
        typer.Option(
            "--again",
            rich_help_panel=panels.MODEL,
            help="Run the job of the run folder that is given as MODEL again. Options replace its own.",
        ),
    ] = False,
    wide: Wide = False,
    json_: Json = False,
    quiet: Quiet = False,
    dry_run: DryRun = False,
) -> int:
    """Quantize, compile, evaluate, benchmark and report, for every runtime.

    The run folder then holds a float and an int8 bundle for each runtime, and
    the report in several formats. The exit code is 0 if every bundle passed
    its gates and 1 if not. After an interruption, the same command resumes.
    """
    given = GivenJob(
        model=model, making=making, calibrating=calibrating, measuring=measuring, source=source, wanted=wanted
    )
    command: tuple[str, ...] = context.obj
    if again:
        check_again(model)
    if run := run_of(model, None if again else making.output):
        given = continued(given, run, context)
        command = ("deploy", *given.arguments)
        announce(run, command, quiet)
        given = with_output(given, making.output or run)
    return _run(given, command, files, Printing(Typed.of(context), wide, json_, quiet, dry_run))


@app.command(rich_help_panel=panels.COMMANDS)
@described(OF_DEMO)
@flat
def demo(
    context: typer.Context,
    making: Making,
    calibrating: Calibrating,
    measuring: Measuring,
    wanted: Wanted,
    files: ForPipelines,
    wide: Wide = False,
    json_: Json = False,
    quiet: Quiet = False,
    dry_run: DryRun = False,
) -> int:
    """Run `edgekit deploy` on the model and images that come with edgekit.

    The model is a small ConvNeXt V2, the images are from CIFAR-10.
    """
    given = GivenJob(model=DEMO, making=making, calibrating=calibrating, measuring=measuring, wanted=wanted)
    return _run(given, context.obj, files, Printing(Typed.of(context), wide, json_, quiet, dry_run))


@dataclass(frozen=True)
class Printing:
    """What a job prints, and the command line from which it makes the next ones."""

    typed: Typed
    wide: bool
    json: bool
    quiet: bool
    dry_run: bool


def _run(given: GivenJob, command: tuple[str, ...], files: ForPipelines, printing: Printing) -> int:
    """Run or plan the job, and print the result."""
    from edgekit.report.junit import junit_of_report
    from edgekit.report.markdown import summary_of_report
    from edgekit.support.progress import Reporter

    options = given.options(command)
    check_files(files)
    options = replace(
        options,
        precisions=precisions_of(given.wanted.precision),
        scheme=scheme_of(given.wanted.scheme),
        check_stability=given.wanted.check_stability,
    )
    if options.scheme:
        check_scheme(options.scheme, options.targets)
    with clean_stdout() as out:
        reporter = Reporter(printing.quiet)
        with loading(reporter):
            from edgekit.pipeline.deploy import deploy as do_job
            from edgekit.pipeline.deploy import plan
            from edgekit.tuning.repair import repairs_of
        if printing.dry_run:
            planned = plan(options, reporter)
            if printing.json:
                emit(out, planned)
            else:
                out.writelines(f"{key}: {value}\n" for key, value in vars(planned).items())
            return 0
        report = do_job(options, reporter, None if given.wanted.no_repair else repairs_of)
        if printing.json:
            emit(out, report)
        else:
            from edgekit.cli.next_steps import after_job

            show_report(report, out, printing.wide)
            show_steps(after_job(report, options.folder, printing.typed, options), out)
            out.write(f"\nReport: {options.folder}/report.html\n")
    write_files(
        files,
        lambda: junit_of_report(report),
        lambda: summary_of_report(report),
    )
    return 0 if all(row.verdict == "pass" for row in report.results) else 1
