"""The measurement of one bundle, put together from what was measured alone and in turns with its group."""

import numpy as np

from edgekit.config.device_classes import load_device_class
from edgekit.measure.baselines import F32, Call, Group, speedup_of
from edgekit.measure.evaluation_images import EvaluationImages
from edgekit.measure.group_times import GroupTimes
from edgekit.measure.opened_bundle import CheckedBundle, computes_in
from edgekit.measure.timing import Timed, latency_of
from edgekit.report.device import DeviceFacts
from edgekit.report.measurement import Failure, LowPrecision, Measurement
from edgekit.report.times import EndToEnd, Roofline
from edgekit.runtime.bundle import Bundle


def measurement_of(
    name: str,
    group: Group,
    this: CheckedBundle,
    times: GroupTimes,
    device: DeviceFacts,
    images: EvaluationImages | None,
) -> Measurement:
    """Put together the measurement of one bundle."""
    timed, manifest = times.timed, this.bundle.manifest
    threads = this.threads
    latency = latency_of(timed.times[name, F32], threads, this.fresh, timed.batches.get((name, F32), 1))
    end_to_end = times.end_to_end.get(name)
    macs = sum(layer["macs"] for layer in manifest.layers)
    return Measurement(
        target=manifest.target,
        precision=manifest.precision,
        device=device,
        engine=this.engine,
        bundle=name,
        scheme=manifest.scheme,
        size_bytes=this.bundle.size_bytes,
        macs=macs,
        accuracy=this.accuracy,
        snr_db=this.snr_db,
        latency_ms=latency,
        end_to_end_ms=None if end_to_end is None else EndToEnd(float(np.median(end_to_end))),
        speedup=speedup_of(name, group, timed),
        int8=None if images is None and manifest.precision == "float" else this.profile.int8,
        profile=this.profile.time,
        limit=roofline(device, macs, manifest.precision, threads, latency.p50),
        peak_rss_bytes=this.fresh.peak_rss_bytes,
        low_precision=_low_precision(name, this, timed),
        thermal=timed.conditions,
        sustain=timed.sustained.get((name, F32)),
        energy=times.energy.get(name),
        throughput=times.throughput.get(name),
    )


def failed_measurement(
    name: str, bundle: Bundle, failure: Failure, device: DeviceFacts, images: EvaluationImages | None
) -> Measurement:
    """Measurement of a bundle that doesn't run there. Only a benchmark, which has no images, names the bundle."""
    return Measurement(
        target=bundle.manifest.target,
        precision=bundle.manifest.precision,
        device=device,
        bundle=name if images is None else None,
        failure=failure,
    )


def _low_precision(name: str, this: CheckedBundle, timed: Timed[Call]) -> LowPrecision | None:
    if this.low is None:
        return None
    computed_in = computes_in(this.low.session)
    times = timed.times.get((name, computed_in))
    if times is None:
        return None
    return LowPrecision(computes_in=computed_in, accuracy=this.low.accuracy, p50_ms=float(np.median(times)))


def roofline(device: DeviceFacts, macs: int, precision: str, threads: int, p50_ms: float) -> Roofline | None:
    """Latency at the nominal peak rate of the measured device, or None if its class is unknown.

    The bundle may have been made for a different class.
    """
    if device.device_class is None:
        return None
    device_class = load_device_class(device.device_class)
    cores = min(threads, device.cores or threads)
    nominal = device_class.nominal_ms(macs, "int8" if precision == "int8" else "float", cores)
    return Roofline(nominal, nominal / p50_ms)
