"""Rows of the report: each bundle's accuracy, latency, memory and verdict, measured through its session."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit import machine
from edgekit.benchmark import alternate, measure_fresh, ratio, summary
from edgekit.bundle import Bundle
from edgekit.errors import StageError
from edgekit.evaluate import Predictions, compare, predict
from edgekit.libraries import quiet
from edgekit.preprocess import open_image
from edgekit.profiles import load_device_class
from edgekit.progress import Reporter, Step
from edgekit.run_folder import RunFolder
from edgekit.runtime.session import Session

Row = dict[str, Any]


@dataclass(frozen=True)
class Settings:
    """How to measure, and the gates."""

    threads: int | None = None
    warmup: int = 20
    iterations: int = 200
    max_drop: float = 1.0
    """Percentage points of top-1 that an int8 bundle may lose."""
    min_speedup: float = 1.0
    """An int8 bundle must be faster than its float by more than this factor, interval included; 0 turns it off."""


@dataclass(frozen=True)
class Images:
    """The evaluation images and torch's answers for them."""

    pixels: NDArray[np.uint8]
    """Cropped, [N,H,W,3]; may be memory-mapped."""
    labels: NDArray[np.int64]
    reference: Predictions
    files: Sequence[bytes]
    """A few encoded files, for end-to-end times."""


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
    for group in groups.values():
        rows |= _group(group, images, settings, run, reporter, device)
    return [rows[name] for name in built]


def _group(
    group: Mapping[str, Bundle], images: Images, settings: Settings, run: RunFolder, reporter: Reporter, device: Row
) -> dict[str, Row]:
    """Rows of one target: float and int8 are timed in turns, so they are measured together."""
    prints = [bundle.manifest.fingerprint for bundle in group.values()]
    answers = sha256(images.reference.best.tobytes() + images.labels.tobytes()).hexdigest()
    how = [settings.threads, settings.warmup, settings.iterations]
    key = sha256(json.dumps([prints, how, answers]).encode()).hexdigest()
    target = next(iter(group.values())).manifest.target
    kept = run.recall(f"row-{target}", key)
    if kept is not None:
        reporter.say(f"{target}: measurements kept from the interrupted run")
        return dict(kept)
    rows: dict[str, Row] = {}
    sessions: dict[str, Session] = {}
    with ExitStack() as stack:
        for name, bundle in group.items():
            try:
                with quiet():  # LiteRT announces its delegate on stderr
                    session = stack.enter_context(Session(bundle, settings.threads))
                    session.verify()
                with reporter.stage(f"{name}: evaluate", len(images.pixels)) as step:
                    found = predict(session, _normalized(bundle, images, step))
                fresh = measure_fresh(bundle.path, session.threads)
            except StageError as error:
                rows[name] = failed_row(name, device, "evaluate", error)
                reporter.warn(f"{name}: {error}")
                continue
            sessions[name] = session
            rows[name] = base_row(name, bundle, device) | {
                "accuracy": compare(found, images.reference),
                "peak_rss_bytes": fresh.peak_rss_bytes,
                "latency_ms": {"first": fresh.first_ms, "load": fresh.load_ms},
            }
        add_latency(rows, sessions, settings, images.files, reporter)
    run.remember(f"row-{target}", key, rows)
    return rows


