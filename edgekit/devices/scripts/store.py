"""Files on a device by their sha256: which are missing, and receiving them.

Called with one JSON request: {"cache": FOLDER, "files": {SHA256: SIZE}}. The answer is {"missing": [SHA256],
"removable": BYTES}: what the files that may go take. With "receive" true the files come on stdin, one after the other,
in the request's order; each is written under a temporary name, compared with its hash, and renamed. Then "missing" are
those whose content was not what the hash says.

So that a card doesn't fill up, files that were not used for a month go before others are received, and the longest
unused of the rest as long as all of them together take more than 1 GB, or the disk has no room for the new ones. What
was used within the last hour stays: another run may be about to.
"""

import hashlib
import json
import os
import shutil
import sys
import time
from pathlib import Path

CHUNK = 1 << 20
KEPT_BYTES = 10**9
KEPT_S = 30 * 86400
RECENT_S = 3600


def missing(folder: Path, files: "dict[str, int]") -> "list[str]":
    """The files that aren't there in full size; those that are count as used now."""
    absent = []
    for name, size in files.items():
        if _is_there(folder / name, size):
            os.utime(folder / name)
        else:
            absent.append(name)
    return absent


def removable(folder: Path, files: "dict[str, int]") -> "list[tuple[float, int, Path]]":
    """What may go: time of its last use, size and path, the longest unused first."""
    if not folder.is_dir():
        return []
    found = [(path.stat().st_mtime, path.stat().st_size, path) for path in folder.iterdir() if path.name not in files]
    return sorted(each for each in found if time.time() - each[0] > RECENT_S)


def make_room(folder: Path, files: "dict[str, int]") -> None:
    """Remove what may go, as far as that is needed for files that are to be received."""
    coming, held = sum(files.values()), sum(path.stat().st_size for path in folder.iterdir())
    for used, size, path in removable(folder, files):
        old, temporary = time.time() - used > KEPT_S, path.name.startswith(".")
        if old or temporary or held + coming > KEPT_BYTES or shutil.disk_usage(folder).free < coming:
            path.unlink()
            held -= size


def receive(folder: Path, files: "dict[str, int]") -> "list[str]":
    """Take the files from stdin; the names of those that were damaged on the way."""
    folder.mkdir(parents=True, exist_ok=True)
    make_room(folder, files)
    damaged = []
    for name, size in files.items():
        beside = folder / f".{name}.tmp-{os.getpid()}"
        digest, left = hashlib.sha256(), size
        try:
            with beside.open("wb") as file:
                while left:
                    chunk = sys.stdin.buffer.read(min(left, CHUNK))
                    if not chunk:
                        raise SystemExit(f"the data ended {left} bytes early")
                    file.write(chunk)
                    digest.update(chunk)
                    left -= len(chunk)
                file.flush()
                os.fsync(file.fileno())
            if digest.hexdigest() == name:
                beside.replace(folder / name)
            else:
                damaged.append(name)
        finally:
            if beside.exists():
                beside.unlink()
    return damaged


def _is_there(path: Path, size: int) -> bool:
    try:
        return path.stat().st_size == size
    except OSError:
        return False


if __name__ == "__main__":
    request = json.loads(sys.argv[1])
    place = Path(request["cache"]) / "files"
    work = receive if request.get("receive") else missing
    lacking = work(place, request["files"])
    print(json.dumps({"missing": lacking, "removable": sum(each[1] for each in removable(place, request["files"]))}))
