"""The steps of the job as commands: quantize, compile, evaluate and benchmark."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgekit.cli import panels
from edgekit.cli.app import app
from edgekit.cli.arguments import Bundles, Model
from edgekit.cli.groups import (
    Calibrating,
    Devices,
    EvalCount,
    Iterations,
    Json,
    Labelled,
    Making,
    Offline,
    Quiet,
    Scheme,
    Seed,
    Source,
    Sustain,
    Threads,
    Warmup,
    flat,
)
from edgekit.cli.options import data_of, devices_of, job_options, model_options, scheme_of, seconds_of
from edgekit.cli.output import clean_stdout, emit
from edgekit.errors import UsageError
from edgekit.support.libraries import needs

if TYPE_CHECKING:
    from edgekit.measure.evaluate_bundles import EvaluatedBundle
    from edgekit.report.row import Row

BENCHMARK_EXAMPLES = """
Examples:
  edgekit benchmark runs/demo/onnx-float runs/demo/onnx-int8
  edgekit benchmark runs/demo/tflite-int8 --device pi5 --threads 4
  edgekit benchmark runs/demo/tflite-int8 --device pi5 --sustain 10m
"""


@app.command(rich_help_panel=panels.STEPS)
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
    with clean_stdout() as out:
        reporter = Reporter(quiet)
        with needs("build"):
            from edgekit.pipeline.steps import QuantizedGraphs, quantize_model
        folders = quantize_model(options, reporter)
        if json_:
            emit(out, QuantizedGraphs(graphs=tuple(map(str, folders))))
        else:
            out.writelines(f"{folder}\n" for folder in folders)
    return 0


@app.command(name="compile", rich_help_panel=panels.STEPS)
@flat
def compile_(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="A folder that `edgekit quantize` wrote, or a model to compile in float: a timm name, open_clip:NAME "
            "or module:factory.",
        ),
    ],
    making: Making,
    network: Source,
    json_: Json = False,
    quiet: Quiet = False,
) -> int:
    """Compile quantized graphs to int8 bundles, or a model to float bundles."""
    from edgekit.support.progress import Reporter

    with clean_stdout() as out:
        reporter = Reporter(quiet)
        with needs("build"):
            from edgekit.pipeline.steps import CompiledBundles, compile_graphs, compile_model
        if Path(source).is_dir():
            if making.output is None:
                raise UsageError("no place for the bundles was given: name a folder with --output DIR.")
            made = compile_graphs(Path(source), making.output, reporter)
        else:
            options = job_options(
                model_options(source, making.weights, network), making, Calibrating(num_calibration_samples=8)
            )
            made = compile_model(options, reporter)
        if json_:
            emit(out, CompiledBundles(bundles=tuple(str(bundle.path) for bundle in made)))
        else:
            out.writelines(f"{bundle.path}\n" for bundle in made)
    return 0


@app.command(rich_help_panel=panels.STEPS)
def evaluate(
    bundles: Bundles,
    data: Labelled = None,
    num_eval_samples: EvalCount = None,
    seed: Seed = 0,
    threads: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            show_default="all cores, or 1 for each of several workers",
            rich_help_panel=panels.MEASUREMENT,
            help="Number of threads that the runtime uses in each process.",
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            show_default="1, in this process",
            rich_help_panel=panels.MEASUREMENT,
            help="Number of processes to spread the images over.",
        ),
    ] = None,
    scheduler: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            rich_help_panel=panels.MEASUREMENT,
            help="Address of a Dask scheduler, such as tcp://HOST:8786, whose workers evaluate too. They need the "
            "bundles and images at the same paths. Dask sends pickles, which can run code, so use it only between "
            "machines that you trust, on a private network.",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FOLDER",
            rich_help_panel=panels.OUTPUT,
            help="Folder for finished parts, from which the same command resumes after an interruption.",
        ),
    ] = None,
    json_: Json = False,
    quiet: Quiet = False,
) -> int:
    """Measure the accuracy of bundles on labelled images.

    Prints top-1 and top-5 accuracy, and each bundle's drop against the first.
    """
    from edgekit.measure.evaluate_bundles import Scale, evaluate_bundles
    from edgekit.support.progress import Reporter

    with clean_stdout() as out:
        scale = Scale(workers, scheduler, output)
        found = evaluate_bundles(bundles, data_of(data), num_eval_samples, seed, threads, Reporter(quiet), scale)
        if json_:
            emit(out, found)
        else:
            out.writelines(_accuracy_line(row) for row in found.results)
    return 0 if all(row.verdict == "pass" for row in found.results) else 1


@app.command(rich_help_panel=panels.STEPS, epilog=BENCHMARK_EXAMPLES)
def benchmark(
    context: typer.Context,
    bundles: Bundles,
    device: Devices = None,
    offline: Offline = False,
    threads: Threads = None,
    warmup: Warmup = 20,
    iterations: Iterations = 200,
    sustain: Sustain = None,
    json_: Json = False,
    quiet: Quiet = False,
) -> int:
    """Measure the latency and memory of bundles, here or on devices.

    The bundles take turns, so that all of them meet the same conditions. Each
    is compared with the first one; on a device, with the first one of the
    same runtime, in a process for each runtime.
    """
    given = context.get_parameter_source("iterations")
    if sustain is not None and given is not None and given.name == "COMMANDLINE":
        raise UsageError("--sustain and --iterations were both given: a run takes a time or a number of rounds.")
    from edgekit.devices.benchmark import benchmark_devices
    from edgekit.measure.settings import Settings
    from edgekit.support.progress import Reporter

    with clean_stdout() as out:
        settings, devices = Settings(threads, warmup, iterations, seconds_of(sustain)), devices_of(device)
        found = benchmark_devices(bundles, devices, settings, Reporter(quiet), offline)
        if json_:
            emit(out, found)
        else:
            out.writelines(f"{line}\n" for row in found.results for line in _latency_lines(row, len(devices) > 1))
    return 0 if all(row.verdict == "pass" for row in found.results) else 1


def _accuracy_line(row: "EvaluatedBundle") -> str:
    accuracy = row.accuracy
    if accuracy is None:
        return f"{row.bundle}: {'; '.join(row.reasons)}\n"
    low, high = accuracy.drop_ci95_points
    return (
        f"{row.bundle}: top-1 {accuracy.top1:.2%}, top-5 {accuracy.top5:.2%}, "
        f"drop {accuracy.drop_top1_points:+.2f} points [{low:+.2f}, {high:+.2f}], "
        f"{accuracy.right_to_wrong} right to wrong, {accuracy.wrong_to_right} wrong to right "
        f"(McNemar p = {accuracy.mcnemar_p:.2g}), agreement {accuracy.agreement:.2%}, n = {accuracy.count}\n"
    )


def _latency_lines(row: "Row", several: bool) -> Iterator[str]:
    """A row's figures; for a sustained run its course; then why it did not pass, and what is remarked on it."""
    from edgekit.report.telemetry_text import sustain_lines

    time, faster = row.latency_ms, row.speedup
    emulated = " (emulated: not a device's times)" if row.device.emulated else ""
    name = f"{row.device.name}{emulated}: {row.name}" if several or emulated else row.name
    if time is None:
        yield f"{name}: {'; '.join(row.reasons)}"
        return
    versus = f", {faster.ratio:.2f}x {faster.versus}" if faster else ""
    yield (
        f"{name}: p50 {time.p50:.2f} ms, p90 {time.p90:.2f}, p99 {time.p99:.2f}, {time.threads} threads, "
        f"n = {time.count}, peak {(row.peak_rss_bytes or 0) / 1e6:.0f} MB{versus}"
    )
    yield from sustain_lines(name, row)
    for note in row.notes:
        yield f"{name}: {row.verdict}: {note}"
