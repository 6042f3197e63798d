"""Runs the whole job for the leaderboard's largest models: memory, seconds, sizes and latency.

    python -m benchmarks.giants --data imagenet-500.zip convnextv2_huge --targets openvino onnx tflite
    make figures

It runs `edgekit deploy` with seeded random weights for each model, of which benchmarks/giant_networks.py builds those
that no library has, and samples the memory of its processes about twice a second. `peak_bytes` is the largest sum,
without the pages of files that the system can drop. benchmarks/giants.json has one row for each model and target;
measuring it again replaces the row.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from benchmarks.machine import memory_of_tree
from benchmarks.recording import new_recording
from benchmarks.rows import keep_rows
from edgekit.config.runtimes import RUNTIMES

HERE = Path(__file__).resolve().parent
ROWS = HERE / "giants.json"
TARGETS = tuple(RUNTIMES)
LINE = re.compile(r"(?P<title>[^:]+(?:: [a-z]+)?): (?:\d+ in )?(?P<seconds>[\d.]+) s")
"""The line that edgekit prints at the end of a stage."""


@dataclass(frozen=True)
class Factory:
    """A network of benchmarks/giant_networks.py, whose rows have another name than the factory."""

    name: str
    recipe: str


FACTORIES = {
    "coatnet_7_224": Factory("benchmarks.giant_networks:coatnet_7_224", "coatnet"),
    "open_clip:coca_2b": Factory("benchmarks.giant_networks:coca_2b", "coca"),
}
"""By the names in the rows, which are the names that timm and open_clip would give them."""


@dataclass(frozen=True)
class Sample:
    """What the processes of a deploy needed at one time."""

    stage: int
    """Number of stages that were completed."""
    memory: int
    cpu: float
    """CPU seconds since the start."""


def deploy(model: str, targets: Sequence[str], data: Path, more: list[str], folder: Path) -> list[dict[str, Any]]:
    """Measure the rows of one model in one run. A target's row leaves out the stages of the other targets."""
    factory = FACTORIES.get(model)
    named = [factory.name, "--recipe", factory.recipe] if factory else [model, "--weights", "random"]
    command = [
        sys.executable, "-m", "edgekit", "deploy", *named, "--data", str(data),
        *(f"--target={target}" for target in targets), "-o", str(folder / "run"), "--json",
        "--num-calibration-samples", "8", "--num-eval-samples", "8", "--warmup", "1", "--iterations", "5",
        "--max-drop", "100", "--min-speedup", "0", *more,
    ]  # fmt: skip
    samples = []
    environment = os.environ | {"PYTHONPATH": str(HERE.parent)}  # where a factory is
    with (folder / "log").open("w") as log, (folder / "report").open("w") as out:
        process = subprocess.Popen(command, stderr=log, stdout=out, cwd=folder, env=environment)
        while process.poll() is None:
            before = time.monotonic()
            samples.append(Sample(len(stages_in(folder / "log")), memory_of_tree(process.pid), cpu_of(process.pid)))
            time.sleep(max(0.5, 10 * (time.monotonic() - before)))
    stages = stages_in(folder / "log")
    shared: dict[str, Any] = {"model": model, "options": more}
    text = (folder / "report").read_text()
    if not text.strip():
        refused = error_of((folder / "log").read_text().splitlines())
        return [shared | {"target": target, "refused": refused} for target in targets]
    report = json.loads(text)
    shared |= {"params": report["model"]["params"], "input": report["model"]["input_shape"][2]}
    shared |= {"images": report["evaluation"]["count"], "calibration_images": report["calibration"]["count"]}
    return [
        shared
        | {"target": target}
        | needed(samples, stages, [other for other in targets if other != target])
        | {"bundles": [summary(result) for result in report["results"] if result["target"] == target]}
        for target in targets
    ]


def stages_in(log: Path) -> list[tuple[str, float]]:
    """Title and seconds of each completed stage."""
    matches = (LINE.fullmatch(line) for line in log.read_text().splitlines())
    return [(match["title"], float(match["seconds"])) for match in matches if match]


def needed(samples: list[Sample], stages: list[tuple[str, float]], others: Sequence[str]) -> dict[str, Any]:
    """Largest memory, seconds and CPU seconds of the stages that aren't those of other targets."""
    own = [place for place, (title, _) in enumerate(stages) if not title.startswith(tuple(f"{o}-" for o in others))]
    last = {sample.stage: sample.cpu for sample in samples}  # CPU seconds at the end of each stage that has a sample
    cpu, before = 0.0, 0.0
    for place, until in last.items():
        cpu += until - before if place in own else 0.0
        before = until
    return {
        "peak_bytes": max(sample.memory for sample in samples if sample.stage in own),
        "cpu_seconds": round(cpu, 1),
        "stages": {stages[place][0]: stages[place][1] for place in own},
    }


def cpu_of(pid: int) -> float:
    """CPU seconds of a process, of its descendants, and of those that have ended; 0 if it has ended itself."""
    total = 0.0
    with suppress(psutil.Error):
        for process in (parent := psutil.Process(pid), *parent.children(recursive=True)):
            with suppress(psutil.Error):  # the process has ended in the meantime
                times = process.cpu_times()
                total += times.user + times.system + times.children_user + times.children_system
    return total


def error_of(lines: list[str]) -> list[str]:
    """The error that edgekit printed with its valid values and its fix, as one line; none if there is no error."""
    start = next((index for index, line in enumerate(lines) if line.startswith("edgekit: error: ")), len(lines))
    return [" ".join(line.strip() for line in lines[start:])] if start < len(lines) else []


def summary(row: dict[str, Any]) -> dict[str, Any]:
    """Summarize a row of the report."""
    accuracy, latency, int8 = (row[key] or {} for key in ("accuracy", "latency_ms", "int8"))
    return {
        "precision": row["precision"], "scheme": row["scheme"], "size_bytes": row["size_bytes"],
        "verdict": row["verdict"], "reasons": row["reasons"], "agreement": accuracy.get("agreement"),
        "p50_ms": latency.get("p50"), "run_peak_bytes": row["peak_rss_bytes"],
        "int8_share_of_macs": int8.get("share_of_macs"),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--targets", nargs="+", default=TARGETS, choices=TARGETS)
    args, more = parser.parse_known_args()
    for model in args.models:
        with tempfile.TemporaryDirectory(dir=HERE.parent) as folder:
            rows = deploy(model, args.targets, args.data.absolute(), more, Path(folder))
        keep_rows(ROWS, rows, ("model", "target"), new_recording())
        for row in rows:
            print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
