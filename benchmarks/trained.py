"""Compares recipes on networks with trained weights, in the runtimes themselves.

    python -m benchmarks.trained --imagenet imagenet-500.zip --cifar FOLDER
    python -m benchmarks.trained --networks text-direction --runtimes onnx --choices shipped,mse --again
    python -m benchmarks.trained --time

The weights come from packages of the package index, or the bench trains them on CIFAR-10 in about half an hour of one
core. They stay in --cache, with the images that the bench draws and the model files that it makes, which --time times
on an idle machine. The JSON is written after each row. A row that it already has of the same code and machine is
measured again only with --again.
"""

import argparse
from collections.abc import Container, Iterator, Sequence
from itertools import chain
from pathlib import Path

from benchmarks.recording import Recording, keep_recording, names_of_today, new_recording
from benchmarks.rows import Row, keep_rows, read_rows
from benchmarks.trainedlib.choices import KEYS, STOCK
from edgekit.config.runtimes import RUNTIMES

HERE = Path(__file__).resolve().parent
CACHE = Path.home() / ".cache" / "edgekit-bench"
Key = tuple[str, str, str]
"""Network, runtime and choice of a row."""


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(argv)
    import torch

    from benchmarks.trainedlib.table import table

    torch.set_num_threads(1)
    recording = new_recording()
    current = set() if args.again else names_of_today(args.json.parent, recording)
    for network in args.networks:
        keys = list(wanted(args, network))
        if args.time:
            time(network, keys, args, recording, current)
        elif left := [key for key in keys if key not in recorded(args.json, current)]:
            measure(network, left, args, recording)
    shown = {key for network in args.networks for key in wanted(args, network)}
    print("\n".join(table([row for row in read_rows(args.json) if key_of(row) in shown])))


def recorded(path: Path, names: Container[str]) -> set[Key]:
    """The keys of the rows with these recordings."""
    return {key_of(row) for row in read_rows(path) if row.get("recording") in names}


def key_of(row: Row) -> Key:
    network, runtime, choice = (row[key] for key in KEYS)
    return network, runtime, choice


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    from benchmarks.trainedlib.choices import CHOICES
    from benchmarks.trainedlib.subjects import SUBJECTS

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    valid = {"networks": list(SUBJECTS), "runtimes": list(RUNTIMES), "choices": list(CHOICES)}
    for option, names in valid.items():
        parser.add_argument(f"--{option}", default=",".join(names), help=f"any of {', '.join(names)}; default: all")
    valid["choices"].append("stock")
    parser.add_argument("--imagenet", type=Path, help="ImageNet images, folder or zip")
    parser.add_argument("--cifar", type=Path, help="folder with cifar10-train.zip and cifar10-val-5k.zip")
    parser.add_argument("--cache", type=Path, default=CACHE, help="folder for weights, images and models")
    parser.add_argument("--calibration", type=int, default=128, help="number of calibration images")
    parser.add_argument("--images", type=int, default=5000, help="largest number of evaluation images")
    parser.add_argument("--json", type=Path, default=HERE / "trained.json")
    parser.add_argument("--time", action="store_true", help="only time the files of the rows in the JSON")
    parser.add_argument("--again", action="store_true", help="measure rows again that the JSON has")
    args = parser.parse_args(argv)
    for option, names in valid.items():
        chosen = getattr(args, option).split(",")
        if unknown := sorted(set(chosen) - set(names)):
            parser.error(f"unknown {option}: {', '.join(unknown)}; valid are {', '.join(names)}")
        setattr(args, option, chosen)
    if "stock" in args.choices:
        args.choices.remove("stock")
        args.choices = list(dict.fromkeys([*args.choices, *chain(*STOCK.values())]))
    return args


def wanted(args: argparse.Namespace, network: str) -> Iterator[Key]:
    """The keys of the rows of one network."""
    from benchmarks.trainedlib.choices import CHOICES

    for runtime in args.runtimes:
        for choice in args.choices:
            if runtime in CHOICES[choice].runtimes:
                yield network, runtime, choice


def measure(network: str, keys: Sequence[Key], args: argparse.Namespace, recording: Recording) -> None:
    """Measure rows of one network, and write each."""
    import numpy as np

    from benchmarks.trainedlib.choices import CHOICES
    from benchmarks.trainedlib.images import Sets
    from benchmarks.trainedlib.measuring import Bench
    from benchmarks.trainedlib.subjects import SUBJECTS
    from benchmarks.trainedlib.table import line
    from benchmarks.trainedlib.timing import IMAGE, models_of
    from benchmarks.trainedlib.weights import get_weights
    from edgekit.job import Job

    subject, sets = SUBJECTS[network], Sets(args.imagenet, args.cifar, args.cache)
    model = get_weights(network, subject, sets)
    data, calibration_data = sets.of(subject.images)
    bench = Bench(
        Job(
            model,
            data,
            calibration_data=calibration_data,
            num_calibration_samples=args.calibration,
            task=subject.task,
        ),
        images=args.images,
    )
    folder = models_of(args.cache, network)
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / IMAGE, bench.image)
    for _, runtime, choice in keys:
        figures = bench.measure(runtime, CHOICES[choice], folder / runtime / choice)
        if figures is None:
            print(f"{network} {runtime}: '{choice}' changes nothing in the recipe", flush=True)
            continue
        row = {"network": network, "runtime": runtime, "choice": choice, **figures}
        keep_rows(args.json, [row], KEYS, recording)
        print(line(row), flush=True)


def time(
    network: str, keys: Sequence[Key], args: argparse.Namespace, recording: Recording, current: Container[str]
) -> None:
    """Time the files of one network's rows, of each runtime in turns, unless all have times of these recordings."""
    from benchmarks.trainedlib.timing import models_of, time_files

    for runtime in dict.fromkeys(runtime for _, runtime, _ in keys):
        rows = [row for row in read_rows(args.json) if key_of(row) in keys and row["runtime"] == runtime]
        rows = [row for row in rows if "error" not in row and row.get("attempts") != 0]
        if all(row.get("timing", {}).get("recording") in current for row in rows):
            continue
        timings = time_files(models_of(args.cache, network), runtime, [row["choice"] for row in rows])
        name = keep_recording(args.json.parent, recording)
        timed = [
            row | {"timing": {**timing, "recording": name}} for row in rows if (timing := timings.get(row["choice"]))
        ]
        keep_rows(args.json, timed, KEYS)
        for row in timed:
            print("{network} {runtime} {choice}: {timing[ms]:.2f} ms, {timing[ratio]:.2f}x".format(**row), flush=True)


if __name__ == "__main__":
    main()
