"""Takes the smallest classifier of each of timm's model modules through edgekit, for all three runtimes.

    python -m benchmarks.coverage --data imagenet-500.zip
    python -m benchmarks.coverage --data imagenet-500.zip --modules swin_transformer,vgg --again
    make figures

The weights are seeded random ones, so parity, agreement and the signal-to-noise ratio are meaningful, but accuracy
isn't. Each network runs in a separate process, with a limit of time and memory. benchmarks/coverage.json has a row
for each module and runtime: its figures, or the stage that failed and the reason. The benchmark continues with the
modules that have no rows. `--again` also repeats the others, and `--failed` those with a row that failed.

To save time, a network runs at the smallest side of 128, 160, 192, 224 and 256 pixels that it accepts, unless its own
is smaller. `--full-size` keeps its own.
"""

import argparse
import json
import multiprocessing
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import timm

from benchmarks.coveragelib.measure import Request, measure_within
from benchmarks.coveragelib.smallest import Smallest, smallest_models
from benchmarks.recording import new_recording
from benchmarks.rows import Row, keep_rows, read_rows
from edgekit.config.runtimes import RUNTIMES

ROWS = Path(__file__).resolve().parent / "coverage.json"
KEYS = ("module", "target")
PRELOADED = ("benchmarks.coveragelib.measure", "litert_torch", "onnxscript", "onnxruntime", "torch.onnx")
"""What the process imports once from which those of the networks are forked."""


@dataclass(frozen=True)
class Limits:
    seconds: float
    memory_gib: float


def run_module(module: str, smallest: Smallest, request: Request, limits: Limits) -> list[Row]:
    """Measure a module in a separate process. If it crashes or takes too long, the rows give that as the reason."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(PRELOADED))
    with tempfile.TemporaryDirectory() as folder:
        rows = Path(folder) / "rows.json"
        process = context.Process(target=measure_within, args=(request, rows, limits.memory_gib))
        start = time.monotonic()
        process.start()
        process.join(limits.seconds)
        seconds = round(time.monotonic() - start, 1)
        late = process.is_alive()
        process.kill()
        process.join()
        measured = read_rows(rows)
    if late:
        failed = {"error": "TimeoutExpired", "reason": f"takes longer than {limits.seconds:.0f} s", "stage": "time"}
    else:
        failed = {"error": "Crash", "reason": f"the process ended with status {process.exitcode}", "stage": "process"}
    facts = {"module": module, "model": smallest.model, "params": smallest.params, "seconds": seconds}
    missing = [target for target in request.targets if target not in {row["target"] for row in measured}]
    return [*measured, *({**facts, "target": target, **failed} for target in missing)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--modules", help="names of timm's modules, separated by commas; by default all")
    parser.add_argument("--targets", nargs="+", default=tuple(RUNTIMES), choices=tuple(RUNTIMES))
    parser.add_argument("--again", action="store_true", help="also measure the modules that have rows")
    parser.add_argument("--failed", action="store_true", help="also measure the modules with a row that failed")
    parser.add_argument("--full-size", action="store_true", help="run networks at their own input size")
    parser.add_argument("--calibration", type=int, default=8, help="number of calibration images")
    parser.add_argument("--seconds", type=float, default=900, help="most seconds for one network")
    parser.add_argument("--memory", type=float, default=10, help="most GiB of memory for one network")
    args = parser.parse_args()
    modules = args.modules.split(",") if args.modules else timm.list_modules()
    models = smallest_models(modules)
    done: dict[str, bool] = {}
    for row in read_rows(ROWS):
        done[row["module"]] = done.get(row["module"], True) and not (args.failed and "reason" in row)
    wanted = [module for module in modules if args.again or not done.get(module, False)]
    for module in sorted(wanted, key=lambda module: models[module].params):
        smallest = models[module]
        request = Request(
            module, smallest.model, args.data, smallest.side, args.full_size, dict(smallest.model_args),
            args.calibration, targets=tuple(args.targets),
        )  # fmt: skip
        rows = run_module(module, smallest, request, Limits(args.seconds, args.memory))
        keep_rows(ROWS, rows, KEYS, new_recording())
        for row in rows:
            print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
