"""What `edgekit benchmark` does with bundles on this machine."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from edgekit.errors import StageError
from edgekit.measure import machine
from edgekit.measure.evaluate_bundles import _failure
from edgekit.measure.fresh_process import measure_fresh
from edgekit.measure.gates import judge_steadiness
from edgekit.measure.latency import summary
from edgekit.measure.rows import Row, base_row, ran_in_int8, remarks_on, speedup
from edgekit.measure.settings import Settings
from edgekit.measure.steadiness import spread, time_steadily
from edgekit.measure.sustain import time_sustained
from edgekit.runtime.bundle import read_bundle
from edgekit.runtime.engine import check_threads
from edgekit.runtime.session import Session, open_session
from edgekit.support.progress import Reporter

BENCHMARKED = (
    "bundle", "target", "precision", "scheme", "size_bytes", "verdict", "reasons", "latency_ms", "peak_rss_bytes",
    "speedup", "int8", "thermal",
)  # fmt: skip
"""What a row of `edgekit benchmark` has."""


def benchmark_bundles(paths: Sequence[Path], settings: Settings, reporter: Reporter) -> dict[str, Any]:
    """Latency and memory of each bundle, timed in turns on a golden sample; `speedup` is against the first.

    With `settings.sustain_s` they are timed for so long, and rows have `sustain` too.
    """
    threads = check_threads(settings.threads)
    bundles = {str(path): read_bundle(path) for path in paths}
    device = machine.describe()
    rows: dict[str, Row] = {}
    calls: dict[str, Callable[[], object]] = {}
    with ExitStack() as stack:
        for name, bundle in bundles.items():
            row = base_row(name, bundle, device)
            rows[name] = {key: row[key] for key in BENCHMARKED}
            try:
                fresh = measure_fresh(bundle.path, threads)  # first: a runtime that crashes takes only that process
                session = stack.enter_context(open_session(bundle, threads))
                call = _golden_call(session)
                if bundle.manifest.precision == "int8":
                    rows[name]["int8"] = ran_in_int8(bundle, threads)
            except StageError as error:
                rows[name] |= _failure("benchmark", bundle, error, reporter)
                continue
            calls[name] = call
            rows[name]["latency_ms"] = {"threads": session.threads, "load": fresh.load_ms, "first": fresh.first_ms}
            rows[name]["peak_rss_bytes"] = fresh.peak_rss_bytes
        if settings.sustain_s is None or not calls:
            times, conditions = time_steadily(calls, threads, settings, "time", reporter)
            sustain: dict[str, Row] = {}
        else:
            times, sustain, conditions = time_sustained(calls, settings.warmup, settings.sustain_s, "time", reporter)
    first = next(iter(times), None)
    for name, each in times.items():
        alone = rows[name]["latency_ms"]
        rows[name]["latency_ms"] = summary(each, alone["threads"]) | {"spread": spread(each)} | alone
        rows[name] |= {"thermal": conditions} | ({"sustain": sustain[name]} if sustain else {})
        if first is not None and name != first:
            rows[name]["speedup"] = speedup(first, times[first], each)
        rows[name]["remarks"] = remarks_on(rows[name]["int8"])
        if not device["emulated"]:
            rows[name] = judge_steadiness(rows[name], claimed=False)
    return {"schema_version": 1, "device": device, "results": list(rows.values())}


def _golden_call(session: Session) -> Callable[[], object]:
    session.verify()
    image = session.bundle.manifest.preprocessing.normalize(session.bundle.golden().pixels[0])
    return lambda: session(image)
