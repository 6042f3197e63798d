"""The command benchmark: the latency, memory and energy of bundles, here or on devices."""

from pathlib import Path
from typing import Any

from edgekit import api
from edgekit.cli import panels
from edgekit.cli.arguments import BUNDLES
from edgekit.cli.command import command
from edgekit.cli.output import Answer, answer_width
from edgekit.job.job import OF_BUNDLE

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
    of=api.benchmark,
    defaults={"threads": OF_BUNDLE, "min_speedup": "no gate"},
    helps={
        "min_speedup": "Required speedup over the fastest float bundle of the runtime, or over the first bundle if all "
        "of them have one precision. The whole 95 % confidence interval must lie above it.",
    },
    shown=("devices", "threads", "iterations", "min_speedup"),
    judges=True,
    epilog=EXAMPLES,
)
def benchmark(stated: dict[str, Any], quiet: bool, bundles: list[Path] = BUNDLES) -> Answer:
    """Measure the latency, memory and energy of bundles, here or on devices.

    The bundles take turns, so that all of them meet the same conditions; on a
    device, each runtime has a process. Int8 bundles are compared with the
    fastest float bundle of their runtime, in bf16 or f16 where the runtime
    would choose that, and others with the first one. The exit code is 1 if a
    bundle misses --min-speedup, or if the timing is too unsteady to tell.
    """
    from edgekit.cli.measured import latency_answer
    from edgekit.cli.next_steps import after_benchmark
    from edgekit.report.junit import junit_of_rows
    from edgekit.report.markdown import summary_of_rows

    measured = api.benchmark(bundles, quiet=quiet, **stated)
    rows, title = measured.results, "edgekit benchmark"
    return Answer(
        measured,
        latency_answer(rows, answer_width()),
        after_benchmark(rows),
        passed=all(row.verdict == "pass" for row in rows),
        junit=lambda: junit_of_rows(title, rows),
        summary=lambda: summary_of_rows(title, rows),
    )
