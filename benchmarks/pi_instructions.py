"""Counts the instructions of an inference on a Raspberry Pi's cores, for edgekit's bundles and the stock tools' files.

    python -m benchmarks.pi_instructions --models demo
    python -m benchmarks.pi_instructions --data ~/imagenet/val

No board is involved: each candidate runs on one thread under a real arm64 kernel in QEMU, which counts instructions.
This needs Debian, root, and: apt-get install --no-install-recommends mmdebstrap arch-test cpio qemu-system-arm
g++-aarch64-linux-gnu

The candidates are those of benchmarks/peers.py, and the floats of MNN and ncnn from their public wheels. edgekit's are
built for the device class of the core. The JSON is written after each model, core and runtime, and what it has of the
same code and versions isn't counted again without --again. benchmarks/NOTES.md has their table. To count a few files
while you work on a placement, call pilib.counting.count.
"""

import argparse
import json
import subprocess
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.peerlib import executorch
from benchmarks.peerlib.candidates import Candidate
from benchmarks.peerlib.wheels import WHEELS, wheel_versions
from benchmarks.peers import HERE, make
from benchmarks.pilib.counting import CORES, count_candidates
from benchmarks.recording import keep_recording, new_recording, recording_of
from edgekit.config.runtimes import RUNTIMES
from edgekit.measure.accuracy import snr_db
from edgekit.support.files import replace_text

Made = list[tuple[Candidate, str | None]]
"""Candidates, each with the reason if it couldn't be built."""

ALL_RUNTIMES = [*RUNTIMES, *WHEELS, "executorch"]
DEFAULT_RUNTIMES = "onnx,tflite,mnn,executorch"
MODELS = "convnextv2_atto,mobilenetv2_100,mobilenetv3_large_100,resnet50"
IMAGES = 32, 1
"""Number of images for calibration and for the SNR. Counts don't depend on them."""
FP16 = {"cortex-a76"}
"""Cores with float16 arithmetic, which OpenVINO uses by default there."""


def main() -> None:
    args = arguments()
    results = kept_results(args.json)
    for name in args.models:
        for core in args.cores:
            before = results["models"].setdefault(name, {}).setdefault(core, [])
            counted = set() if args.again else {row["runtime"] for row in before}
            runtimes = [runtime for runtime in args.runtimes if runtime not in counted]
            if not runtimes:
                continue
            made, images, reference, _ = make(name, args, CORES[core], runtimes, IMAGES)
            for runtime in runtimes:
                start = time.monotonic()
                group = [(candidate, why) for candidate, why in made if candidate.runtime == runtime]
                rows = compare(group, images, reference, core)
                results["kernel"] = next((row["kernel"] for row in rows if "kernel" in row), results["kernel"])
                others = [row for row in results["models"][name][core] if row["runtime"] != runtime]
                rows = sorted(others + rows, key=lambda row: ALL_RUNTIMES.index(row["runtime"]))
                results["models"][name][core] = [without(row, "kernel") for row in rows]
                replace_text(args.json, json.dumps(results, indent=1) + "\n")
                print(f"{name} on {core}, {runtime}: {time.monotonic() - start:.0f} s", flush=True)


def kept_results(path: Path) -> dict[str, Any]:
    """What the JSON has of this code and these versions; otherwise, results without any model."""
    versions = wheel_versions() | {"executorch": executorch.VERSION, "qemu": qemu_version()}
    now, before = new_recording(), recording_of(path)
    if before is not None and before.of_today() and before.versions == now.versions:
        results: dict[str, Any] = json.loads(path.read_text())
        if (results["versions"], results["images"]) == (versions, IMAGES[1]):
            return results
    keep_recording(path.parent, now, path.name)
    return {"schema_version": 2, "versions": versions, "kernel": None, "images": IMAGES[1], "models": {}}


def arguments() -> argparse.Namespace:
    from benchmarks.peerlib.models import ALL_SUBJECTS, add_data, check_data

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default=MODELS, help=f"any of {', '.join(ALL_SUBJECTS)}; default: {MODELS}")
    parser.add_argument("--cores", default=",".join(CORES), help=f"any of {', '.join(CORES)}; default: all")
    parser.add_argument(
        "--runtimes", default=DEFAULT_RUNTIMES, help=f"any of {', '.join(ALL_RUNTIMES)}; default: {DEFAULT_RUNTIMES}"
    )
    parser.add_argument("--json", type=Path, default=HERE / "pi_instructions.json")
    add_data(parser)
    parser.add_argument("--work", type=Path, default=Path("build/peers"), help="folder for the models")
    parser.add_argument("--again", action="store_true", help="also count what the JSON already has")
    args = parser.parse_args()
    for name, valid in (("models", list(ALL_SUBJECTS)), ("cores", list(CORES)), ("runtimes", ALL_RUNTIMES)):
        values = getattr(args, name).split(",")
        setattr(args, name, values)
        if unknown := set(values) - set(valid):
            parser.error(f"unknown: {', '.join(sorted(unknown))}; valid --{name} are {', '.join(valid)}")
    check_data(parser, args.models, args.data)
    return args


def qemu_version() -> str:
    done = subprocess.run(["qemu-system-aarch64", "--version"], capture_output=True, text=True, check=True)
    return done.stdout.split()[3]


def compare(made: Made, images: NDArray[np.float32], reference: NDArray[np.float32], core: str) -> list[dict[str, Any]]:
    """Count the candidates; return a row for each with its instructions and the SNR of its logits, or its error."""
    working = [for_arm(candidate) for candidate, why in made if why is None]
    working = [candidate for candidate in working if core in FP16 or not candidate.precision.endswith("f16")]
    rows = []
    for candidate, counted in zip(working, count_candidates(working, images, core), strict=True):
        row: dict[str, Any] = {"runtime": candidate.runtime, "candidate": candidate.name, "maker": candidate.maker}
        row |= {"precision": candidate.precision} | without(counted, "name", "logits")
        if "logits" in counted:
            row["snr_db"] = snr_db(reference, counted["logits"])
        rows.append(row)
    for candidate, why in made:
        if why is not None:
            rows.append({"runtime": candidate.runtime, "candidate": candidate.name, "maker": candidate.maker,
                         "precision": candidate.precision, "error": why})  # fmt: skip
    return rows


def for_arm(candidate: Candidate) -> Candidate:
    """Replace bf16, which OpenVINO uses on x86, by f16, which it uses on Arm."""
    if not candidate.precision.endswith("bf16"):
        return candidate
    precision = candidate.precision.replace("bf16", "f16")
    options = candidate.options | ({"hint": "f16"} if candidate.options else {})
    return replace(candidate, name=candidate.name.replace("bf16", "f16"), precision=precision, options=options)


def without(row: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key not in keys}


if __name__ == "__main__":
    main()
