"""The steps that make bundles as commands: quantize and compile."""

from pathlib import Path
from typing import Any

from edgekit import api
from edgekit.cli import completion, panels
from edgekit.cli.arguments import MODELS, ONE_MODEL, argument
from edgekit.cli.command import command
from edgekit.cli.output import Answer
from edgekit.errors import UsageError
from edgekit.job import Job
from edgekit.job.job import MAKING, MODEL, flag_of


@command(
    panels.MORE,
    *MAKING,
    defaults={"data": f"{panels.REQUIRED}, unless --calibration-data is given"},
    helps={"output": "Folder for the graphs, calibration.json and stored results."},
)
def quantize(stated: dict[str, Any], quiet: bool, model: str = ONE_MODEL) -> Answer:
    """Calibrate a model and write one quantized graph per runtime.

    `edgekit compile` turns the graphs into int8 bundles.
    """
    job = Job.of(model, stated)
    if job.calibration_data is None:
        job.check_data()
    job.check_output()
    with api.running(quiet) as reporter:
        from edgekit.pipeline.steps import quantize_model

        quantized = quantize_model(job, reporter)
    return Answer(quantized, quantized.graphs, passed=not quantized.failures)


@command(
    panels.MORE,
    *MODEL,
    *("task", "data", "targets", "device_class", "recipe", "seed", "output"),
    defaults={"data": f"{panels.REQUIRED} for a model", "output": "runs/MODEL; graphs need the option"},
    helps={"output": "Folder for the bundles."},
    name="compile",
)
def compile_(
    stated: dict[str, Any],
    quiet: bool,
    source: str = argument(
        "SOURCE",
        f"A folder that `edgekit quantize` wrote; or a model to compile in float: a {MODELS}.",
        autocompletion=completion.models,
    ),
) -> Answer:
    """Compile quantized graphs to int8 bundles, or a model to float bundles.

    A few images check that a float bundle gives the same outputs as torch.
    """
    job = Job.of(source, {"num_calibration_samples": 8, **stated})
    of_graphs = Path(source).is_dir() and not job.model_options.is_checkpoint
    if not of_graphs:
        job.check()
    elif unused := sorted(stated.keys() - {"output"}):
        raise UsageError(
            f"{flag_of(unused[0])} was given for '{source}', whose graphs are made already",
            valid="--output FOLDER",
            fix="Give it to `edgekit quantize`, or leave it out",
        )
    elif job.output is None:
        raise UsageError("no output folder was given", valid="a new folder", fix="Name one with --output FOLDER")
    with api.running(quiet) as reporter:
        from edgekit.pipeline.steps import compile_graphs, compile_model

        compiled = compile_graphs(Path(source), job.folder, reporter) if of_graphs else compile_model(job, reporter)
    return Answer(compiled, compiled.bundles, passed=not compiled.failures)
