"""Classify each image that appears in a folder, and print its path, label and score as a line of CSV.

python watch_folder.py BUNDLE FOLDER            until Ctrl-C
python watch_folder.py BUNDLE FOLDER --once     the files in the folder, then end
"""

import argparse
import csv
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import edgekit
from edgekit.errors import EdgekitError, ImageError

State = tuple[int, int]


def look(folder: Path) -> dict[Path, State]:
    """The files of the folder, with their sizes and times of change."""
    files = {}
    for path in sorted(folder.iterdir()):
        try:
            stat = path.stat()
        except FileNotFoundError:  # deleted since it was listed
            continue
        if path.is_file() and not path.name.startswith("."):
            files[path] = (stat.st_size, stat.st_mtime_ns)
    return files


def new_files(folder: Path, interval_s: float, once: bool) -> Iterator[Path]:
    """Yield each file when two looks in a row found it unchanged, so that none is read while it is being written."""
    before: dict[Path, State] = {}
    done: dict[Path, State] = {}
    while True:
        now = look(folder)
        for path, state in now.items():
            if done.get(path) != state and (once or before.get(path) == state):
                done[path] = state
                yield path
        if once:
            return
        before, done = now, {path: state for path, state in done.items() if path in now}
        time.sleep(interval_s)


def main() -> None:
    parser = argparse.ArgumentParser(description="Classify each image that appears in a folder.")
    parser.add_argument("bundle", help="folder of a bundle, such as runs/demo/tflite-int8")
    parser.add_argument("folder", type=Path, help="folder to watch")
    parser.add_argument("--interval", type=float, default=1.0, metavar="SECONDS", help="between two looks (default: 1)")
    parser.add_argument("--once", action="store_true", help="classify the files in the folder, then end")
    options = parser.parse_args()
    if not options.folder.is_dir():
        sys.exit(f"There is no folder '{options.folder}'. Create it, or give another one.")
    table = csv.writer(sys.stdout, lineterminator="\n")
    with edgekit.load(options.bundle) as classifier:
        for path in new_files(options.folder, options.interval, options.once):
            try:
                [(label, score)] = classifier.classify(path, top=1, threshold=0)
            except ImageError as error:
                print(f"skipped: {error}", file=sys.stderr, flush=True)
                continue
            table.writerow([path, label, f"{score:.4f}"])
            sys.stdout.flush()


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        pass
    except (EdgekitError, OSError) as error:
        sys.exit(str(error))
