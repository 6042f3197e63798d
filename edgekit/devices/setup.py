"""Set up a virtual environment on the device with edgekit, numpy, Pillow, msgspec and the runtime of a bundle.

Everything is in edgekit's folder on the device, by default ~/.cache/edgekit: `files` named by SHA-256, `environments`
named by a hash of their contents. scripts/store and scripts/environment delete old ones. edgekit changes nothing else
there.
"""

import hashlib
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable
from io import BytesIO
from pathlib import Path
from typing import IO, Literal

from edgekit import __version__
from edgekit.config.runtimes import find_runtime
from edgekit.config.toml_reader import data_folder
from edgekit.devices.faults import exit_error, full_disk
from edgekit.devices.probe_result import ProbeResult, python_of, reason_against, wheel_problem
from edgekit.devices.scripts import ENVIRONMENT, STORE
from edgekit.devices.transport import Connection, Done, Request, script_command, watched
from edgekit.errors import ConnectionCutError, DeviceError, DeviceSetupError
from edgekit.support import distribution
from edgekit.support.child_process import run_python
from edgekit.support.distribution import pip_install, release
from edgekit.support.files import digest, file_sha256

CHUNK = 1 << 20
SET_UP_S = 3600
"""Time limit for unpacking the packages of an environment, which are some 100 MB, to an SD card."""


@dataclass(frozen=True)
class StoreAnswer:
    """The state of the store."""

    missing: tuple[str, ...]
    """SHA-256 of the files that are not in the store or, after receiving, arrived damaged."""
    removable: int
    """Size in bytes of the other files that may be removed."""
    partial: Mapping[str, int]
    """Number of bytes of a missing file that an interrupted copy left, by its SHA-256."""


def environment_key(package: bytes, requirements: Sequence[str], python_version: str) -> str:
    """Name of an environment: a hash of everything that it contains."""
    return digest(hashlib.sha256(package).hexdigest(), sorted(requirements), python_version)[:24]


def requirements_of(target: str, minimum: str | None, signed: bool = False) -> list[str]:
    """Requirements in addition to edgekit itself, with what verifies signatures if bundles are `signed`.

    `minimum` is the oldest version of the runtime for the bundle.
    """
    engine = find_runtime(target).requirement
    return [*REQUIREMENTS, *(TRUST_REQUIREMENTS if signed else ()), f"{engine},>={minimum}" if minimum else engine]


def ensure_environment(connection: Connection, facts: ProbeResult, target: str, minimum: str | None = None) -> str:
    """Create the environment for a target unless it exists, and return the path of its Python.

    Raises DeviceFullError, DeviceSetupError, or the error of a lost connection.
    """
    device = connection.device.name
    reason = reason_against(device, facts) or wheel_problem(target, facts)
    if reason:
        raise DeviceSetupError(f"{device}: {target} can't run on this device: {reason}")
    python = python_of(device, facts)
    package, requirements = own_package(), requirements_of(target, minimum, connection.device.trust is not None)
    key = environment_key(package, requirements, python.version)
    ready = f"{facts.cache}/environments/{key}"
    used = ["sh", "-c", 'touch -c "$1" && test -e "$1"', "sh", f"{ready}/edgekit-complete"]
    if connection.run(used, work="the search for an environment").status == 0:
        return f"{ready}/bin/python"
    with tempfile.TemporaryDirectory(prefix="edgekit-") as folder:
        (Path(folder) / "edgekit.zip").write_bytes(package)
        fetch_wheels(device, facts, requirements, Path(folder), connection.device.wheels)
        archives = send_files(connection, facts, list(Path(folder).iterdir()))
    request = {"cache": facts.cache, "key": key, "archives": archives, "unused": find_runtime(target).unused_files}
    done = connection.run(script_command(python.path, ENVIRONMENT, request), work="the set-up", limit_s=SET_UP_S)
    if done.status != 0:
        raise exit_error(device, "the set-up", done.status, done.err)
    return f"{ready}/bin/python"


def send_files(connection: Connection, facts: ProbeResult, paths: Sequence[Path]) -> list[str]:
    """Copy the files that the device lacks, and verify them there. Returns their SHA-256, which are their names there.

    A file whose copy was interrupted is resumed.

    Raises DeviceFullError, before sending anything, if they don't fit.
    """
    device = connection.device.name
    python = python_of(device, facts).path
    try:
        hashes = [file_sha256(path) for path in paths]
        sizes = {digest: path.stat().st_size for digest, path in zip(hashes, paths, strict=True)}
    except OSError as error:
        raise DeviceError(f"{device}: can't read '{error.filename}' to copy it there: {error.strerror}") from error
    question = {"cache": facts.cache, "files": sizes}
    store = connection.ask(python, STORE, question, StoreAnswer, "the list of files")
    missing, free = store.missing, facts.disk_free_bytes
    offsets = {digest: min(store.partial.get(digest, 0), sizes[digest]) for digest in missing}
    total = sum(sizes[digest] - offsets[digest] for digest in missing)
    if free is not None and total > free + store.removable:
        raise full_disk(device, "a copy", f"it needs {total / 1e6:.0f} MB, and {free / 1e6:.0f} MB are free")
    if not missing:
        return hashes
    files = {digest: sizes[digest] for digest in missing}
    request = {"cache": facts.cache, "files": files, "receive": True, "offsets": offsets}
    by_hash = dict(zip(hashes, paths, strict=True))
    damaged = _stream(connection, python, request, {by_hash[digest]: offsets[digest] for digest in missing})
    if damaged:
        raise ConnectionCutError(
            f"{device}: {len(damaged)} of {len(missing)} files arrived damaged and were discarded",
            fix="Run the same command again",
        )
    connection.copied_bytes += total
    return hashes


