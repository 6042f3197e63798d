"""Makes a virtual environment on a device, unless it is there already.

Called with one JSON request: {"cache", "key", "requirements", "wheels": {FILE NAME: SHA256}, "offline", "unused"}; it
answers {"python": PATH, "made": BOOL}. The environment is CACHE/environments/KEY; a file in it that is written last
says that it is complete, and is touched when it is used. When one is made, those that are not among the 6 used last and
were not used within the last hour go. Wheels are in CACHE/files. Offline, pip itself is one of the wheels, so that
neither an index nor ensurepip is needed. At the end pip is removed, and the files in site-packages that match a glob
pattern in "unused". {"cache", "clean": true} removes the cache folder and answers {"removed": BOOL}.
"""

import json
import os
import shutil
import subprocess
import sys
import time
import venv
from pathlib import Path

COMPLETE = "edgekit-complete"
KEPT = 6
"""Environments: enough for three runtimes and two versions of edgekit."""
RECENT_S = 3600


def make(cache: Path, request: "dict[str, object]") -> "dict[str, object]":
    """The environment's Python, and whether it was made now."""
    import fcntl  # exists on the device, but not on every host that imports this module

    place = cache / "environments" / str(request["key"])
    place.parent.mkdir(parents=True, exist_ok=True)
    with (place.parent / f"{place.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        python = place / "bin" / "python"
        if (place / COMPLETE).exists():
            return {"python": str(python), "made": False}
        shutil.rmtree(place, ignore_errors=True)
        try:
            install(place, python, cache, request)
            (place / COMPLETE).touch()
        except BaseException:
            shutil.rmtree(place, ignore_errors=True)
            raise
    drop_old(place.parent)
    return {"python": str(python), "made": True}


def drop_old(environments: Path) -> None:
    """Remove the environments that were used the longest ago."""
    found = [(each.stat().st_mtime, each.parent) for each in environments.glob(f"*/{COMPLETE}")]
    for used, place in sorted(found, reverse=True)[KEPT:]:
        if time.time() - used > RECENT_S:
            shutil.rmtree(place, ignore_errors=True)
            (environments / f"{place.name}.lock").unlink(missing_ok=True)


def install(place: Path, python: Path, cache: Path, request: "dict[str, object]") -> None:
    """Make the environment and let pip fill it; exits with pip's status if that fails."""
    offline, wheels = request["offline"], place / "wheels"
    venv.create(place, with_pip=not offline, symlinks=True)
    wheels.mkdir()
    for name, digest in dict(request["wheels"]).items():  # type: ignore[call-overload]
        os.link(cache / "files" / digest, wheels / name)
    pip = next((str(each) for each in wheels.glob("pip-*.whl")), None)
    command = [str(python), "-I", f"{pip}/pip"] if pip else [str(python), "-I", "-m", "pip"]
    command += ["install", "--quiet", "--disable-pip-version-check", "--no-input", "--no-cache-dir"]
    # Python compiles what is imported when it is: all of it takes minutes on a slow board, and 30 MB.
    command += ["--only-binary=:all:", "--no-compile"]
    command += ["--no-index", "--find-links", str(wheels)] if offline else []
    (own,) = wheels.glob("edgekit_deploy-*.whl")
    command += [str(own)]
    command += list(request["requirements"])  # type: ignore[call-overload]
    run(command)
    shutil.rmtree(wheels)
    if not offline:
        run([str(python), "-I", "-m", "pip", "uninstall", "--quiet", "--yes", "pip"])
    for pattern in list(request["unused"]):  # type: ignore[call-overload]
        for path in place.glob(f"lib/python3*/site-packages/{pattern}"):
            path.unlink()


def run(command: "list[str]") -> None:
    """Run it with its words on stderr; exits with its status if it fails."""
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=sys.stderr.fileno())
    if done.returncode != 0:
        raise SystemExit(done.returncode if done.returncode > 0 else 128 - done.returncode)


if __name__ == "__main__":
    asked = json.loads(sys.argv[1])
    if "clean" in asked:
        found = os.path.isdir(asked["cache"])
        shutil.rmtree(asked["cache"]) if found else None
        print(json.dumps({"removed": found}))
    else:
        print(json.dumps(make(Path(asked["cache"]), asked)))
