"""The steps of the job as commands: quantize, compile, evaluate and benchmark."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgekit.cli import completion, panels
from edgekit.cli.app import app
from edgekit.cli.arguments import Bundles, Model
from edgekit.cli.checks import check_device_class, check_images, check_recipe, check_scheduler
from edgekit.cli.for_pipelines import check_files, write_files
from edgekit.cli.groups import Calibrating, ForPipelines, Making, Source, flat
from edgekit.cli.options import data_of, devices_of, job_options, model_options, scheme_of, seconds_of, targets_of
from edgekit.cli.output import clean_stdout, emit, loading
from edgekit.cli.shared import (
    MOST_THREADS,
    Devices,
    EvalCount,
    Iterations,
    Json,
    Labelled,
    Offline,
    Quiet,
    Scheme,
    Seed,
    Streams,
    Sustain,
    Threads,
    Warmup,
)
from edgekit.errors import UsageError
from edgekit.pipeline.options import Options, check_scheme

if TYPE_CHECKING:
    from edgekit.measure.evaluation import EvaluatedBundle
    from edgekit.report.row import Row

BENCHMARK_EXAMPLES = """
Examples:
  edgekit benchmark runs/demo/onnx-float runs/demo/onnx-int8
  edgekit benchmark runs/demo/tflite-int8 --device pi5 --threads 4
  edgekit benchmark runs/demo/tflite-int8 --device pi5 --sustain 10m
  edgekit benchmark runs/demo/tflite-int8 --device pi5 --streams 4 --threads 1
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


@app.command(name="compile", rich_help_panel=panels.STEPS)
@flat
def compile_(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            autocompletion=completion.models,
            help="A folder that `edgekit quantize` wrote, or a model to compile in float: a timm name, open_clip:NAME, "
            "module:factory or a .onnx file.",
        ),
    ],
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
    if not Path(source).is_dir():
        return job_options(model, making, Calibrating(num_calibration_samples=8))
    targets_of(making.target)
    check_device_class(making.device_class)
    check_recipe(making.recipe)
    if making.data is not None:
        check_images(making.data)
    if making.output is None:
        raise UsageError("no output folder was given", valid="a new folder", fix="Name one with --output FOLDER")
    return making.output


@app.command(rich_help_panel=panels.STEPS)
@flat
def evaluate(
    bundles: Bundles,
    files: ForPipelines,
    data: Labelled = None,
    num_eval_samples: EvalCount = None,
    seed: Seed = 0,
    threads: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=MOST_THREADS,
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
            max=MOST_THREADS,
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

    Prints top-1 and top-5 accuracy, and each bundle's drop compared with the
    first bundle.
    """
    from edgekit.measure.evaluate_bundles import Scale, evaluate_bundles
    from edgekit.report.junit import junit_of_rows
    from edgekit.report.markdown import summary_of_rows
    from edgekit.support.progress import Reporter
    from edgekit.support.run_folder import check_output

    images = data_of(data)
    check_images(images)
    check_scheduler(scheduler)
    check_files(files)
    if output is not None:
        check_output(output)
    with clean_stdout() as out:
        scale = Scale(workers, scheduler, output)
        reporter = Reporter(quiet)
        evaluation = evaluate_bundles(bundles, images, num_eval_samples, seed, threads, reporter, scale)
        if json_:
            emit(out, evaluation)
            for warning in evaluation.warnings:
                reporter.warn(warning)
        else:
            out.writelines(f"warning: {warning}\n" for warning in evaluation.warnings)
            out.writelines(map(_accuracy_line, evaluation.results))
    title, rows, meaningful = "edgekit evaluate", evaluation.results, evaluation.accuracy_meaningful
    write_files(
        files,
        lambda: junit_of_rows(title, rows, meaningful, evaluation.doubts),
        lambda: summary_of_rows(title, rows, meaningful, evaluation.warnings),
    )
    return 0 if all(row.verdict == "pass" for row in evaluation.results) else 1


@app.command(rich_help_panel=panels.STEPS, epilog=BENCHMARK_EXAMPLES)
@flat
def benchmark(
    context: typer.Context,
    bundles: Bundles,
    files: ForPipelines,
    device: Devices = None,
    offline: Offline = False,
    threads: Threads = None,
    warmup: Warmup = 20,
    iterations: Iterations = 200,
    sustain: Sustain = None,
    streams: Streams = None,
    json_: Json = False,
    quiet: Quiet = False,
) -> int:
    """Measure the latency, memory and energy of bundles, here or on devices.

    The bundles take turns, so that all of them meet the same conditions. Each
    is compared with the first one; on a device, with the first one of the
    same runtime, in a process for each runtime.
    """
    iterations_source = context.get_parameter_source("iterations")
    if sustain is not None and iterations_source is not None and iterations_source.name == "COMMANDLINE":
        raise UsageError("--sustain and --iterations were both given", fix="Leave one of them out")
    from edgekit.devices.benchmark import benchmark_devices
    from edgekit.measure.settings import Timing
    from edgekit.report.junit import junit_of_rows
    from edgekit.report.markdown import summary_of_rows
    from edgekit.support.progress import Reporter

    check_files(files)
    with clean_stdout() as out:
        timing, devices = Timing(threads, warmup, iterations, seconds_of(sustain), streams), devices_of(device)
        measured = benchmark_devices(bundles, devices, timing, Reporter(quiet), offline)
        if json_:
            emit(out, measured)
        else:
            out.writelines(f"{line}\n" for row in measured.results for line in _latency_lines(row, len(devices) > 1))
    title, rows = "edgekit benchmark", measured.results
    write_files(files, lambda: junit_of_rows(title, rows), lambda: summary_of_rows(title, rows))
    return 0 if all(row.verdict == "pass" for row in measured.results) else 1


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
    """A row's figures, its energy where a sensor was read, its streams, its sustained run, and the notes on it."""
    from edgekit.report.telemetry_text import energy_words, stream_words, sustain_lines

    latency, speedup = row.latency_ms, row.speedup
    emulated = " (emulated: timings are not comparable)" if row.device.emulated else ""
    name = f"{row.device.name}{emulated}: {row.name}" if several or emulated else row.name
    if latency is None:
        yield f"{name}: {'; '.join(row.reasons)}"
        return
    versus = f", {speedup.ratio:.2f}x {speedup.versus}" if speedup else ""
    yield (
        f"{name}: p50 {latency.p50:.2f} ms, p90 {latency.p90:.2f}, p99 {latency.p99:.2f}, {latency.threads} threads, "
        f"n = {latency.count}, peak {(row.peak_rss_bytes or 0) / 1e6:.0f} MB{versus}"
    )
    if row.energy and row.energy.inference_mj is not None:
        yield f"{name}: {energy_words(row.energy)}"
    if words := stream_words(row):
        yield f"{name}: {words}"
    yield from sustain_lines(name, row)
    for note in row.notes:
        yield f"{name}: {row.verdict}: {note}"
