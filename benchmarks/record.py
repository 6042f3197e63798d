"""Records the figures that README and the docs quote, on an idle machine, and says which are out of date.

    python -m benchmarks.record --imagenet imagenet-500.zip --cifar FOLDER
    python -m benchmarks.record demo pages
    python -m benchmarks.record --list

What a busy machine can do comes first: building, and running images. Then each timing waits until other processes rest,
and is repeated if they didn't meanwhile. Every figure belongs to a commit, so edgekit may not differ from it. What
peers, trained, instructions and making have of the same code and machine isn't measured again, so that a command that
was interrupted goes on. `make figures` writes the figures into the pages.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.pilib.published import PUBLISHED
from benchmarks.recording import BUNDLES, ROOT, changed_modules, git, recording_of, recordings, renew_recording
from benchmarks.rows import read_rows

HERE = Path(__file__).resolve().parent
RECORDED_PAGES = (
    "docs/tutorials/your-own-model.md",
    "docs/tutorials/int8-gains-too-little.md",
    "docs/how-to/lost-accuracy.md",
)
COMMANDS = {
    "peers": ("benchmarks.peers --build --data {imagenet}", "benchmarks.peers --time --data {imagenet}"),
    "trained": (
        "benchmarks.trained --choices shipped,repaired,stock --imagenet {imagenet} --cifar {cifar}",
        "benchmarks.trained --time --imagenet {imagenet} --cifar {cifar}",
    ),
    "instructions": ("benchmarks.pi_instructions --data {imagenet}", ""),
    "pi_published": (
        f"benchmarks.pi_instructions --models {','.join(PUBLISHED)} --cores cortex-a76 --runtimes executorch "
        "--json benchmarks/pi_published.json --data {imagenet}",
        "",
    ),
    "pi_demo": (
        "benchmarks.pi_instructions --models demo --cores cortex-a76 --runtimes onnx,tflite "
        "--json benchmarks/pi_demo.json",
        "",
    ),
    "making": ("", "benchmarks.making --data {imagenet}"),
    "photos": (
        "benchmarks.photos --loss --data {imagenet} --cifar {cifar}",
        "benchmarks.photos --data {imagenet}",
    ),
    "demo": ("", "benchmarks.demo"),
    "pages": ("", f"docs.generate.record {' '.join(RECORDED_PAGES)}"),
}
"""For each bench, the modules to run on a busy machine and on an idle one."""


def main() -> None:
    args = arguments()
    if args.list:
        print("\n".join(lines()))
    elif args.renew:
        renew(args.imagenet)
    else:
        record(args)


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"any of {', '.join(COMMANDS)}; default: all")
    parser.add_argument("--imagenet", type=Path, help="ImageNet images, folder or zip")
    parser.add_argument("--cifar", type=Path, help="folder with cifar10-train.zip and cifar10-val-5k.zip")
    parser.add_argument("--list", action="store_true", help="only list the recordings")
    parser.add_argument(
        "--renew",
        action="store_true",
        help="only build the bundles of peers again, and let its figures be of today's code if they are equal",
    )
    args = parser.parse_args(argv)
    args.names = args.names or list(COMMANDS)
    if unknown := set(args.names) - set(COMMANDS):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; valid names are {', '.join(COMMANDS)}")
    wanted = ["peers"] if args.renew else [] if args.list else args.names
    for name in wanted:
        for option in ("imagenet", "cifar"):
            if f"{{{option}}}" in "".join(COMMANDS[name]) and getattr(args, option) is None:
                parser.error(f"{name} needs --{option}; without images run: python -m benchmarks.record demo pages")
    return args


def record(args: argparse.Namespace) -> None:
    """Run the benches, first all that a busy machine can do."""
    for step in range(2):
        for name in args.names:
            if words := COMMANDS[name][step].format(imagenet=args.imagenet, cifar=args.cifar):
                print(f"record {name}: python -m {words}", flush=True)
                subprocess.run([sys.executable, "-m", *words.split()], cwd=ROOT, check=True)
    print("Write the figures into the pages: make figures")


def lines() -> Iterator[str]:
    """A line for each file and recording: how many commits ago, and whether bundles would be others today."""
    known = recordings(HERE)
    for path in sorted(HERE.glob("*.json")):
        own = {row["recording"] for row in read_rows(path) if "recording" in row} if is_rows(path) else set()
        found = [known[name] for name in sorted(own)] + [each for each in [recording_of(path)] if each]
        for recording in found:
            ago = git("rev-list", "--count", f"{recording.commit}..HEAD")
            changed = [room for room in BUNDLES if not recording.of_today((room,))]
            today = f"changed since: {', '.join(changed)}" if changed else "of today's code"
            yield f"{path.name}: {recording.commit}, {recording.date}, {ago} commits ago, {recording.cpu}; {today}"
        if not found and is_rows(path):
            yield f"{path.name}: recorded before recordings were kept"


def is_rows(path: Path) -> bool:
    return path.read_text(encoding="utf-8").startswith("[")


def renew(images: Path) -> None:
    """Let the figures of peers on this kind of processor be of today's code, if it makes the same files."""
    from benchmarks import peers

    path = peers.file_here()
    recording = recording_of(path)
    if recording is None:
        raise SystemExit(f"{path} has no recording")
    if changed := changed_modules(recording.commit):
        raise SystemExit(f"{', '.join(changed)}, which run bundles, have changed: record the times again")
    if others := peers.other_bundles(json.loads(path.read_text())["models"], images):
        raise SystemExit(f"Today's bundles of {', '.join(others)} have other files, at least on this machine")
    renew_recording(path)


if __name__ == "__main__":
    main()
