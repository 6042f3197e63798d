"""What a page's facts mean: the browser and its processor, the build of LiteRT.js to run, and the dot product."""

import re

from edgekit.devices.registry import Device
from edgekit.devices.web.page_messages import DotProducts, PageFacts
from edgekit.devices.web.runtime_package import LICENSE, BuildName
from edgekit.errors import BrowserError, printable
from edgekit.report.device import BrowserFacts, DeviceFacts, DotProduct

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
