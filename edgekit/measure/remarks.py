"""Remarks on a row that do not affect its verdict."""

from collections.abc import Iterator

from edgekit.config.device_classes import list_device_classes, load_device_class
from edgekit.measure.steadiness import throttled
from edgekit.report.figure import counted
from edgekit.report.measurement import Measurement

SIMULATED = "INT8 is simulated: the runtime computes it in floating point here, so it is smaller but not faster"
SATURATING = "pairs of INT8 weights can saturate on x86 processors without VNNI, where this bundle is less accurate"
DOT_PRODUCTS = {
    "emulated": "the browser emulates the integer dot product here, so INT8 gains less than on a processor that has it",
    "absent": "the browser lacks the integer dot product (relaxed SIMD), so INT8 gains less than in one that has it",
}
"""Remarks on INT8 in a browser, by the state of its dot product."""


def remarks_on(measured: Measurement) -> Iterator[str]:
    """Yield what a reader must know about the figures: simulation, saturation, heat, and streams that wait."""
    if measured.int8 and measured.int8.simulated:
        yield SIMULATED
    if measured.int8 and measured.int8.pairs_that_can_saturate and not _is_arm(measured.device.device_class):
        yield f"{measured.int8.pairs_that_can_saturate:,} {SATURATING}"
    browser = measured.device.browser
    if browser and measured.precision == "int8" and browser.dot_product in DOT_PRODUCTS:
        yield DOT_PRODUCTS[browser.dot_product]
    if measured.sustain and measured.thermal and not measured.device.emulated and (hot := throttled(measured.thermal)):
        yield hot
    energy, throughput, cores = measured.energy, measured.throughput, measured.device.cores
    if energy and energy.inference_mj is not None and energy.inference_mj <= 0:
        yield f"energy: {energy.source} does not show more power under load than idle, so the net energy means nothing"
    if throughput and cores and throughput.streams > 1 and throughput.streams * throughput.threads > cores:
        threads, on = counted(throughput.threads, "thread"), counted(cores, "core")
        yield f"{throughput.streams} streams, with {threads} each, wait for each other on {on}"


def _is_arm(device_class: str | None) -> bool:
    return device_class in list_device_classes() and load_device_class(str(device_class)).is_arm
