"""Measures 4-bit weights in LiteRT: size, time, instructions on a Raspberry Pi's cores, and accuracy.

    python -m benchmarks.four_bits --networks demo --cifar FOLDER
    python -m benchmarks.four_bits --networks convnextv2_atto --imagenet imagenet-500.zip --cores ""

XNNPACK multiplies INT8 activations by 4-bit weights in fully connected layers only, so those layers get 4 bits and
convolutions stay in INT8. The weights are fitted as edgekit fits them for INT8. Times are ratios to INT8 of calls in
turns, in one process. Counting instructions needs what benchmarks/pi_instructions.py needs; `--cores ""` leaves it out.
The JSON is written after each network; `--times` only times the networks in it again.
"""

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.rows import Row, keep_rows, read_rows

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from edgekit.job import Job

HERE = Path(__file__).resolve().parent
CACHE = Path.home() / ".cache" / "edgekit-bench"
FILE = HERE / "four_bits.json"
KEYS = ("network", "choice", "method")
TRAINED = {"demo": "convnextv2", "efficientnet_lite0": "lite0", "text-direction": "text-direction"}
"""Networks with trained weights, and what benchmarks/trained.py calls them."""
RANDOM = ("convnextv2_atto", "convnextv2_tiny", "vit_small_patch16_224")
"""Networks with random weights, which are measured for size, time and noise."""
NETWORKS = (*TRAINED, *RANDOM)
CHOICES = ("all", "inner")
"""All layers that the kernels take, or without the first, the last and those of squeeze-and-excitation."""
INT8 = "int8"
"""The choice and the method of the row that the others are compared with."""
ROUNDED = "nearest"
"""The rounding of files that are only timed or counted."""
FEW = 4
"""Calibration images of these files."""


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(argv)
    import torch

    torch.set_num_threads(1)
    for network in args.networks:
        for row in (time_again if args.times else measure)(network, args):
            keep_rows(args.json, [row], KEYS)
            print(row, flush=True)


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    from benchmarks.fourlib.rounding import METHODS
    from benchmarks.pilib.counting import CORES

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    valid = {"networks": NETWORKS, "choices": CHOICES, "methods": tuple(METHODS), "cores": tuple(CORES)}
    default = {name: ",".join(names) for name, names in valid.items()} | {"methods": "gptq-clip"}
    for option, names in valid.items():
        text = f"any of {', '.join(names)}; default: {default[option]}"
        parser.add_argument(f"--{option}", default=default[option], help=text)
    parser.add_argument("--imagenet", type=Path, help="ImageNet images, folder or zip")
    parser.add_argument("--cifar", type=Path, help="folder with cifar10-train.zip and cifar10-val-5k.zip")
    parser.add_argument("--cache", type=Path, default=CACHE, help="folder for weights and drawn images")
    parser.add_argument("--calibration", type=int, default=64, help="number of calibration images")
    parser.add_argument("--images", type=int, default=5000, help="largest number of evaluation images")
    parser.add_argument("--seconds", type=float, default=20, help="time for the turns of one network's files")
    parser.add_argument("--times", action="store_true", help="only time the networks in the JSON again")
    parser.add_argument("--json", type=Path, default=FILE)
    args = parser.parse_args(argv)
    for option, names in valid.items():
        chosen = [name for name in getattr(args, option).split(",") if name]
        if unknown := sorted(set(chosen) - set(names)):
            parser.error(f"unknown {option}: {', '.join(unknown)}; valid are {', '.join(names)}")
        setattr(args, option, chosen)
    return args


def measure(network: str, args: argparse.Namespace) -> list[Row]:
    """The rows of one network: INT8 first, then each choice with each method."""
    from benchmarks.fourlib.building import Files, open_file
    from benchmarks.fourlib.figures import facts, times
    from benchmarks.trainedlib.measuring import Bench

    job = job_of(network, args)
    with tempfile.TemporaryDirectory() as name:
        bench = Bench(job, images=args.images)
        files, rows, paths = Files(bench, Path(name)), [], {}
        for choice, method in ((INT8, INT8), *((choice, method) for choice in args.choices for method in args.methods)):
            four = choice != INT8
            path = files.four_bits(choice, method) if four else files.int8
            row: Row = {"network": network, "choice": choice, "method": method}
            row |= {"layers": len(files.chosen(choice)) if four else 0, "dense": len(files.dense)}
            row |= facts(bench, path) | bench.figures(open_file(path))
            rows.append(row)
            paths[choice, method] = path
        timed = times({choice: path for (choice, _), path in paths.items()}, bench.image, args.seconds)
        counts = instructions(network, args, Path(name))
    return [row | {"time": timed[row["choice"]], "instructions": counts[row["choice"]]} for row in rows]


def time_again(network: str, args: argparse.Namespace) -> list[Row]:
    """The rows of one network in the JSON, with new times."""
    from benchmarks.fourlib.figures import times

    rows = [row for row in read_rows(args.json) if row["network"] == network]
    choices = [choice for choice in CHOICES if any(row["choice"] == choice for row in rows)]
    with tempfile.TemporaryDirectory() as name:
        paths, image = few(network, choices, args, Path(name))
        timed = times(paths, image, args.seconds)
    return [row | {"time": timed[row["choice"]]} for row in rows]


def job_of(network: str, args: argparse.Namespace) -> "Job":
    """The job of a network."""
    from benchmarks.peerlib.models import random_weights
    from benchmarks.trainedlib.images import Sets
    from benchmarks.trainedlib.subjects import SUBJECTS
    from benchmarks.trainedlib.weights import get_weights
    from edgekit.job import Job

    sets = Sets(args.imagenet, args.cifar, args.cache)
    if network in TRAINED:
        subject = SUBJECTS[TRAINED[network]]
        model, images = get_weights(TRAINED[network], subject, sets), sets.of(subject.images)
    else:
        model, images = random_weights(network).model, sets.of("imagenet")
    return Job(model, images[0], calibration_data=images[1], num_calibration_samples=args.calibration)


def instructions(network: str, args: argparse.Namespace, folder: Path) -> dict[str, dict[str, int]]:
    """Instructions of one inference by choice and core, in files for the core's device class."""
    from benchmarks.pilib.counting import CORES, count

    counted: dict[str, dict[str, int]] = {choice: {} for choice in (INT8, *args.choices)}
    for core in args.cores:
        paths, image = few(network, args.choices, args, folder / core, CORES[core])
        for choice, millions in count(paths, core, image).items():
            counted[choice][core] = round(millions * 1e6)
    return counted


def few(
    network: str, choices: Sequence[str], args: argparse.Namespace, folder: Path, device_class: str | None = None
) -> "tuple[dict[str, Path], NDArray[np.float32]]":
    """Files by choice that are calibrated on few images, and an image: times and counts don't depend on weights."""
    from benchmarks.fourlib.building import Files
    from benchmarks.trainedlib.measuring import Bench

    job = replace(job_of(network, args), num_calibration_samples=FEW, device_class=device_class)
    bench = Bench(job, images=1)
    files = Files(bench, folder)
    return {INT8: files.int8} | {choice: files.four_bits(choice, ROUNDED) for choice in choices}, bench.image


if __name__ == "__main__":
    main()
