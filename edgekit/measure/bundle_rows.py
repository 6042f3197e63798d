"""Rows of the report: each bundle's accuracy, latency and memory, measured through its session."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from hashlib import sha256
from itertools import cycle
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.errors import StageError, WeightsError
from edgekit.images.preprocess import open_image
from edgekit.measure import machine
from edgekit.measure.accuracy import Predictions, compare, predict
from edgekit.measure.fresh_process import measure_fresh
from edgekit.measure.latency import alternate, summary
from edgekit.measure.rows import Row, base_row, failed_row, limit, ran_in_int8, speedup
from edgekit.measure.settings import Settings
from edgekit.measure.steadiness import spread, time_steadily
from edgekit.runtime.bundle import Bundle
from edgekit.runtime.engine import check_threads
from edgekit.runtime.session import Session, open_session
from edgekit.support.progress import Reporter, Step
from edgekit.support.run_folder import RunFolder


@dataclass(frozen=True)
class Images:
    """The evaluation images and torch's answers for them."""

    pixels: NDArray[np.uint8]
    """Cropped, [N,H,W,3]; may be memory-mapped."""
    labels: NDArray[np.int64]
    reference: Predictions
    files: Sequence[bytes]
    """A few encoded files, for end-to-end times."""
    key: str
    """Hash of the images in their order, their labels, and the network: what measurements on them depend on."""


def measure_rows(
    built: Mapping[str, Bundle | StageError], images: Images, settings: Settings, run: RunFolder, reporter: Reporter
) -> list[Row]:
    """One row for each bundle, or for the error that it ended in, in the same order. Verdicts are `judge`'s."""
    device = machine.describe()
    rows: dict[str, Row] = {}
    groups: dict[str, dict[str, Bundle]] = {}
    for name, made in built.items():
        if isinstance(made, Bundle):
            groups.setdefault(made.manifest.target, {})[name] = made
        else:
            rows[name] = failed_row(name, device, "compile", made)
    for target, group in groups.items():
        key = group_key(group, images, settings)
        kept = run.recall(f"row-{target}", key)
        if kept is None:
            rows |= measure_group(group, images, settings, device, reporter)
            run.remember(f"row-{target}", key, {name: rows[name] for name in group})
        else:
            reporter.say(f"{target}: measurements kept from the interrupted run")
            rows |= kept
    return [rows[name] for name in built]


def group_key(group: Mapping[str, Bundle], images: Images, settings: Settings) -> str:
    """Hash of everything that the measurements of one target depend on, but for the machine's state."""
    prints = [bundle.manifest.fingerprint for bundle in group.values()]
    how = [settings.threads, settings.warmup, settings.iterations]
    return sha256(json.dumps([prints, how, images.key]).encode()).hexdigest()


def measure_group(
    group: Mapping[str, Bundle], images: Images, settings: Settings, device: Row, reporter: Reporter
) -> dict[str, Row]:
    """Rows of one target: float and int8 are timed in turns, so they are measured together."""
    rows: dict[str, Row] = {}
    sessions: dict[str, Session] = {}
    with ExitStack() as stack:
        for name, bundle in group.items():
            try:
                # First: a runtime that crashes while it loads or runs takes only that process with it.
                fresh = measure_fresh(bundle.path, check_threads(settings.threads))
                session = stack.enter_context(open_session(bundle, settings.threads))
                session.verify()
                with reporter.stage(f"{name}: evaluate", len(images.pixels)) as step:
                    found = predict(session, _normalized(bundle, images, step))
                int8 = ran_in_int8(bundle, session.threads)
            except (StageError, WeightsError) as error:
                rows[name] = failed_row(name, device, "evaluate", error)
                reporter.warn(f"{name}: {error}", error)
                continue
            sessions[name] = session
            low = _in_low_precision(name, session, images, reporter)
            rows[name] = (
                base_row(name, bundle, device)
                | {
                    "accuracy": compare(found, images.reference),
                    "int8": int8,
                    "peak_rss_bytes": fresh.peak_rss_bytes,
                    "latency_ms": {"first": fresh.first_ms, "load": fresh.load_ms},
                }
                | ({"low_precision": low} if low else {})
            )
        add_latency(rows, sessions, settings, images.files, reporter)
    return rows


def add_latency(
    rows: Mapping[str, Row],
    sessions: Mapping[str, Session],
    settings: Settings,
    files: Sequence[bytes],
    reporter: Reporter,
) -> None:
    """Time the sessions in turns and write latency, speed-up and bound into their rows.

    A float bundle also runs in bf16 or f16 where its runtime would choose that: the speed-up is over the best float.
    """
    if not sessions:
        return
    with ExitStack() as stack:
        calls = {(name, "f32"): _model_only(session, files[0]) for name, session in sessions.items()}
        for name, session in sessions.items():
            low = session.in_low_precision()
            if low is not None:
                calls[name, _computes_in(low)] = _model_only(stack.enter_context(low), files[0])
        threads = max(session.threads for session in sessions.values())
        title = f"{', '.join(sessions)}: time"
        every, conditions = time_steadily(calls, threads, settings, title, reporter)
    times = {name: every[name, "f32"] for name in sessions}
    whole = {name: _end_to_end(session, files) for name, session in sessions.items()}
    ends = alternate(whole, min(settings.warmup, 5), max(5, settings.iterations // 4))
    for name, session in sessions.items():
        row = rows[name]
        row["latency_ms"] = summary(times[name], session.threads) | {"spread": spread(times[name])} | row["latency_ms"]
        row["thermal"] = conditions
        row["end_to_end_ms"] = {"p50": float(np.median(ends[name]))}
        row["limit"] = limit(row, session.threads)
        if low_row := row.get("low_precision"):
            low_row["p50_ms"] = float(np.median(every[name, low_row["computes_in"]]))
        floats = {key: each for key, each in every.items() if rows[key[0]]["precision"] == "float"}
        if row["precision"] == "int8" and floats:
            (versus, computed_in), fastest = min(floats.items(), key=lambda item: float(np.median(item[1])))
            row["speedup"] = speedup(versus, fastest, times[name]) | {"versus_precision": computed_in}


def _in_low_precision(name: str, session: Session, images: Images, reporter: Reporter) -> Row | None:
    """What a float bundle's row says of bf16 or f16, but for its time; None where its runtime would not choose that."""
    low = session.in_low_precision()
    if low is None:
        return None
    with low, reporter.stage(f"{name} in {_computes_in(low)}: evaluate", len(images.pixels)) as step:
        found = predict(low, _normalized(session.bundle, images, step))
    return {"computes_in": _computes_in(low), "accuracy": compare(found, images.reference)}


def _computes_in(session: Session) -> str:
    return str(session.bundle.manifest.session["inference_precision"])


def _normalized(bundle: Bundle, images: Images, step: Step) -> Iterator[tuple[NDArray[np.float32], int]]:
    for image, label in zip(images.pixels, images.labels, strict=True):
        yield bundle.manifest.preprocessing.normalize(image[None]), int(label)
        step()


def _model_only(session: Session, file: bytes) -> Callable[[], Any]:
    image = session.preprocess(open_image(file))
    return lambda: session(image)


def _end_to_end(session: Session, files: Sequence[bytes]) -> Callable[[], Any]:
    """A call that decodes, preprocesses and runs the next file."""
    turn = cycle(files)
    return lambda: session(session.preprocess(open_image(next(turn))))
