"""The leaderboard's giants through the whole job on this machine: memory, seconds, sizes, one latency.

    python benchmarks/giants.py --data imagenet-500.zip convnextv2_huge --targets openvino onnx tflite
    python benchmarks/leaderboard.py --tables

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
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROWS = HERE / "giants.json"
TARGETS = ("openvino", "onnx", "tflite")
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
            sizes = [memory(pid) for pid in tree(process.pid)]
            together = max(together, sum(size["Pss"] for size in sizes))
            largest = max([largest, *(size["Rss"] for size in sizes)])
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


def tree(pid: int) -> list[int]:
    """A process and all below it."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []
    return [pid, *(each for child in children for each in tree(int(child)))]


def memory(pid: int) -> dict[str, int]:
    """Bytes that a process has resident, `Rss`, and its share of them, `Pss`."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return {"Rss": 0, "Pss": 0}
    found = dict(line.split(":", 1) for line in lines[1:])
    return {key: int(found[key].split()[0]) * 1024 if key in found else 0 for key in ("Rss", "Pss")}


def keep(row: dict[str, Any]) -> None:
    """Put a row into giants.json in place of that of the same model and target."""
    kept = json.loads(ROWS.read_text()) if ROWS.exists() else []
    every = [each for each in kept if (each["model"], each["target"]) != (row["model"], row["target"])]
    ROWS.write_text("[\n" + ",\n".join(json.dumps(each) for each in [*every, row]) + "\n]\n")


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
            keep(row)
            print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
