"""The commands. Everything heavy is imported inside them: --help must be quick."""

import contextlib
import json
import os
import sys
from collections.abc import Iterator
from typing import Annotated, Any

import click
import typer

from edgekit import __version__
from edgekit.cli import options as opt
from edgekit.errors import UsageError
from edgekit.libraries import import_needed

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="From a checkpoint to an INT8 classifier that is proven smaller, faster and as accurate on its device.",
)


def run(arguments: list[str]) -> int:
    """Run one command line; its exit code. EdgekitError and KeyboardInterrupt pass through."""
    command = typer.main.get_command(app)
    try:
        result = command.main(args=arguments, prog_name="edgekit", standalone_mode=False)
    except click.exceptions.Abort:
        raise KeyboardInterrupt from None
    except click.exceptions.Exit as ended:
        return ended.exit_code
    except click.ClickException as error:
        if not arguments:
            error.show()
            return 0
        raise UsageError(f"{error.format_message()} See: edgekit {' '.join(arguments[:1])} --help") from None
    return result if isinstance(result, int) else 0


@contextlib.contextmanager
def clean_stdout() -> Iterator[Any]:
    """While the work goes on, whatever libraries print goes to stderr; yields the real stdout for the result."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        with os.fdopen(os.dup(kept), "w", encoding="utf-8") as real:
            yield real
    finally:
        sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)


def emit(out: Any, value: Any) -> None:
    json.dump(value, out, indent=1, ensure_ascii=False, allow_nan=False)
    out.write("\n")


@app.callback(invoke_without_command=True)
def top(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        print(f"edgekit {__version__}")
        raise typer.Exit


def _job(values: dict[str, Any]) -> Any:
    """Options of a job from a command's arguments."""
    from edgekit.measure import Settings
    from edgekit.models import parse_model_args
    from edgekit.pipeline import ModelOptions, Options
    from edgekit.runtime.base import check_threads

    opt.check_devices(values.get("device"))
    threads = values.get("threads")
    if threads is not None:
        check_threads(threads)
    if values["data"] is None:
        raise UsageError("no images were given: name a folder or zip of labelled images with --data PATH.")
    model_args = parse_model_args(values["model_args"]) if values["model_args"] else {}
    model = ModelOptions(
        name=values["model"],
        weights=values["weights"],
        model_args=values.get("extra_args", {}) | model_args,
        imgsz=opt.size_of(values["imgsz"]),
        mean=opt.triple_of("mean", values["mean"]),
        std=opt.triple_of("std", values["std"]),
        interpolation=values["interpolation"],
        crop_pct=values["crop_pct"],
        labels=values["labels"],
    )
    kept = ("warmup", "iterations", "max_drop", "min_speedup")
    settings = Settings(threads=threads, **{name: values[name] for name in kept if name in values})
    plain = ("data", "calibration_data", "device_class", "recipe", "num_calibration_samples", "seed", "output")
    return Options(
        model=model,
        targets=opt.targets_of(values["target"]),
        num_eval_samples=values.get("num_eval_samples"),
        settings=settings,
        command=tuple(values["command"]),
        **{name: values[name] for name in plain},
    )


def _deploy(values: dict[str, Any]) -> int:
    """What deploy and demo share."""
    from edgekit.progress import Reporter

    with clean_stdout() as out:
        pipeline = import_needed("edgekit.pipeline", "build")
        from edgekit.report import render_table

        options = _job(values)
        reporter = Reporter(values["quiet"])
        if values["dry_run"]:
            planned = pipeline.plan(options, pipeline.prepare(options, reporter))
            if values["json"]:
                emit(out, planned)
            else:
                out.writelines(f"{key}: {value}\n" for key, value in planned.items())
            return 0
        report = pipeline.deploy(options, reporter)
        if values["json"]:
            emit(out, report)
        else:
            from rich.console import Console

            render_table(report, Console(file=out))
            out.write(f"\n{options.folder}/report.html\n")
    return 0 if all(row["verdict"] == "pass" for row in report["results"]) else 1


@app.command()
def deploy(
    model: opt.Model,
    data: opt.Data = None,
    calibration_data: opt.CalibrationData = None,
    weights: opt.Weights = None,
    target: opt.Target = None,
    device: opt.Device = None,
    device_class: opt.DeviceClass = None,
    recipe: opt.RecipeName = None,
    model_args: opt.ModelArgs = None,
    imgsz: opt.Imgsz = None,
    mean: opt.Mean = None,
    std: opt.Std = None,
    interpolation: opt.Interpolation = None,
    crop_pct: opt.CropPct = None,
    labels: opt.Labels = None,
    num_calibration_samples: opt.CalibrationCount = None,
    num_eval_samples: opt.EvalCount = None,
    seed: opt.Seed = 0,
    threads: opt.Threads = None,
    warmup: opt.Warmup = 20,
    iterations: opt.Iterations = 200,
    max_drop: opt.MaxDrop = 1.0,
    min_speedup: opt.MinSpeedup = 1.0,
    output: opt.Output = None,
    json_: opt.Json = False,
    quiet: opt.Quiet = False,
    dry_run: opt.DryRun = False,
) -> int:
    """The whole job: quantize, compile, evaluate, benchmark and report, for every target."""
    return _deploy(_values(locals()))


@app.command()
def demo(
    data: opt.Data = None,
    calibration_data: opt.CalibrationData = None,
    weights: opt.Weights = None,
    target: opt.Target = None,
    device: opt.Device = None,
    device_class: opt.DeviceClass = None,
    recipe: opt.RecipeName = None,
    num_calibration_samples: opt.CalibrationCount = None,
    num_eval_samples: opt.EvalCount = None,
    seed: opt.Seed = 0,
    threads: opt.Threads = None,
    warmup: opt.Warmup = 20,
    iterations: opt.Iterations = 200,
    max_drop: opt.MaxDrop = 1.0,
    min_speedup: opt.MinSpeedup = 1.0,
    output: opt.Output = None,
    json_: opt.Json = False,
    quiet: opt.Quiet = False,
    dry_run: opt.DryRun = False,
) -> int:
    """The whole job on the model and images that edgekit ships."""
    from edgekit.demo import demo_values

    return _deploy(demo_values(_values(locals())))


def _values(given: dict[str, Any]) -> dict[str, Any]:
    """A command's arguments with the command line itself."""
    values = {name.rstrip("_"): value for name, value in given.items()}
    return values | {"command": sys.argv[1:]}


from edgekit.cli import steps  # noqa: E402  the other commands register themselves

__all__ = ["app", "run", "steps"]
