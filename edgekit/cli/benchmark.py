"""The command benchmark: the latency, memory and energy of bundles, here or on devices."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgekit.cli import panels
from edgekit.cli.arguments import BUNDLES, JSON, JUNIT, QUIET, SUMMARY, WIDE, timing_option
from edgekit.cli.command import command
from edgekit.cli.for_pipelines import ForPipelines
from edgekit.cli.output import answer_width, clean_stdout, show
from edgekit.errors import UsageError
from edgekit.job import Job
from edgekit.job.job import MEASURING, OF_BUNDLE
from edgekit.job.saved import bundles_of

LONGEST_S = 24 * 3600
MOST_STREAMS = 256
EXAMPLES = """
Examples:
  edgekit benchmark runs/demo-pi5 --device pi5
  edgekit benchmark runs/demo/onnx-float runs/demo/onnx-int8
  edgekit benchmark runs/demo/onnx-float runs/demo/onnx-int8 --min-speedup 1.2
  edgekit benchmark runs/demo-pi5/tflite-int8 --device pi5 --threads 4
  edgekit benchmark runs/demo-pi5/tflite-int8 --device pi5 --sustain 10m
  edgekit benchmark runs/demo-pi5/tflite-int8 --device pi5 --streams 4
"""


@command(
    panels.COMMANDS,
    *MEASURING,
    defaults={"threads": OF_BUNDLE, "min_speedup": "no gate"},
    helps={
        "min_speedup": "Required speedup over the fastest float bundle of the runtime, or over the first bundle if all "
        "of them have one precision. The whole 95 % confidence interval must lie above it.",
    },
    shown=("devices", "threads", "iterations", "min_speedup"),
    epilog=EXAMPLES,
)
def benchmark(
    stated: dict[str, Any],
    bundles: list[Path] = BUNDLES,
    sustain: str | None = timing_option(
        "TIME",
        "Run for this long, such as 90s, 10m or 1h30m, in place of --iterations, and report a time series with its "
        "first and last minute.",
    ),
    streams: int | None = timing_option(
        "N",
        "Also measure the images per second of this many sessions side by side. They share the cores unless --threads "
        "states each one's threads.",
        min=1,
        max=MOST_STREAMS,
        show_default="not measured",
    ),
    junit: Path | None = JUNIT,
    summary: Path | None = SUMMARY,
    wide: bool = WIDE,
    json_: bool = JSON,
    quiet: bool = QUIET,
) -> int:
    """Measure the latency, memory and energy of bundles, here or on devices.

    The bundles take turns, so that all of them meet the same conditions; on a
    device, each runtime has a process. Int8 bundles are compared with the
    fastest float bundle of their runtime, in bf16 or f16 where the runtime
    would choose that, and others with the first one. The exit code is 1 if a
    bundle misses --min-speedup, or if the timing is too unsteady to tell.
    """
    if sustain is not None and "iterations" in stated:
        raise UsageError("--sustain and --iterations were both given", fix="Leave one of them out")
    from edgekit.cli.measured import latency_answer
    from edgekit.cli.next_steps import after_benchmark
    from edgekit.devices.benchmark import benchmark_devices
    from edgekit.report.junit import junit_of_rows
    from edgekit.report.markdown import summary_of_rows
    from edgekit.support.progress import Reporter

    files = ForPipelines(junit, summary)
    files.check()
    bundles, job = bundles_of(bundles), Job.of("", stated)
    timing = replace(job.timing, sustain_s=seconds_of(sustain), streams=streams)
    gates = job.gates if job.min_speedup else None
    with clean_stdout() as out:
        measured = benchmark_devices(bundles, job.machines, timing, Reporter(quiet), gates)
        rows = measured.results
        show(out, measured, latency_answer(rows, answer_width(), wide), json_, after_benchmark(rows))
    title = "edgekit benchmark"
    files.write(lambda: junit_of_rows(title, rows), lambda: summary_of_rows(title, rows))
    return 0 if all(row.verdict == "pass" for row in rows) else 1


def seconds_of(text: str | None) -> float | None:
    """Seconds of "90s", "10m", "1h30m" or "90"."""
    if text is None:
        return None
    match = re.fullmatch(r"(?:(\d{1,9})h)?(?:(\d{1,9})m)?(?:(\d{1,9})s?)?", text.strip())
    hours, minutes, seconds = (int(part or 0) for part in match.groups()) if match else (0, 0, 0)
    total = 3600 * hours + 60 * minutes + seconds
    if not 1 <= total <= LONGEST_S:
        raise UsageError(f"--sustain is '{text}'", valid="a time from 1s to 24h, such as 90s, 10m or 1h30m")
    return float(total)
