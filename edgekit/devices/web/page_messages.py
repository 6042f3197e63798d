"""Messages between edgekit and its page in a browser, as JSON, and what the facts in them mean.

A request has an `operation`; an answer has its `id`. The page runs the WebAssembly of LiteRT.js, whose package npm
downloads once, or the user names its file.
"""

import gzip
import hashlib
import json
import re
import shutil
import subprocess
import sysconfig
import tarfile
import tempfile
from base64 import b64encode
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from msgspec import Struct

from edgekit.devices.registry import Device
from edgekit.errors import BrowserError, MissingExtraError, OutputError, UsageError, printable
from edgekit.report.figure import BrowserFacts, DeviceFacts, DotProduct
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


@dataclass(frozen=True)
class Download:
    """A file for the page."""

    url: str
    """Address, relative to the page."""
    sha256: str
    """SHA-256 that the page checks."""


@dataclass(frozen=True)
class Build:
    """The build of LiteRT.js to run."""

    script: str
    """Address of its script, relative to the page."""
    wasm: Download
    """Its WebAssembly."""
    threads: int
    """Number of threads that it computes with."""


@dataclass(frozen=True, kw_only=True)
class OpenRequest:
    """Asks for the times to load a bundle and to run it once, in a new worker. The answer is `Opened`."""

    operation: Literal["open"] = "open"
    build: Build
    models: tuple[Download]


@dataclass(frozen=True, kw_only=True)
class PageImages:
    """Images for a model, and how to normalize them, unless it takes pixels."""

    pixels: Download
    """Bytes [count,H,W,C]."""
    count: int
    """Number of images."""
    shape: tuple[int, ...]
    """Shape of an image as the model's input: [C,H,W] if it is normalized, and [H,W,C] for pixels."""
    table: tuple[tuple[float, ...], ...]
    """For each channel, the normalized value of each of the 256 bytes, as float32; empty for pixels."""


@dataclass(frozen=True, kw_only=True)
class LogitsRequest:
    """Asks for the logits of a model. The answer is float32 [count,classes] in binary."""

    operation: Literal["logits"] = "logits"
    build: Build
    models: tuple[Download]
    images: tuple[PageImages]
    before: int
    """Number of images of earlier requests, which the page counts as done."""


@dataclass(frozen=True, kw_only=True)
class TimesRequest:
    """Asks to time models in turns, each on its first image. The answer is `RawTimes`."""

    operation: Literal["times"] = "times"
    build: Build
    models: tuple[Download, ...]
    images: tuple[PageImages, ...]
    """Images of each model."""
    warmup: int
    """Number of rounds before the timed ones."""
    rounds: int
    """Number of timed rounds."""
    turn: int
    """Number of timed rounds of a model in a row."""
    lead_runs: int
    """Most runs before them that aren't timed."""
    lead_ms: float
    """Milliseconds after which no other one of these runs begins."""
    clock_ms: float
    """Step of the clock: a timed batch takes 50 of them at least."""


@dataclass(frozen=True, kw_only=True)
class Shown:
    """What the page shows: while it waits or works, or (`end`) for good. There is no answer."""

    operation: Literal["show", "end"] = "show"
    state: Literal["waiting", "working", "done", "failed"]
    title: str
    text: str = ""
    done: int | None = None
    """Number of steps done, or None if they aren't counted."""
    total: int | None = None
    """Number of steps, or None if they aren't counted."""


Request = OpenRequest | LogitsRequest | TimesRequest


class DotProducts(Struct, frozen=True):
    """Results of relaxed SIMD's integer dot product for operands that tell its implementations apart."""

    small: tuple[int, int, int, int]
    """Sums of one -128 x 1 each."""
    large: tuple[int, int, int, int]
    """Sums of four -128 x -1 each."""


