"""Takes the smallest classifier of each of timm's model modules through edgekit, for all three runtimes.

    python -m benchmarks.coverage --data imagenet-500.zip
    python -m benchmarks.coverage --data imagenet-500.zip --modules swin_transformer,vgg --again
    python -m benchmarks.coverage --data imagenet-500.zip --models davit_tiny --imgsz 112 --calibration 32 --count 100
    make figures

The weights are seeded random ones, so parity, agreement and the signal-to-noise ratio are meaningful, but accuracy
isn't. Each network runs in a separate process, with a limit of time and memory. benchmarks/coverage.json has a row
for each module and runtime: its figures, or the stage that failed and the reason. The benchmark continues with the
modules that have no rows. `--again` also repeats the others, and `--failed` those with a row that failed.

To save time, a network runs at the smallest side of 128, 160, 192, 224 and 256 pixels that it accepts, unless its own
is smaller. `--full-size` keeps its own. `--models` measures these models instead, such as small members of the families
of the ImageNet leaderboard. Their rows are in benchmarks/leaderboard.json.
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
ROWS_OF_MODELS = ROWS.with_name("leaderboard.json")
KEYS = ("module", "target")
PRELOADED = ("benchmarks.coveragelib.measure", "litert_torch", "onnxscript", "onnxruntime", "torch.onnx")
"""What the process imports once from which those of the networks are forked."""


@dataclass(frozen=True)
class Limits:
    seconds: float
    memory_gib: float


def run_apart(request: Request, limits: Limits) -> list[Row]:
    """Measure a model in a separate process. If it crashes or takes too long, the rows give that as the reason."""
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
    facts = {**request.facts, "model": request.model, "seconds": seconds}
    missing = [target for target in request.targets if target not in {row["target"] for row in measured}]
    return [*measured, *({**facts, "target": target, **failed} for target in missing)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--modules", help="names of timm's modules, separated by commas; by default all")
    parser.add_argument("--models", help="names of models to measure instead, separated by commas")
    parser.add_argument("--imgsz", type=int, help="input side in pixels of --models; by default the model's own")
    parser.add_argument("--targets", nargs="+", default=tuple(RUNTIMES), choices=tuple(RUNTIMES))
    parser.add_argument("--again", action="store_true", help="also measure the modules that have rows")
    parser.add_argument("--failed", action="store_true", help="also measure the modules with a row that failed")
    parser.add_argument("--full-size", action="store_true", help="run networks at their own input size")
    parser.add_argument("--calibration", type=int, default=8, help="number of calibration images")
    parser.add_argument("--count", type=int, default=16, help="number of images for the figures")
    parser.add_argument("--seconds", type=float, default=900, help="most seconds for one network")
    parser.add_argument("--memory", type=float, default=10, help="most GiB of memory for one network")
    args = parser.parse_args()
    counts, targets = (args.calibration, args.count), tuple(args.targets)
    if args.models:
        file, keys = ROWS_OF_MODELS, ("model", "target")
        requests = [
            Request({}, model, args.data, args.imgsz, True, None, *counts, targets) for model in args.models.split(",")
        ]
    else:
        file, keys = ROWS, KEYS
        requests = [
            Request(
                {"module": module, "params": smallest.params}, smallest.model, args.data, smallest.side,
                args.full_size, dict(smallest.model_args), *counts, targets,
            )
            for module, smallest in wanted(args).items()
        ]  # fmt: skip
    for request in requests:
        rows = run_apart(request, Limits(args.seconds, args.memory))
        keep_rows(file, rows, keys, new_recording())
        for row in rows:
            print(json.dumps(row), flush=True)


def wanted(args: argparse.Namespace) -> dict[str, Smallest]:
    """The modules to measure, those with the smallest networks first."""
    modules = args.modules.split(",") if args.modules else timm.list_modules()
    done: dict[str, bool] = {}
    for row in read_rows(ROWS):
        done[row["module"]] = done.get(row["module"], True) and not (args.failed and "reason" in row)
    models = smallest_models(modules)
    left = [module for module in modules if args.again or not done.get(module, False)]
    return {module: models[module] for module in sorted(left, key=lambda module: models[module].params)}


if __name__ == "__main__":
    main()
