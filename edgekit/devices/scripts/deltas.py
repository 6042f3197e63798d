"""Makes files of the store from older files and deltas, which the store has received.

The argument is a JSON request: {"cache": FOLDER, "deltas": [{"sha256": SHA256, "size": BYTES, "base": PATH, "delta":
SHA256}]}. Each file that has its SHA-256 is put into the store, and every delta is deleted. The answer is {"failed":
{SHA256: REASON}}, with the files that could not be made.

A delta describes a file in blocks of 4096 bytes, of which the last may be shorter. It is a bz2 stream with a record for
each block: the distance in bytes between the block's place and that of the base's block that it is like, as a signed
little-endian integer of 8 bytes, and the differences between the bytes of the two blocks, modulo 256. Bytes that the
base lacks count as 0.
"""

import hashlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO

BLOCK = 4096
DISTANCE = 8
"""Size of a distance in bytes."""


def make(store: Path, name: str, size: int, base: Path, delta: Path) -> None:
    """Make a file of the store. Raises ValueError if it doesn't get its hash, and the errors of reading and writing."""
    import bz2  # not every Python was built with it

    draft = store / f".{name}.tmp-{os.getpid()}"
    try:
        digest = hashlib.sha256()
        with bz2.open(delta) as records, base.open("rb") as old, draft.open("wb") as file:
            for block in blocks(records, old, size):
                file.write(block)
                digest.update(block)
            file.flush()
            os.fsync(file.fileno())
        if digest.hexdigest() != name:
            raise ValueError("the result has another hash")
        os.replace(draft, store / name)
    finally:
        draft.unlink(missing_ok=True)


def blocks(records: "IO[bytes]", old: "IO[bytes]", size: int) -> "Iterator[bytes]":
    """Yield the blocks of a file of this size."""
    for place in range(0, size, BLOCK):
        count = min(BLOCK, size - place)
        distance = int.from_bytes(records.read(DISTANCE), "little", signed=True)
        differences = records.read(count)
        if len(differences) < count:
            raise ValueError("the delta ended early")
        old.seek(place + distance)
        yield added(old.read(count).ljust(count, b"\0"), differences)


def added(one: bytes, two: bytes) -> bytes:
    """The sums of the bytes at the same places, modulo 256.

    As two large integers, because Python alone would take seconds for each megabyte. The upper bit of each byte is
    added without its carry, which would go into the next byte.
    """
    first, second = int.from_bytes(one, "little"), int.from_bytes(two, "little")
    lower = int.from_bytes(b"\x7f" * len(one), "little")
    return ((first & lower) + (second & lower) ^ (first ^ second) & ~lower).to_bytes(len(one), "little")


if __name__ == "__main__":
    request = json.loads(sys.argv[1])
    place = Path(request["cache"]) / "files"
    failed = {}
    for item in request["deltas"]:
        delta = place / item["delta"]
        try:
            make(place, item["sha256"], item["size"], Path(item["base"]), delta)
        except Exception as error:  # whatever it is, the host sends the whole file
            failed[item["sha256"]] = f"{type(error).__name__}: {error}"
        delta.unlink(missing_ok=True)
    print(json.dumps({"failed": failed}))