class PageFacts(Struct, frozen=True, kw_only=True):
    """What a page knows about its browser and processor; empty where the browser doesn't tell."""

    user_agent: str
    brands: tuple[tuple[str, str], ...]
    """Names and versions of the browser."""
    platform: str
    platform_version: str
    architecture: str
    model: str
    cores: int
    """Number of logical processors."""
    secure: bool
    """Whether the page came over HTTPS or from the same machine."""
    isolated: bool
    """Whether the page may use threads."""
    simd: bool
    """Whether the browser has WebAssembly SIMD."""
    dot_products: DotProducts | None
    """None if the browser has no relaxed SIMD."""
    clock_ms: float
    """Step of the page's clock, in milliseconds."""


class Joined(Struct, frozen=True):
    """A page's first message."""

    browser: str
    """Random name that a page keeps when it is loaded again."""
    facts: PageFacts


class Opened(Struct, frozen=True):
    """Times of a bundle in a new worker, in milliseconds."""

    load_ms: float
    first_ms: float


class RawTimes(Struct, frozen=True):
    """Times of several models in turns."""

    times: tuple[tuple[float, ...], ...]
    """Milliseconds of each model and round."""
    batches: tuple[int, ...]
    """Number of inferences whose mean is one time, for each model."""
    hidden: bool
    """Whether the page was hidden meanwhile."""


class PageAnswer(Struct, frozen=True):
    """An answer, or the number of steps done so far. Binary answers have no `result`."""

    id: int
    done: int | None = None
    result: dict[str, object] | None = None
    error: str | None = None


ENGINE = re.compile(r"(Firefox|FxiOS|CriOS|EdgA?|OPR|SamsungBrowser|Chrome)/([\d.]+)|Version/([\d.]+).*Safari")
NAMES = {"FxiOS": "Firefox", "CriOS": "Chrome", "Edg": "Edge", "EdgA": "Edge", "OPR": "Opera"}


def build_for(device: str, facts: PageFacts, threads: int) -> BuildName:
    """The fastest build that the browser can run; BrowserError if it can run none."""
    if not facts.simd:
        raise BrowserError(
            f"{device}: {browser_of(facts)} has no WebAssembly SIMD, which LiteRT.js needs",
            valid="Chrome from version 91, Firefox from 89 or Safari from 16.4",
            fix="Update the browser, or open the page in another one",
        )
    if facts.dot_products is None:
        return "compat"
    return "threaded" if threads > 1 and facts.isolated else "relaxed"


def device_of(device: Device, facts: PageFacts, build: BuildName) -> DeviceFacts:
    """A browser, as reports describe it."""
    processor = facts.model or " ".join(filter(None, (facts.platform, facts.architecture)))
    system = " ".join(filter(None, (facts.platform, facts.platform_version)))
    return DeviceFacts(
        name=device.name,
        device_class=None,
        cpu=printable(f"{processor}, in {browser_of(facts)}" if processor else browser_of(facts)),
        cores=facts.cores,
        memory_bytes=None,
        system=printable(system) or None,
        browser=BrowserFacts(
            user_agent=printable(facts.user_agent),
            build=build,
            dot_product=dot_product(facts.dot_products),
            clock_ms=float(f"{facts.clock_ms:.1g}"),
            secure=facts.secure,
            license=LICENSE,
        ),
    )


def browser_of(facts: PageFacts) -> str:
    """Name and version of the browser, such as "Chromium 150"."""
    own = [(name, version) for name, version in facts.brands if not re.search(r"not.*brand", name, re.IGNORECASE)]
    if own:
        name, version = max(own, key=lambda brand: brand[0] != "Chromium")
        return f"{name} {version.split('.')[0]}"
    match = ENGINE.search(facts.user_agent)
    if match is None:
        return "an unknown browser"
    name = NAMES.get(match[1], match[1]) or "Safari"
    return f"{name} {(match[2] or match[3]).split('.')[0]}"


def dot_product(products: DotProducts | None) -> DotProduct:
    """How the browser computes relaxed SIMD's integer dot product. XNNPACK chooses its kernels by the same test."""
    if products is None:
        return "absent"
    small, large = set(products.small), set(products.large)
    if (small, large) == ({-128}, {512}):
        return "signed"
    return "unsigned" if (small, large) == ({128}, {-130560}) else "emulated"
