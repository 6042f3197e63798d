"""Creates a virtual environment on a device, unless it exists already.

The argument is a JSON request: {"cache", "key", "archives": [SHA256], "unused"}.
The answer is {"python": PATH, "made": BOOL}. The environment is CACHE/environments/KEY. A file in it that is written
last, after everything else is on the disk, marks it as complete, and is touched at each use. Creating an environment
deletes the others that are neither among the 6 used last nor were used within the last hour. The script unpacks the
archives, which are in CACHE/files: edgekit's package and all wheels, so that a device needs neither pip nor an index.
At the end the script removes the files in site-packages that match a glob pattern in "unused". The request {"cache",
"clean": true} deletes the cache folder, and its answer is {"removed": BOOL}.
"""

import json
import os
import shutil
import sys
import time
import venv
import zipfile
from pathlib import Path

COMPLETE = "edgekit-complete"
KEPT = 6
"""Number of environments to keep, enough for three runtimes and two versions of edgekit."""
RECENT_S = 3600


def make(cache: Path, request: "dict[str, object]") -> "dict[str, object]":
    """Create the environment if necessary. Returns its Python, and whether it was created now."""
    import fcntl  # devices have it, but not every host that imports this module

    place = cache / "environments" / str(request["key"])
    place.parent.mkdir(parents=True, exist_ok=True)
    with (place.parent / f"{place.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        python = place / "bin" / "python"
        if (place / COMPLETE).exists():
            return {"python": str(python), "made": False}
        shutil.rmtree(place, ignore_errors=True)
        try:
            install(place, cache, request)
            os.sync()  # a power failure must not leave the mark without the packages
            (place / COMPLETE).touch()
        except BaseException:
            shutil.rmtree(place, ignore_errors=True)
            raise
    drop_old(place.parent)
    return {"python": str(python), "made": True}


def drop_old(environments: Path) -> None:
    """Delete the environments whose last use is the longest ago."""
    uses = []
    for mark in environments.glob(f"*/{COMPLETE}"):
        try:
            uses.append((mark.stat().st_mtime, mark.parent))
        except FileNotFoundError:  # another run has deleted it
            continue
    for used, place in sorted(uses, reverse=True)[KEPT:]:
        if time.time() - used > RECENT_S:
            shutil.rmtree(place, ignore_errors=True)
            (environments / f"{place.name}.lock").unlink(missing_ok=True)


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


if __name__ == "__main__":
    request = json.loads(sys.argv[1])
    if "clean" in request:
        exists = os.path.isdir(request["cache"])
        if exists:
            shutil.rmtree(request["cache"])
        print(json.dumps({"removed": exists}))
    else:
        print(json.dumps(make(Path(request["cache"]), request)))
