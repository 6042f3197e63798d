"""The steps that make bundles as commands: quantize and compile."""

from dataclasses import replace
from pathlib import Path

from edgekit.cli import panels
from edgekit.cli.app import app
from edgekit.cli.arguments import Model, ModelOrGraphs
from edgekit.cli.checks import check_device_class, check_images, check_recipe
from edgekit.cli.described import described
from edgekit.cli.flat import flat
from edgekit.cli.groups import Calibrating, Making, Source
from edgekit.cli.options import job_options, model_options, scheme_of, targets_of
from edgekit.cli.output import clean_stdout, emit, loading
from edgekit.cli.shared import Json, Quiet, Scheme
from edgekit.compat.typer import REQUIRED
from edgekit.errors import UsageError
from edgekit.pipeline.options import Options, check_scheme


@app.command(rich_help_panel=panels.MORE)
@described({}, {"output": "Folder for the graphs, calibration.json and stored results."})
@flat
def quantize(
    model: Model,
    making: Making,
    calibrating: Calibrating,
    source: Source,
    scheme: Scheme = None,
    json_: Json = False,
    quiet: Quiet = False,
) -> int:
    """Calibrate a model and write one quantized graph per runtime.

    `edgekit compile` turns the graphs into int8 bundles.
    """
    from edgekit.support.progress import Reporter

    options = job_options(model_options(model, making.weights, source), making, calibrating)
    options = replace(options, scheme=scheme_of(scheme))
    if options.scheme:
        check_scheme(options.scheme, options.targets)
    with clean_stdout() as out:
        reporter = Reporter(quiet)
        with loading(reporter):
            from edgekit.pipeline.steps import quantize_model
        quantized = quantize_model(options, reporter)
        if json_:
            emit(out, quantized)
        else:
            out.writelines(f"{folder}\n" for folder in quantized.graphs)
    return 1 if quantized.failures else 0


@app.command(name="compile", rich_help_panel=panels.MORE)
@described(
    {"data": f"{REQUIRED} for a model", "output": "runs/MODEL; graphs need the option"},
    {"output": "Folder for the bundles."},
)
@flat
def compile_(
    source: ModelOrGraphs,
    making: Making,
    network: Source,
    json_: Json = False,
    quiet: Quiet = False,
) -> int:
    """Compile quantized graphs to int8 bundles, or a model to float bundles.

    A few images check that a float bundle gives the same outputs as torch.
    """
    from edgekit.support.progress import Reporter

    job = _compile_job(source, making, network)
    with clean_stdout() as out:
        reporter = Reporter(quiet)
        with loading(reporter):
            from edgekit.pipeline.steps import compile_graphs, compile_model
        if isinstance(job, Options):
            compiled = compile_model(job, reporter)
        else:
            compiled = compile_graphs(Path(source), job, reporter)
        if json_:
            emit(out, compiled)
        else:
            out.writelines(f"{bundle}\n" for bundle in compiled.bundles)
    return 1 if compiled.failures else 0


def _compile_job(source: str, making: Making, network: Source) -> Options | Path:
    """The job of compiling a model; for a folder of graphs, which know their own job, only the output folder."""
    model = model_options(source, making.weights, network)
    if not Path(source).is_dir() or model.is_checkpoint:
        return job_options(model, making, Calibrating(num_calibration_samples=8))
    targets_of(making.target)
    check_device_class(making.device_class)
    check_recipe(making.recipe)
    if making.data is not None:
        check_images(making.data)
    if making.output is None:
        raise UsageError("no output folder was given", valid="a new folder", fix="Name one with --output FOLDER")
    return making.output
