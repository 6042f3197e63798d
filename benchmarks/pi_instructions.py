"""Instructions of one inference on a Raspberry Pi's cores: edgekit's bundles and what the stock tools make.

    python -m benchmarks.pi_instructions --models convnextv2_atto

There was no board: each candidate runs on one thread under a real arm64 kernel in QEMU, which counts instructions. That
needs Debian, root, and: apt-get install --no-install-recommends mmdebstrap arch-test cpio qemu-system-arm

Candidates are those of benchmarks/peers.py, edgekit's made for the device class of the core. The JSON is written after
each model, core and runtime; what an earlier run of the same versions counted stays in it. RESULTS.md gets a section at
its end. To count a few files while working on a placement: pilib.counting.count.
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

from benchmarks.peerlib.candidates import Candidate, open_candidate
from benchmarks.peers import DATA, HERE, all_versions, make
from benchmarks.pilib.counting import CORES, count_candidates
from benchmarks.pilib.results import section, with_section
from edgekit.config.runtimes import RUNTIMES
from edgekit.measure.accuracy import snr_db
from edgekit.support.files import replace_text

Made = list[tuple[Candidate, str | None]]
"""Candidates, and why they couldn't be made."""

IMAGES = 4
FP16 = {"cortex-a76"}
"""Cores with arithmetic on halves: OpenVINO takes it by itself there."""


def main() -> None:
    args = arguments()
    results: dict[str, Any] = {"schema_version": 1, "versions": all_versions(), "qemu": qemu_version()}
    results |= {"kernel": None, "images": IMAGES, "models": {}}
    if args.json.exists():
        before = json.loads(args.json.read_text())
        if all(before[key] == results[key] for key in ("versions", "qemu", "images")):
            results = before
    for name in args.models:
        for core in args.cores:
            made, images, reference, _ = make(name, args, CORES[core], args.runtimes)
            for runtime in args.runtimes:
                start = time.monotonic()
                group = [each for each in made if each[0].runtime == runtime]
                rows = compare(group, images[:IMAGES], reference[:IMAGES], core)
                results["kernel"] = next((row["kernel"] for row in rows if "kernel" in row), results["kernel"])
                before = results["models"].setdefault(name, {}).get(core, [])
                others = [row for row in before if row["runtime"] != runtime]
                rows = sorted(others + rows, key=lambda row: list(RUNTIMES).index(row["runtime"]))
                results["models"][name][core] = [without(row, "kernel") for row in rows]
                replace_text(args.json, json.dumps(results, indent=1) + "\n")
                replace_text(args.results, with_section(args.results.read_text(), section(results)))
                print(f"{name} on {core}, {runtime}: {time.monotonic() - start:.0f} s", flush=True)


def arguments() -> argparse.Namespace:
    from benchmarks.peerlib.models import SUBJECTS

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="convnextv2_atto,demo", help=f"of {', '.join(SUBJECTS)}")
    parser.add_argument("--cores", default=",".join(CORES), help=f"of {', '.join(CORES)}; default: all")
    parser.add_argument("--runtimes", default=",".join(RUNTIMES), help=f"of {', '.join(RUNTIMES)}; default: all")
    parser.add_argument("--json", type=Path, default=HERE / "pi_instructions.json")
    parser.add_argument("--results", type=Path, default=HERE / "RESULTS.md")
    parser.add_argument("--data", type=Path, default=DATA, help=f"ImageNet images, folder or zip; default: {DATA.name}")
    parser.add_argument("--work", type=Path, default=Path("build/peers"), help="where the models are made and kept")
    args = parser.parse_args()
    for name, valid in (("models", list(SUBJECTS)), ("cores", list(CORES)), ("runtimes", list(RUNTIMES))):
        asked = getattr(args, name).split(",")
        setattr(args, name, asked)
        if unknown := set(asked) - set(valid):
            parser.error(f"unknown: {', '.join(sorted(unknown))}; valid --{name} are {', '.join(valid)}")
    return args


def qemu_version() -> str:
    said = subprocess.run(["qemu-system-aarch64", "--version"], capture_output=True, text=True, check=True).stdout
    return said.split()[3]


def compare(made: Made, images: NDArray[np.float32], reference: NDArray[np.float32], core: str) -> list[dict[str, Any]]:
    """A row for each candidate: instructions and SNR of the logits, or the error."""
    working = [for_arm(candidate) for candidate, why in made if why is None]
    working = [each for each in working if core in FP16 or not each.precision.endswith("f16")]
    rows = []
    for candidate, counted in zip(working, count_candidates(working, images, core), strict=True):
        row: dict[str, Any] = {"runtime": candidate.runtime, "candidate": candidate.name, "maker": candidate.maker}
        row |= {"precision": candidate.precision} | without(counted, "name", "logits")
        if "logits" in counted:
            row |= {
                "snr_db": snr_db(reference, counted["logits"]),
                "snr_x86_db": snr_here(candidate, images, reference),
            }
        rows.append(row)
    for candidate, why in made:
        if why is not None:
            rows.append({"runtime": candidate.runtime, "candidate": candidate.name, "maker": candidate.maker,
                         "precision": candidate.precision, "error": why})  # fmt: skip
    return rows


def for_arm(candidate: Candidate) -> Candidate:
    """Where OpenVINO takes bf16 on x86, it takes f16 on Arm."""
    if not candidate.precision.endswith("bf16"):
        return candidate
    precision = candidate.precision.replace("bf16", "f16")
    options = candidate.options | ({"hint": "f16"} if candidate.options else {})
    return replace(candidate, name=candidate.name.replace("bf16", "f16"), precision=precision, options=options)


def snr_here(candidate: Candidate, images: NDArray[np.float32], reference: NDArray[np.float32]) -> float | None:
    """SNR of the same file on this machine; None for what an x86 processor doesn't compute in."""
    if candidate.precision.endswith("f16"):
        return None
    infer = open_candidate(candidate, 1)
    return snr_db(reference, np.concatenate([infer(image[None]) for image in images]))


def without(row: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key not in keys}


if __name__ == "__main__":
    main()
