"""Creates a virtual environment on a device, unless it exists already.

The argument is a JSON request: {"cache", "key", "archives": [SHA256], "unused"}.
The answer is {"python": PATH, "made": BOOL}. The environment is CACHE/environments/KEY. A file in it that is written
last, after everything else is on the disk, marks it as complete, and is touched at each use. Creating an environment
deletes the others that are neither among the 6 used last nor were used within the last five hours. The script unpacks
the archives, which are in CACHE/files: edgekit's package and all wheels, so that a device needs neither pip nor an
index. At the end the script removes the files in site-packages that match a glob pattern in "unused". The request
{"cache", "clean": true} deletes the cache folder, and its answer is {"removed": BOOL}.
"""

import json
import os
import shutil
import sys
import time
import venv
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

COMPLETE = "edgekit-complete"
KEPT = 6
"""Number of environments to keep, enough for three runtimes and two versions of edgekit."""
RECENT_S = 5 * 3600
"""Longer than a run may wait for its turn, which `edgekit.devices.agent` limits."""


def make(cache: Path, request: "dict[str, object]") -> "dict[str, object]":
    """Create the environment if necessary. Returns its Python, and whether it was created now."""
    place = cache / "environments" / str(request["key"])
    python, mark = place / "bin" / "python", place / COMPLETE
    with locked(cache):
        made = not mark.exists()
        if made:
            shutil.rmtree(place, ignore_errors=True)
            try:
                install(place, cache, request)
                os.sync()  # a power failure must not leave the mark without the packages
                mark.touch()
            except BaseException:
                shutil.rmtree(place, ignore_errors=True)
                raise
            drop_old(place.parent)
    return {"python": str(python), "made": made}


@contextmanager
def locked(cache: Path) -> "Iterator[None]":
    """Lock the environments, which exclude each other because one that is made deletes others."""
    import fcntl  # devices have it, but not every host that imports this module

    (cache / "environments").mkdir(parents=True, exist_ok=True)
    with (cache / "environments" / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def drop_old(environments: Path) -> None:
    """Delete the environments whose last use is the longest ago."""
    marks = environments.glob(f"*/{COMPLETE}")
    for used, mark in sorted(((mark.stat().st_mtime, mark) for mark in marks), reverse=True)[KEPT:]:
        if time.time() - used > RECENT_S and mark.stat().st_mtime == used:
            delete(mark)


def delete(mark: Path) -> None:
    """Delete an environment, its mark first: what is left of an interrupted deletion must not count as complete."""
    mark.unlink()
    os.sync()
    shutil.rmtree(mark.parent, ignore_errors=True)


def install(place: Path, cache: Path, request: "dict[str, object]") -> None:
    """Create the environment, and fill it."""
    venv.create(place, symlinks=True)
    (packages,) = place.glob("lib/python3*/site-packages")
    for archive in list(request["archives"]):  # type: ignore[call-overload]
        unpack(cache / "files" / archive, packages)
    for pattern in list(request["unused"]):  # type: ignore[call-overload]
        for path in packages.glob(pattern):
            path.unlink()


def unpack(path: Path, packages: Path) -> None:
    """Unpack a wheel or package without the scripts, headers and data in a .data folder, which nothing here uses.

    pip needs longer to load itself than this takes.
    """
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            top, _, rest = member.filename.partition("/")
            if top.endswith(".data"):
                scheme, _, member.filename = rest.partition("/")
                if scheme not in ("purelib", "platlib") or not member.filename:
                    continue
            archive.extract(member, packages)


def clean(cache: Path) -> bool:
    """Delete edgekit's folder. Returns whether it existed."""
    if not cache.is_dir():
        return False
    with locked(cache):
        for mark in cache.glob(f"environments/*/{COMPLETE}"):
            delete(mark)
        shutil.rmtree(cache)
    return True


if __name__ == "__main__":
    request = json.loads(sys.argv[1])
    if "clean" in request:
        print(json.dumps({"removed": clean(Path(request["cache"]))}))
    else:
        print(json.dumps(make(Path(request["cache"]), request)))
