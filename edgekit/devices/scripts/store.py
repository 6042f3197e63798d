"""A store of files on a device, named by their SHA-256: lists missing files, and receives them.

The argument is a JSON request: {"cache": FOLDER, "files": {SHA256: SIZE}}. The answer is {"missing": [SHA256],
"removable": BYTES, "partial": {SHA256: BYTES}}, where "removable" is the size of all files that may be deleted, and
"partial" what an interrupted copy left of missing files. If the request has "receive": true, the files arrive on stdin
one after the other, in the request's order, each without the first bytes that "offsets": {SHA256: BYTES} gives. Each
is written to .SHA256.part, compared with its hash, and renamed. "missing" then lists the files whose content did not
match.

To keep an SD card from filling up, files that were not used for a month are deleted before new ones are received. Of
the rest, those unused for the longest time are deleted while all files together exceed 1 GB, or the disk has too little
space for the new ones. Files that were used within the last five hours stay, because a run that waits for its turn may
need them. Runs of several hosts may use the store at once, so any file may disappear between two calls.
"""

import hashlib
import io
import json
import os
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

CHUNK = 1 << 20
KEPT_BYTES = 10**9
KEPT_S = 30 * 86400
RECENT_S = 5 * 3600
"""Longer than a run may wait for its turn, which `edgekit.devices.agent` limits."""


def missing(folder: Path, files: "dict[str, int]") -> "list[str]":
    """Names of the files that aren't in the store with their full size. Touches the others, which marks their use."""
    absent = []
    for name, size in files.items():
        try:
            complete = (folder / name).stat().st_size == size
            if complete:
                os.utime(folder / name)
        except OSError:
            complete = False
        if not complete:
            absent.append(name)
    return absent


def partial(folder: Path, names: "list[str]") -> "dict[str, int]":
    """Number of bytes that an interrupted copy left of each of these files. Touches them, which marks their use."""
    sizes = {}
    for name in names:
        try:
            os.utime(part_of(folder, name))
            sizes[name] = part_of(folder, name).stat().st_size
        except FileNotFoundError:
            continue
    return sizes


def part_of(folder: Path, name: str) -> Path:
    """Path of a file while it is received."""
    return folder / f".{name}.part"


def stored(folder: Path) -> "list[tuple[float, int, Path]]":
    """All files of the store: time of last use, size and path."""
    entries = []
    for path in folder.iterdir() if folder.is_dir() else ():
        try:
            facts = path.stat()
        except FileNotFoundError:  # another run has renamed or deleted it
            continue
        entries.append((facts.st_mtime, facts.st_size, path))
    return entries


def removable(folder: Path, files: "dict[str, int]") -> "list[tuple[float, int, Path]]":
    """Files that may be deleted: time of last use, size and path, starting with the longest unused."""
    others = [entry for entry in stored(folder) if entry[2].name not in files]
    return sorted(entry for entry in others if time.time() - entry[0] > RECENT_S)


def make_room(folder: Path, files: "dict[str, int]") -> None:
    """Delete removable files as far as the files to receive need it."""
    incoming, total = sum(files.values()), sum(size for _, size, _ in stored(folder))
    for used, size, path in removable(folder, files):
        old, temporary = time.time() - used > KEPT_S, ".tmp-" in path.name
        if old or temporary or total + incoming > KEPT_BYTES or shutil.disk_usage(folder).free < incoming:
            path.unlink(missing_ok=True)
            total -= size


def receive(folder: Path, files: "dict[str, int]", offsets: "dict[str, int]") -> "list[str]":
    """Receive files from stdin. Returns the names of those that arrived damaged."""
    folder.mkdir(parents=True, exist_ok=True)
    make_room(folder, {name: size - offsets.get(name, 0) for name, size in files.items()})
    return [name for name, size in files.items() if not receive_one(folder, name, size, offsets.get(name, 0))]


def receive_one(folder: Path, name: str, size: int, offset: int) -> bool:
    """Receive what follows the first `offset` bytes of a file. Returns whether it has its hash, and is in the store.

    If stdin ends early, the file stays, so that the next copy resumes there.
    """
    file = opened(folder, name, size, offset)
    if file is None:
        for _ in chunks(sys.stdin.buffer, size - offset):
            pass
        return True
    with file:
        file.seek(0)
        digest = hashlib.sha256()
        for chunk in chunks(file, offset):
            digest.update(chunk)
        for chunk in chunks(sys.stdin.buffer, size - offset):
            file.write(chunk)
            file.flush()
            digest.update(chunk)
        os.fsync(file.fileno())
        if digest.hexdigest() == name:
            os.replace(file.name, folder / name)
            return True
    os.unlink(file.name)
    return False


def chunks(source: "IO[bytes]", left: int) -> "Iterator[bytes]":
    """Yield the next `left` bytes of a file, and end the process if there are fewer."""
    while left:
        chunk = source.read(min(left, CHUNK))
        if not chunk:
            raise SystemExit(f"the data ended {left} bytes early")
        left -= len(chunk)
        yield chunk


def opened(folder: Path, name: str, size: int, offset: int) -> "io.BufferedRandom | None":
    """A file with the first `offset` bytes: the part, or a copy while another run receives it.

    None if another run has received the whole file since this one asked for it.
    """
    import fcntl  # devices have it, but not every host that imports this module

    part = part_of(folder, name)
    while True:
        file = part.open("a+b")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            with file:
                if os.fstat(file.fileno()).st_size < offset:  # the other run has begun anew
                    fcntl.flock(file, fcntl.LOCK_EX)
                    continue
                file.seek(0)
                copy = (folder / f".{name}.tmp-{os.getpid()}").open("w+b")
                copy.writelines(chunks(file, offset))
                return copy
        if part.exists() and os.path.samestat(os.fstat(file.fileno()), part.stat()):
            if not missing(folder, {name: size}):
                os.unlink(part)
                file.close()
                return None
            file.truncate(offset)
            return file
        file.close()  # another run has just renamed it


if __name__ == "__main__":
    request = json.loads(sys.argv[1])
    place = Path(request["cache"]) / "files"
    if request.get("receive"):
        names = receive(place, request["files"], request["offsets"])
    else:
        names = missing(place, request["files"])
    size = sum(entry[1] for entry in removable(place, request["files"]))
    print(json.dumps({"missing": names, "removable": size, "partial": partial(place, names)}))
