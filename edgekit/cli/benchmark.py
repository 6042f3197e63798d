"""The command benchmark: the latency, memory and energy of bundles, here or on devices."""

from dataclasses import replace
from typing import Annotated

import typer

from edgekit.cli import panels
from edgekit.cli.app import app
from edgekit.cli.arguments import Bundles
from edgekit.cli.flat import flat
from edgekit.cli.for_pipelines import check_files, write_files
from edgekit.cli.groups import MOST_SPEEDUP, ForPipelines
from edgekit.cli.options import devices_of, gates_of, seconds_of, timing_of
from edgekit.cli.output import answer_width, clean_stdout, emit, show_steps
from edgekit.cli.saved_job import bundles_of
from edgekit.cli.shared import (
    Devices,
    Iterations,
    Json,
    Offline,
    Quiet,
    Streams,
    Sustain,
    Threads,
    Warmup,
    WebNetwork,
    WebRuntime,
    Wide,
)
from edgekit.cli.typed import Typed
from edgekit.errors import UsageError

EXAMPLES = """
Examples:
  edgekit benchmark runs/demo-pi5 --device pi5
  edgekit benchmark runs/demo/onnx-float runs/demo/onnx-int8
  edgekit benchmark runs/demo/onnx-float runs/demo/onnx-int8 --min-speedup 1.2
  edgekit benchmark runs/demo-pi5/tflite-int8 --device pi5 --threads 4
  edgekit benchmark runs/demo-pi5/tflite-int8 --device pi5 --sustain 10m
  edgekit benchmark runs/demo-pi5/tflite-int8 --device pi5 --streams 4
"""


@app.command(rich_help_panel=panels.COMMANDS, epilog=EXAMPLES)
@flat
def benchmark(
    context: typer.Context,
    bundles: Bundles,
    files: ForPipelines,
    device: Devices = None,
    offline: Offline = False,
    web_runtime: WebRuntime = None,
    web_network: WebNetwork = None,
    threads: Threads = None,
    warmup: Warmup = 20,
    iterations: Iterations = None,
    sustain: Sustain = None,
    streams: Streams = None,
    min_speedup: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=MOST_SPEEDUP,
            metavar="FACTOR",
            show_default="no gate",
            rich_help_panel=panels.GATES,
            help="Required speedup over the fastest float bundle of the runtime, or over the first bundle if all of "
            "them have one precision. The whole 95 % confidence interval must lie above it.",
        ),
    ] = None,
    wide: Wide = False,
    json_: Json = False,
    quiet: Quiet = False,
) -> int:
    """Measure the latency, memory and energy of bundles, here or on devices.

    The bundles take turns, so that all of them meet the same conditions; on a
    device, each runtime has a process. Int8 bundles are compared with the
    fastest float bundle of their runtime, in bf16 or f16 where the runtime
    would choose that, and others with the first one. The exit code is 1 if a
    bundle misses --min-speedup, or if the timing is too unsteady to tell.
    """
    if sustain is not None and iterations is not None:
        raise UsageError("--sustain and --iterations were both given", fix="Leave one of them out")
    from edgekit.devices.benchmark import benchmark_devices
    from edgekit.report.junit import junit_of_rows
    from edgekit.report.markdown import summary_of_rows
    from edgekit.support.progress import Reporter

    check_files(files)
    bundles = bundles_of(bundles)
    with clean_stdout() as out:
        timing = timing_of(threads, warmup, iterations, min_speedup)
        timing = replace(timing, sustain_s=seconds_of(sustain), streams=streams)
        devices = devices_of(device, offline, web_network, web_runtime)
        gates = gates_of(min_speedup=min_speedup) if min_speedup else None
        measured = benchmark_devices(bundles, devices, timing, Reporter(quiet), gates)
        if json_:
            emit(out, measured)
        else:
            from edgekit.cli.measured import latency_answer
            from edgekit.cli.next_steps import after_benchmark

            out.writelines(f"{line}\n" for line in latency_answer(measured.results, answer_width(), wide))
            show_steps(after_benchmark(measured.results, Typed.of(context)), out)
    title, rows = "edgekit benchmark", measured.results
    write_files(files, lambda: junit_of_rows(title, rows), lambda: summary_of_rows(title, rows))
    return 0 if all(row.verdict == "pass" for row in measured.results) else 1