def add_latency(
    rows: dict[str, Row],
    sessions: Mapping[str, Session],
    settings: Settings,
    files: Sequence[bytes],
    reporter: Reporter,
) -> None:
    """Time the sessions in turns and write latency, speed-up and bound into their rows."""
    if not sessions:
        return
    rounds = settings.warmup + settings.iterations
    inputs = {name: session.preprocess(open_image(files[0])) for name, session in sessions.items()}
    calls = {name: (lambda s=session, x=inputs[name]: s(x)) for name, session in sessions.items()}
    with reporter.stage(f"{', '.join(sessions)}: time", rounds) as step:
        times = alternate(calls, settings.warmup, settings.iterations, step)
    whole = {name: _end_to_end(session, files) for name, session in sessions.items()}
    ends = alternate(whole, min(settings.warmup, 5), max(5, settings.iterations // 4))
    for name, session in sessions.items():
        row, threads = rows[name], session.threads
        row["latency_ms"] = summary(times[name], threads) | row["latency_ms"]
        row["end_to_end_ms"] = {"p50": float(np.median(ends[name]))}
        row["limit"] = limit(row, session.bundle, threads)
        versus = f"{row['target']}-float"
        if row["precision"] == "int8" and versus in times:
            point, interval = ratio(times[versus], times[name])
            row["speedup"] = {"versus": versus, "ratio": point, "ci95": list(interval)}


def base_row(name: str, bundle: Bundle, device: Row) -> Row:
    manifest = bundle.manifest
    total = sum(layer["macs"] for layer in manifest.layers)
    inside = sum(layer["macs"] for layer in manifest.layers if layer["int8"])
    return {
        "target": manifest.target,
        "precision": manifest.precision,
        "scheme": manifest.scheme,
        "device": device,
        "bundle": name,
        "size_bytes": bundle.size_bytes,
        "accuracy": None,
        "latency_ms": None,
        "end_to_end_ms": None,
        "speedup": None,
        "int8": {
            "share_of_macs": inside / total if total else 0.0,
            "method": "layers that the placement gives to integer kernels; not yet confirmed by a profiler",
            "float_layers": [layer["name"] for layer in manifest.layers if not layer["int8"]],
        },
        "limit": None,
        "peak_rss_bytes": None,
        "thermal": None,
        "verdict": "pass",
        "reasons": [],
        "macs": total,
    }


def failed_row(name: str, device: Row, stage: str, error: StageError) -> Row:
    """A row whose stage failed: null figures, the stage and message as reasons."""
    target, precision = name.split("-")
    empty = ("scheme", "bundle", "size_bytes", "accuracy", "latency_ms", "end_to_end_ms", "speedup", "int8", "limit")
    row: Row = {"target": target, "precision": precision, "device": device} | dict.fromkeys(empty)
    return row | {"peak_rss_bytes": None, "thermal": None, "verdict": "error", "reasons": [f"{stage}: {error}"]}


def judge(row: Row, settings: Settings, random_weights: bool) -> Row:
    """Put the verdict of the gates into a row that was measured."""
    if row["verdict"] == "error" or row["precision"] != "int8":
        return row
    reasons = []
    drop = row["accuracy"]["drop_top1_points"]
    if not random_weights and drop > settings.max_drop:
        low, high = row["accuracy"]["drop_ci95_points"]
        reasons.append(
            f"top-1 drops {drop:.2f} points (95 % interval {low:.2f} to {high:.2f}, n = {row['accuracy']['count']}), "
            f"at most {settings.max_drop:g} is allowed"
        )
    speedup = row["speedup"]
    if settings.min_speedup > 0:
        if speedup is None:
            reasons.append("its float bundle could not be timed: nothing to be faster than")
        elif not speedup["ci95"][0] > settings.min_speedup:
            reasons.append(
                f"{speedup['ratio']:.2f}x its float (95 % interval {speedup['ci95'][0]:.2f} to "
                f"{speedup['ci95'][1]:.2f}), more than {settings.min_speedup:g} is asked for"
            )
    return row | {"verdict": "fail" if reasons else "pass", "reasons": reasons}


def limit(row: Row, bundle: Bundle, threads: int) -> Row:
    """The time that the class's peak rate would take, and the share of it that was reached."""
    cls = load_device_class(bundle.manifest.device_class)
    bound = cls.bound_ms(row["macs"], row["precision"], min(threads, row["device"]["cores"]))
    return {"bound_ms": bound, "fraction": bound / row["latency_ms"]["p50"]}


def _normalized(bundle: Bundle, images: Images, step: Step) -> Iterator[tuple[NDArray[np.float32], int]]:
    for image, label in zip(images.pixels, images.labels, strict=True):
        yield bundle.manifest.preprocessing.normalize(image[None]), int(label)
        step()


def _end_to_end(session: Session, files: Sequence[bytes]) -> Any:
    """A call that decodes, preprocesses and runs the next file."""
    turn = iter(range(1 << 62))
    return lambda: session(session.preprocess(open_image(files[next(turn) % len(files)])))
