"""Times how long it takes to make bundles, stage by stage, beside the stock tools that make the same files.

    python -m benchmarks.making --models demo
    python -m benchmarks.making --models demo,convnextv2_atto --data imagenet-500.zip

`edgekit deploy` makes a float and an INT8 bundle for each runtime and measures them, with its defaults. The stock tools
make a float and an INT8 file for each runtime from the same network and calibration images, and measure nothing. Each
runs in a new process, and its imports count.
benchmarks/making.json has one row for each model. One of the same code and machine is timed again only with --again.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

from benchmarks.machine import when_idle
from benchmarks.recording import names_of_today, new_recording
from benchmarks.rows import Row, keep_rows, read_rows
from edgekit.support.libraries import SLEEPING

HERE = Path(__file__).resolve().parent
MODELS = (
    "demo",
    "convnextv2_atto",
    "convnextv2_tiny",
    "resnet18",
    "resnet50",
    "vit_small_patch16_224",
    "mobilenetv3_large_100",
)
MAKERS = ("edgekit", "stock")
IMAGES = 128, 100
"""Number of images for calibration and for evaluation."""
STOCK_INT8 = ("nncf.quantize TRANSFORMER", "quantize_static", "litert-quantizer static")
"""The stock INT8 of each runtime."""
PARTS = {"calibrate": "calibrate", "compile": "compile", "evaluate": "measure", "time": "measure"}
"""The part of the job that a stage belongs to, by the first word after its bundle's name; others belong to `rest`."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default=",".join(MODELS), help=f"default: {', '.join(MODELS)}")
    parser.add_argument("--data", type=Path, help="ImageNet images, which every model but demo needs")
    parser.add_argument("--again", action="store_true", help="time models again that the JSON has")
    parser.add_argument("--maker", choices=MAKERS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    names = args.models.split(",")
    if unknown := set(names) - set(MODELS):
        parser.error(f"unknown model {', '.join(sorted(unknown))}; valid models are {', '.join(MODELS)}")
    if args.data is None and set(names) != {"demo"}:
        parser.error("name ImageNet images with --data; without them run --models demo")
    if args.maker:  # in the process that `seconds_of` started
        print(json.dumps((edgekit_seconds if args.maker == "edgekit" else stock_seconds)(names[0], args.data)))
        return
    path, recording = HERE / "making.json", new_recording()
    current = set() if args.again else names_of_today(HERE, recording)
    recorded = {row["model"] for row in read_rows(path) if row.get("recording") in current}
    for name in [name for name in names if name not in recorded]:
        both, _ = when_idle(partial(seconds_of_both, name, args.data), name)
        row: Row = {"model": name, "images": list(IMAGES), **both}
        keep_rows(path, [row], ("model",), recording)
        print(row)


def seconds_of_both(name: str, data: Path | None) -> dict[str, dict[str, float]]:
    """Seconds of each part of each maker, one after the other, so that one look at the clock covers both."""
    return {maker: seconds_of(maker, name, data) for maker in MAKERS}


def seconds_of(maker: str, name: str, data: Path | None) -> dict[str, float]:
    """Seconds of each part, and of the whole process, of one maker in a fresh process."""
    more = [] if data is None else ["--data", str(data)]
    command = [sys.executable, "-m", "benchmarks.making", "--maker", maker, "--models", name, *more]
    environment = os.environ | dict([SLEEPING]) if maker == "edgekit" else None  # as the command has it
    start = time.monotonic()
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
    whole = time.monotonic() - start
    parts: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return {part: round(seconds, 1) for part, seconds in {**parts, "whole": whole}.items()}


def edgekit_seconds(name: str, data: Path | None) -> dict[str, float]:
    """Deploy a model; returns the seconds of each part."""
    from benchmarks.peerlib.models import job_of
    from edgekit.pipeline.deploy import deploy
    from edgekit.support.progress import Reporter, Step

    seconds: defaultdict[str, float] = defaultdict(float)

    class Timed(Reporter):
        """Adds up the seconds of the stages that it shows."""

        @contextmanager
        def stage(self, title: str, total: int | None = None) -> Iterator[Step]:
            start = time.monotonic()
            with super().stage(title, total) as step:
                yield step
            seconds[PARTS.get(title.rpartition(": ")[2].split()[0], "rest")] += time.monotonic() - start

    with tempfile.TemporaryDirectory(prefix="edgekit-") as folder:
        deploy(replace(job_of(name, data, IMAGES), min_speedup=0, output=Path(folder) / "run"), Timed())
    return dict(seconds)


def stock_seconds(name: str, data: Path | None) -> dict[str, float]:
    """Make the stock tools' files of a model; returns the seconds for each runtime."""
    from benchmarks.peerlib.builds import Stock
    from benchmarks.peerlib.models import job_of
    from edgekit.config.runtimes import RUNTIMES
    from edgekit.pipeline.loading import load_job
    from edgekit.support.progress import Reporter

    spec, _ = load_job(job_of(name, data, IMAGES), Reporter(quiet=True))
    preprocessing, seconds = spec.network.preprocessing, {}
    crops = spec.calibration_dataset.crop(spec.calibration.samples, preprocessing)
    calibration = [preprocessing.normalize(pixels) for pixels in crops.pixels]
    assert spec.network.module is not None
    with tempfile.TemporaryDirectory(prefix="edgekit-") as folder:
        stock = Stock(spec.network.module, calibration, Path(folder))
        for runtime in RUNTIMES:
            start = time.monotonic()
            for candidate, why in stock.candidates((runtime,), STOCK_INT8):
                if why is not None:
                    raise RuntimeError(f"{candidate.name}: {why}")
            seconds[runtime] = time.monotonic() - start
    return seconds


if __name__ == "__main__":
    main()
