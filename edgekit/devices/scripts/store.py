"""Files on a device by their sha256: which are missing, and receiving them.

Called with one JSON request: {"cache": FOLDER, "files": {SHA256: SIZE}}. With "receive" true the files come on stdin,
one after the other, in the request's order; each is written under a temporary name, compared with its hash, and
renamed. The answer is {"missing": [SHA256]}: after receiving, those whose content was not what the hash says.
"""

import hashlib
import json
import os
import sys
from pathlib import Path

CHUNK = 1 << 20


def missing(folder: Path, files: "dict[str, int]") -> "list[str]":
    """The files that aren't there in full size."""
    return [name for name, size in files.items() if not _is_there(folder / name, size)]


def receive(folder: Path, files: "dict[str, int]") -> "list[str]":
    """Take the files from stdin; the names of those that were damaged on the way."""
    folder.mkdir(parents=True, exist_ok=True)
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
    print(json.dumps({"missing": work(place, request["files"])}))