def fetch_wheels(
    device: str, facts: ProbeResult, requirements: Sequence[str], folder: Path, wheels: str | None = None
) -> None:
    """Let this machine's pip download wheels for the device's processor, glibc and Python, or take them from `wheels`.

    Raises DeviceSetupError.
    """
    python = release(python_of(device, facts).version, parts=2)
    libc = release(facts.glibc or "", parts=2)[1]
    platforms = [f"manylinux_2_{minor}_{facts.machine}" for minor in range(libc, 16, -1)]
    arguments = ["-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-input"]
    arguments += ["--only-binary=:all:", "--implementation", "cp", "--python-version", "{}.{}".format(*python)]
    arguments += [word for abi in (f"cp{python[0]}{python[1]}", "abi3", "none") for word in ("--abi", abi)]
    for platform in (*platforms, f"manylinux2014_{facts.machine}"):
        arguments += ["--platform", platform]
    arguments += ["--no-index", "--find-links", wheels] if wheels else []
    done = run_python([*arguments, "--dest", str(folder), *requirements])
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        raise DeviceSetupError(
            f"{device}: this machine's pip can't {f'take from {wheels}' if wheels else 'download'} the packages for "
            f"{facts.machine}, Python {python[0]}.{python[1]} and glibc {facts.glibc}: "
            f"{lines[-1] if lines else 'no message'}",
            valid=f"wheels of {', '.join(requirements)} and of their dependencies",
            fix=f"Run: {pip_install('pip')}"
            if "No module named pip" in done.stderr
            else "Check this machine's network and pip configuration, or name a folder of such wheels with --wheels",
        )


def clean(connection: Connection, facts: ProbeResult) -> bool:
    """Delete edgekit's folder on the device. Returns whether it existed."""
    python = python_of(connection.device.name, facts).path
    request = {"cache": facts.cache, "clean": True}
    return connection.ask(python, ENVIRONMENT, request, dict[str, bool], "cleaning")["removed"]


def _stream(connection: Connection, python: str, request: Request, paths: Mapping[Path, int]) -> Sequence[str]:
    """Send files from these offsets to the store. Returns the hashes of those that arrived damaged."""
    with tempfile.TemporaryFile(dir=connection.folder) as stderr:
        process = connection.start(script_command(python, STORE, request), stderr)
        with watched(process, connection.device.name, "the device took nothing of a copy") as moved:
            assert process.stdin
            assert process.stdout
            complete = _feed(process.stdin, paths, moved)
            out = process.stdout.read()
            process.stdout.close()
            status = process.wait()
        stderr.seek(0)
        errors = stderr.read().decode(errors="replace")
    connection.check(status)
    work = "a copy" if complete else "an interrupted copy"
    return connection.answer(Done(status, out, errors), StoreAnswer, work).missing


def _feed(pipe: IO[bytes], paths: Mapping[Path, int], moved: Callable[[], None]) -> bool:
    """Write files, each from its offset, into a pipe, and call `moved` for each chunk.

    Returns whether the other side read all of them.
    """
    try:
        with pipe:
            for path, offset in paths.items():
                with path.open("rb") as file:
                    file.seek(offset)
                    while chunk := file.read(CHUNK):
                        pipe.write(chunk)
                        moved()
    except BrokenPipeError:
        return False
    return True


REQUIREMENTS = ("numpy>=1.26", "pillow>=10.3", "msgspec>=0.20,<1")
"""Requirements of the agent in addition to a runtime: the package's own dependencies, and msgspec for messages."""
TRUST_REQUIREMENTS = ("cryptography>=43",)
"""What a device that takes only signed bundles needs in addition: the extra `trust`."""
_LEFT_OUT = frozenset(("__pycache__", "_data", "cli", "compiler", "demo", "job", "models", "pipeline", "tuning", "web"))
"""Folders that a device doesn't need, because it makes no bundles, serves no page and has no command line, and those
with another place."""
_EPOCH = (1980, 1, 1, 0, 0, 0)
_MODE = 0o100644
"""Mode of a regular file that its owner may write. Without it, some programs unpack files that nobody may read."""


def own_package() -> bytes:
    """The running package as a ZIP archive for devices, which unpack it into their environments.

    A device needs only a part of the package: Python and text files, device classes and recipes in the place where an
    installed package has them, and neither the demo nor the rooms that only make bundles. The same content gives the
    same bytes, so the archive's hash identifies it.
    """
    content = dict(_content())
    metadata = f"Metadata-Version: 2.1\nName: {distribution.NAME}\nVersion: {__version__}\n"
    stem = f"{distribution.NAME.replace('-', '_')}-{__version__}"
    content[f"{stem}.dist-info/METADATA"] = metadata.encode()
    out = BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in content.items():
            member = zipfile.ZipInfo(name, _EPOCH)
            member.external_attr = _MODE << 16
            archive.writestr(member, data, zipfile.ZIP_DEFLATED)
    return out.getvalue()


def _content() -> Iterator[tuple[str, bytes]]:
    yield from _below("edgekit", files("edgekit"))
    kinds: tuple[Literal["targets", "calibration"], ...] = ("targets", "calibration")
    for kind in kinds:
        yield from _below(f"edgekit/_data/{kind}", data_folder(kind))


def _below(name: str, folder: Traversable) -> Iterator[tuple[str, bytes]]:
    for item in sorted(folder.iterdir(), key=lambda item: item.name):
        path = f"{name}/{item.name}"
        if item.is_dir() and item.name not in _LEFT_OUT:
            yield from _below(path, item)
        elif item.is_file():
            yield path, item.read_bytes()
