"""Compares recipes on networks with trained weights, in the runtimes themselves.

    python -m benchmarks.trained --imagenet imagenet-500.zip --cifar FOLDER
    python -m benchmarks.trained --networks text-direction --runtimes onnx --choices shipped,mse --again

The weights come from packages of the package index, or the bench trains them on CIFAR-10 in about half an hour of one
core. They stay in --cache, with the text images that the bench draws. The JSON is written after each row. A row that it
already has is measured again only with --again.
"""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.rows import keep_rows, read_rows
from edgekit.config.runtimes import RUNTIMES

HERE = Path(__file__).resolve().parent
CACHE = Path.home() / ".cache" / "edgekit-bench"
KEYS = ("network", "runtime", "choice")


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(argv)
    import torch

    from benchmarks.trainedlib.table import table

    torch.set_num_threads(1)
    for network in args.networks:
        done = set() if args.again else {tuple(row[key] for key in KEYS) for row in read_rows(args.json)}
        if left := [key for key in wanted(args, network) if key not in done]:
            measure(network, left, args)
    shown = {key for network in args.networks for key in wanted(args, network)}
    print("\n".join(table([row for row in read_rows(args.json) if tuple(row[key] for key in KEYS) in shown])))


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    from benchmarks.trainedlib.choices import CHOICES
    from benchmarks.trainedlib.subjects import SUBJECTS

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    valid = {"networks": list(SUBJECTS), "runtimes": list(RUNTIMES), "choices": list(CHOICES)}
    for option, names in valid.items():
        parser.add_argument(f"--{option}", default=",".join(names), help=f"any of {', '.join(names)}; default: all")
    parser.add_argument("--imagenet", type=Path, help="ImageNet images, folder or zip")
    parser.add_argument("--cifar", type=Path, help="folder with cifar10-train.zip and cifar10-val-5k.zip")
    parser.add_argument("--cache", type=Path, default=CACHE, help="folder for weights and drawn images")
    parser.add_argument("--calibration", type=int, default=128, help="number of calibration images")
    parser.add_argument("--images", type=int, default=3000, help="largest number of evaluation images")
    parser.add_argument("--json", type=Path, default=HERE / "trained.json")
    parser.add_argument("--again", action="store_true", help="measure rows again that the JSON has")
    args = parser.parse_args(argv)
    for option, names in valid.items():
        chosen = getattr(args, option).split(",")
        if unknown := sorted(set(chosen) - set(names)):
            parser.error(f"unknown {option}: {', '.join(unknown)}; valid are {', '.join(names)}")
        setattr(args, option, chosen)
    return args


def wanted(args: argparse.Namespace, network: str) -> Iterator[tuple[str, str, str]]:
    """The keys of the rows of one network."""
    from benchmarks.trainedlib.choices import CHOICES

    for runtime in args.runtimes:
        for choice in args.choices:
            if runtime in CHOICES[choice].runtimes:
                yield network, runtime, choice


def measure(network: str, keys: Sequence[tuple[str, str, str]], args: argparse.Namespace) -> None:
    """Measure rows of one network, and write each."""
    from benchmarks.trainedlib.choices import CHOICES
    from benchmarks.trainedlib.images import Sets
    from benchmarks.trainedlib.measuring import Bench
    from benchmarks.trainedlib.subjects import SUBJECTS
    from benchmarks.trainedlib.table import line
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
    for _, runtime, choice in keys:
        figures = bench.measure(runtime, CHOICES[choice])
        if figures is None:
            print(f"{network} {runtime}: '{choice}' changes nothing in the recipe", flush=True)
            continue
        row = {"network": network, "runtime": runtime, "choice": choice, **figures}
        keep_rows(args.json, [row], KEYS)
        print(line(row), flush=True)


if __name__ == "__main__":
    main()
