"""The bound of a latency, as a measurement gives it."""

from edgekit.config.device_classes import load_device_class
from edgekit.measure.measurement import roofline
from tests.helpers.measurements import device


def test_the_bound_is_of_the_measured_device_and_not_of_the_bundle() -> None:
    here = device(device_class="x86-64-v4", cores=2)
    limit = roofline(here, 10**9, "int8", threads=8, p50_ms=20.0)
    bound = load_device_class("x86-64-v4").nominal_ms(10**9, "int8", 2)
    assert limit is not None
    assert (limit.bound_ms, limit.fraction) == (bound, bound / 20)
    assert roofline(device(device_class=None), 10**9, "int8", threads=1, p50_ms=20.0) is None
