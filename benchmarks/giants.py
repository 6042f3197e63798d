"""Runs the whole job for the leaderboard's largest models: memory, seconds, sizes and latency.

    python -m benchmarks.giants --data imagenet-500.zip convnextv2_huge --targets openvino onnx tflite
    make figures

It runs `edgekit deploy` with seeded random weights for each model and target, and samples the memory of its processes
twice a second. `peak_bytes` is the largest sum, without the pages of files that the system can drop.
benchmarks/giants.json has one row for each model and target; measuring it again replaces the row.
"""

import argparse
import json
import re
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.memory import memory_of_tree
from benchmarks.rows import keep_rows
from edgekit.config.runtimes import RUNTIMES

HERE = Path(__file__).resolve().parent
ROWS = HERE / "giants.json"
TARGETS = tuple(RUNTIMES)
LINE = re.compile(r"(?P<title>[^:]+(?:: [a-z]+)?): (?:\d+ in )?(?P<seconds>[\d.]+) s")
"""The line that edgekit prints at the end of a stage."""


def deploy(model: str, target: str, data: Path, more: list[str], folder: Path) -> dict[str, Any]:
    """Measure the row of one model and target."""
    command = [
        sys.executable, "-m", "edgekit", "deploy", model, "--weights", "random", "--data", str(data),
        "--target", target, "-o", str(folder / "run"), "--json", "--num-calibration-samples", "8",
        "--num-eval-samples", "8", "--warmup", "1", "--iterations", "5", "--max-drop", "100", "--min-speedup", "0",
        *more,
    ]  # fmt: skip
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    with (folder / "log").open("w") as log, (folder / "report").open("w") as out:
        process = subprocess.Popen(command, stderr=log, stdout=out, cwd=folder)
        peak = 0
        while process.poll() is None:
            peak = max(peak, memory_of_tree(process.pid))
            time.sleep(0.5)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    lines = (folder / "log").read_text().splitlines()
    stages = {match["title"]: float(match["seconds"]) for line in lines if (match := LINE.fullmatch(line))}
    row: dict[str, Any] = {
        "model": model, "target": target, "options": more, "peak_bytes": peak,
        "seconds": round(time.monotonic() - start, 1),
        "cpu_seconds": round(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, 1), "stages": stages,
    }  # fmt: skip
    text = (folder / "report").read_text()
    if not text.strip():
        return row | {"refused": error_of(lines)}
    report = json.loads(text)
    row |= {"params": report["model"]["params"], "input": report["model"]["input_shape"][2]}
    row |= {"images": report["evaluation"]["count"], "calibration_images": report["calibration"]["count"]}
    return row | {"bundles": [summary(result) for result in report["results"]]}


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
        for target in args.targets:
            with tempfile.TemporaryDirectory(dir=HERE.parent) as folder:
                row = deploy(model, target, args.data.absolute(), more, Path(folder))
            keep_rows(ROWS, [row], ("model", "target"))
            print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
