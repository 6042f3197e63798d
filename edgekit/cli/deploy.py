"""`edgekit deploy` and `edgekit demo`, which run the whole job."""

from dataclasses import replace

import typer

from edgekit.cli import panels
from edgekit.cli.app import app
from edgekit.cli.arguments import Model
from edgekit.cli.for_pipelines import check_files, write_files
from edgekit.cli.groups import Calibrating, ForPipelines, Making, MakingDemo, Measuring, Source, Wanted, flat
from edgekit.cli.options import demo_options, job_options, model_options, precisions_of, scheme_of
from edgekit.cli.output import clean_stdout, emit, loading
from edgekit.cli.shared import DryRun, Json, Quiet
from edgekit.pipeline.options import Options, check_scheme

DEPLOY_EXAMPLES = """
Examples:
  edgekit deploy resnet18 --data photos
  edgekit deploy resnet18 --weights best.pth --model-args num_classes=10 \\
      --labels labels.txt --data validation.zip
  edgekit deploy resnet18 --data photos --device pi5 --target tflite
  edgekit deploy resnet18 --data photos --max-drop 0.5 --json > report.json
  edgekit deploy resnet18 --data photos --junit junit.xml --summary summary.md
"""


@app.command(rich_help_panel=panels.COMMANDS, epilog=DEPLOY_EXAMPLES)
@flat
def deploy(
    context: typer.Context,
    model: Model,
    making: Making,
    calibrating: Calibrating,
    measuring: Measuring,
    source: Source,
    wanted: Wanted,
    files: ForPipelines,
    json_: Json = False,
    quiet: Quiet = False,
    dry_run: DryRun = False,
) -> int:
    """Quantize, compile, evaluate, benchmark and report, for every runtime.

    The run folder then holds a float and an int8 bundle for each runtime, and
    the report in several formats. The exit code is 0 if every bundle passed
    its gates and 1 if not. After an interruption, the same command resumes.
    """
    network = model_options(model, making.weights, source)
    options = job_options(network, making, calibrating, measuring, context.obj)
    return _run(options, wanted, files, json_, quiet, dry_run)


@app.command(rich_help_panel=panels.COMMANDS)
@flat
def demo(
    context: typer.Context,
    making: MakingDemo,
    calibrating: Calibrating,
    measuring: Measuring,
    wanted: Wanted,
    files: ForPipelines,
    json_: Json = False,
    quiet: Quiet = False,
    dry_run: DryRun = False,
) -> int:
    """Run `edgekit deploy` on the model and images that come with edgekit.

    The model is a small ConvNeXt V2, the images are from CIFAR-10.
    """
    options = demo_options(making, calibrating, measuring, context.obj)
    return _run(options, wanted, files, json_, quiet, dry_run)


def _run(options: Options, wanted: Wanted, files: ForPipelines, json_: bool, quiet: bool, dry_run: bool) -> int:
    """Run or plan the job, and print the result."""
    from edgekit.report.junit import junit_of_report
    from edgekit.report.markdown import summary_of_report
    from edgekit.support.progress import Reporter

    check_files(files)
    options = replace(
        options,
        precisions=precisions_of(wanted.precision),
        scheme=scheme_of(wanted.scheme),
        check_stability=wanted.check_stability,
    )
    if options.scheme:
        check_scheme(options.scheme, options.targets)
    with clean_stdout() as out:
        reporter = Reporter(quiet)
        with loading(reporter):
            from edgekit.pipeline.deploy import deploy as do_job
            from edgekit.pipeline.deploy import plan
            from edgekit.tuning.repair import rank_layers
        if dry_run:
            planned = plan(options, reporter)
            if json_:
                emit(out, planned)
            else:
                out.writelines(f"{key}: {value}\n" for key, value in vars(planned).items())
            return 0
        report = do_job(options, reporter, None if wanted.no_repair else rank_layers)
        if json_:
            emit(out, report)
        else:
            from rich.console import Console

            from edgekit.report import render_table

            render_table(report, Console(file=out))
            out.write(f"\n{options.folder}/report.html\n")
    write_files(
        files,
        lambda: junit_of_report(report),
        lambda: summary_of_report(report),
    )
    return 0 if all(row.verdict == "pass" for row in report.results) else 1
