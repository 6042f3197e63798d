"""The package of LiteRT.js, whose WebAssembly a page runs. npm downloads it once, or the user names its file."""

import gzip
import hashlib
import json
import shutil
import subprocess
import sysconfig
import tarfile
import tempfile
from base64 import b64encode
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from edgekit.errors import MissingExtraError, OutputError, UsageError
from edgekit.support.files import replacing

NAME, VERSION = "@litertjs/core", "2.5.3"
LICENSE = "Apache-2.0"
INTEGRITY = "sha512-PlGmbMOq9WitX7FO0jhbdJw9GthatsyuCQXjTt/wJZo0FLaw48q4tz8IwqgqCIkviYGr9OFDL1kCnN4nzWoyJQ=="
"""Hash of the package's file, as npm writes it."""
HOW = f"Get it with `npm pack {NAME}@{VERSION}` on any machine, and name it with `--web-runtime FILE`"
TIMEOUT_S = 300

BuildName = Literal["relaxed", "compat", "threaded"]
STEMS: dict[BuildName, str] = {
    "relaxed": "litert_wasm_internal",
    "compat": "litert_wasm_compat_internal",
    "threaded": "litert_wasm_threaded_internal",
}
"""Names of the files of each build in the package, without their suffixes."""


@dataclass(frozen=True)
class RuntimeFiles:
    """The unpacked files of LiteRT.js."""

    folder: Path
    """Folder with a script, its WebAssembly and that in gzip for each build."""

    def script(self, build: BuildName) -> Path:
        """Script that starts a build."""
        return self.folder / f"{STEMS[build]}.js"

    def wasm(self, build: BuildName) -> Path:
        """WebAssembly of a build."""
        return self.folder / f"{STEMS[build]}.wasm"


def runtime_files(package: Path | None = None) -> RuntimeFiles:
    """The files of LiteRT.js, from the cache or from the file of its package, which npm downloads if none is named.

    Raises UsageError if the file is another one, and MissingExtraError if there is none and npm can't download it.
    """
    from platformdirs import user_cache_path

    folder = user_cache_path("edgekit", appauthor=False) / f"litertjs-{VERSION}"
    if package is not None:
        check_package(package)
    if not folder.is_dir():
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix="edgekit-") as downloads, replacing(folder) as unpacked:
                _unpack(package or _download(Path(downloads)), unpacked)
        except OSError as error:
            fix = "Set the environment variable XDG_CACHE_HOME to another folder"
            raise OutputError(f"can't write '{folder}': {error.strerror or error}", fix=fix) from error
    return RuntimeFiles(folder)


def check_package(package: Path) -> None:
    """Raise UsageError unless this is the very file that edgekit was tested with."""
    valid = f"the package file of {NAME} {VERSION}"
    try:
        if not _is_tested(package):
            raise UsageError(f"--web-runtime is '{package}', another file than expected", valid=valid, fix=HOW)
    except OSError as error:
        problem = f"--web-runtime is '{package}': {error.strerror or error}"
        raise UsageError(problem, valid=valid, fix=HOW) from None


def _is_tested(package: Path) -> bool:
    """Whether a file is the one that edgekit was tested with."""
    return f"sha512-{b64encode(hashlib.sha512(package.read_bytes()).digest()).decode()}" == INTEGRITY


def _download(folder: Path) -> Path:
    """Let npm download the package. npm reads the user's own configuration, such as that of a mirror."""
    beside = Path(sysconfig.get_path("scripts")) / "npm"
    npm = str(beside) if beside.is_file() else shutil.which("npm")
    needed = f"browsers need {NAME} {VERSION}, which is not in edgekit's cache"
    if npm is None:
        raise MissingExtraError(f"{needed}, and npm is not installed", fix=f"Install npm. Or: {HOW}")
    command = [npm, "pack", f"{NAME}@{VERSION}", "--json", "--ignore-scripts", "--pack-destination", str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, cwd=folder, check=False)
    except subprocess.TimeoutExpired:
        problem = f"npm didn't answer within {TIMEOUT_S} s"
    else:
        lines = [line for line in done.stderr.splitlines() if line.startswith("npm error")]
        problem = f"npm failed: {lines[0].removeprefix('npm error ') if lines else done.stderr.strip()[-200:]}"
        if done.returncode == 0:
            package = folder / str(json.loads(done.stdout)[0]["filename"])
            if _is_tested(package):
                return package
            problem = f"npm brought another file for {NAME} {VERSION} than edgekit was tested with"
            raise MissingExtraError(problem, fix=f"Check the registry in npm's configuration. Or: {HOW}")
    raise MissingExtraError(f"{needed}, and {problem}", fix=HOW)


def _unpack(package: Path, folder: Path) -> None:
    """Take the builds that edgekit serves out of the package, the large files in gzip, too."""
    folder.mkdir()
    with tarfile.open(package) as archive:
        for stem in STEMS.values():
            for suffix in (".js", ".wasm"):
                member = archive.extractfile(f"package/wasm/{stem}{suffix}")
                assert member is not None
                content = member.read()
                (folder / f"{stem}{suffix}").write_bytes(content)
                (folder / f"{stem}{suffix}.gz").write_bytes(gzip.compress(content, 6, mtime=0))
