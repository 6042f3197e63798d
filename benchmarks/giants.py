"""The leaderboard's giants through the whole job on this machine: memory, seconds, sizes, one latency.

    python -m benchmarks.giants --data imagenet-500.zip convnextv2_huge --targets openvino onnx tflite
    make figures

Each model and target is one `edgekit deploy` with seeded random weights. Its processes are looked at twice a
second: `peak_bytes` is the most resident memory that all of them had together, what they share counted once (PSS), and
`largest_process_bytes` the most of one of them, with all that it maps. A row for each model and target is kept in
benchmarks/giants.json; one that is measured again is replaced.
"""

import argparse
import json
import re
import resource
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from benchmarks.rows import keep_rows
from edgekit.config.runtimes import RUNTIMES

HERE = Path(__file__).resolve().parent
ROWS = HERE / "giants.json"
TARGETS = tuple(RUNTIMES)
LINE = re.compile(r"(?P<title>[^:]+(?:: [a-z]+)?): (?:\d+ in )?(?P<seconds>[\d.]+) s")
"""A stage that ended, as edgekit says it."""


def deploy(model: str, target: str, data: Path, more: list[str], folder: Path) -> dict[str, Any]:
    """The row of one model and target."""
    command = [
        sys.executable, "-m", "edgekit", "deploy", model, "--weights", "random", "--data", str(data),
        "--target", target, "-o", str(folder / "run"), "--json", "--num-calibration-samples", "8",
        "--num-eval-samples", "8", "--warmup", "1", "--iterations", "5", "--max-drop", "100", "--min-speedup", "0",
        *more,
    ]  # fmt: skip
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    with (folder / "said").open("w") as said, (folder / "report").open("w") as out:
        process = subprocess.Popen(command, stderr=said, stdout=out, cwd=folder)
        together = largest = 0
        while process.poll() is None:
            sizes = memory(process.pid)
            together = max(together, sum(shared for shared, _ in sizes))
            largest = max([largest, *(own for _, own in sizes)])
            time.sleep(0.5)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    lines = (folder / "said").read_text().splitlines()
    stages = {found["title"]: float(found["seconds"]) for line in lines if (found := LINE.fullmatch(line))}
    row: dict[str, Any] = {
        "model": model, "target": target, "options": more, "peak_bytes": together, "largest_process_bytes": largest,
        "seconds": round(time.monotonic() - start, 1),
        "cpu_seconds": round(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, 1), "stages": stages,
    }  # fmt: skip
    text = (folder / "report").read_text()
    if not text.strip():
        return row | {"refused": [line for line in lines if "error" in line][-1:]}
    report = json.loads(text)
    row |= {"params": report["model"]["params"], "input": report["model"]["input_shape"][2]}
    row |= {"images": report["evaluation"]["count"], "calibration_images": report["calibration"]["count"]}
    return row | {"bundles": [summary(each) for each in report["results"]]}


def summary(row: dict[str, Any]) -> dict[str, Any]:
    """What is kept of a row of the report."""
    accuracy, latency, int8 = (row[key] or {} for key in ("accuracy", "latency_ms", "int8"))
    return {
        "precision": row["precision"], "scheme": row["scheme"], "size_bytes": row["size_bytes"],
        "verdict": row["verdict"], "reasons": row["reasons"], "agreement": accuracy.get("agreement"),
        "p50_ms": latency.get("p50"), "run_peak_bytes": row["peak_rss_bytes"],
        "int8_share_of_macs": int8.get("share_of_macs"),
    }  # fmt: skip


def memory(pid: int) -> list[tuple[int, int]]:
    """(share of what is resident, all that is) of a process and of those below it, in bytes: PSS and RSS."""
    found = []
    with suppress(psutil.Error):
        for each in (parent := psutil.Process(pid), *parent.children(recursive=True)):
            with suppress(psutil.Error):  # it ended meanwhile
                info = each.memory_full_info()
                found.append((info.pss, info.rss))
    return found


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
