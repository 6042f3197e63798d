"""Messages between edgekit and its page in a browser, as JSON, and what the facts in them mean.

A request has an `operation`; an answer has its `id`.
"""

import re
from dataclasses import dataclass
from typing import Literal

from msgspec import Struct

from edgekit.devices.registry import Device
from edgekit.devices.web.runtime_package import LICENSE, BuildName
from edgekit.errors import BrowserError, printable
from edgekit.report.device import BrowserFacts, DeviceFacts, DotProduct


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
class Images:
    """Images for a model, and how to normalize them."""

    pixels: Download
    """Bytes [count,H,W,C]."""
    count: int
    """Number of images."""
    shape: tuple[int, ...]
    """Shape of a normalized image, [C,H,W]."""
    table: tuple[tuple[float, ...], ...]
    """For each channel, the normalized value of each of the 256 bytes, as float32."""


@dataclass(frozen=True, kw_only=True)
class LogitsRequest:
    """Asks for the logits of a model. The answer is float32 [count,classes] in binary."""

    operation: Literal["logits"] = "logits"
    build: Build
    models: tuple[Download]
    images: tuple[Images]
    before: int
    """Number of images of earlier requests, which the page counts as done."""


@dataclass(frozen=True, kw_only=True)
class TimesRequest:
    """Asks to time models in turns, each on its first image. The answer is `RawTimes`."""

    operation: Literal["times"] = "times"
    build: Build
    models: tuple[Download, ...]
    images: tuple[Images, ...]
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


class Answer(Struct, frozen=True):
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
