"""What `edgekit evaluate`, `benchmark`, `inspect` and `classify` do with bundles. Needs no torch."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekit import machine
from edgekit.benchmark import measure_fresh, summary
from edgekit.bundle import Bundle, read_bundle
from edgekit.cluster import engine_of
from edgekit.data import Dataset, Sample, Selection, open_dataset, select, unreadable
from edgekit.errors import ImageError, StageError, UsageError
from edgekit.evaluate import Predictions, compare
from edgekit.libraries import quiet
from edgekit.options import Settings
from edgekit.profiler import profile, profile_model
from edgekit.progress import Reporter
from edgekit.rows import Row, base_row, ran_in_int8, remarks_on, speedup
from edgekit.run_folder import open_run, write_json
from edgekit.runtime.base import check_threads
from edgekit.runtime.session import Session
from edgekit.shards import Engine, OneProcess, close_session, evaluate_shards, see_all, shards_of
from edgekit.steadiness import judge_steadiness, spread, time_steadily
from edgekit.sustain import time_sustained


def open_session(bundle: Bundle, threads: int | None) -> Session:
    """A session of the bundle, opened without what runtimes announce on stderr, as LiteRT does its delegate."""
    with quiet():
        return Session(bundle, threads)


@dataclass(frozen=True)
class Scale:
    """How an evaluation is spread: by default it is done in this process."""

    workers: int | None = None
    """Processes to start on this machine."""
    scheduler: str | None = None
    """Address of a Dask scheduler; its workers need the bundles and images at the same paths."""
    output: Path | None = None
    """Folder that keeps what is done: the same command goes on from there."""


def evaluate_bundles(
    paths: Sequence[Path],
    data: Path,
    count: int | None,
    seed: int,
    threads: int | None,
    reporter: Reporter,
    scale: Scale | None = None,
) -> dict[str, Any]:
    """Accuracy of each bundle on the same images; `versus` is the first of them that works."""
    scale = scale or Scale()
    check_threads(threads)
    if threads is None and (scale.workers or scale.scheduler):
        threads = 1  # the workers are what runs beside each other
    bundles = [read_bundle(path) for path in paths]
    for bundle in bundles:
        if bundle.labels != bundles[0].labels:
            raise UsageError(f"'{bundle.path}' has other labels than '{bundles[0].path}': evaluate them apart.")
    dataset = open_dataset(data.absolute() if scale.scheduler else data, bundles[0].labels)
    with ExitStack() as stack:
        stack.callback(close_session)
        run = stack.enter_context(open_run(scale.output)) if scale.output else None
        engine = stack.enter_context(engine_of(scale.workers, scale.scheduler))
        chosen = _chosen(dataset, count, seed, engine, reporter)
        for name, reason in chosen.unreadable:
            reporter.warn(f"passed over {name}: {reason}")
        answers: dict[int, Predictions] = {}
        rows = []
        for index, bundle in enumerate(bundles):
            row: Row = {"bundle": str(bundle.path), "accuracy": None, "verdict": "pass", "reasons": []}
            shards = shards_of(bundle, dataset, chosen, threads)
            try:
                with reporter.stage(str(bundle.path), len(chosen.samples)) as step:
                    answers[index] = evaluate_shards(shards, engine, run, f"{index}-{bundle.path.name}", step)
            except StageError as error:
                row |= _failure("evaluate", bundle, error, reporter)
            rows.append(row)
        for index, found in answers.items():
            first = min(answers)
            rows[index]["accuracy"] = compare(found, answers[first]) | {"versus": str(bundles[first].path)}
        document = {
            "schema_version": 1,
            "evaluation": {
                "count": len(chosen.samples),
                "sha256": chosen.sha256,
                "unreadable": unreadable(chosen),
            },
            "results": rows,
        }
        if run:
            write_json(run.path / "evaluation.json", document)
    return document


def _chosen(dataset: Dataset, count: int | None, seed: int, engine: Engine, reporter: Reporter) -> Selection:
    """The images to evaluate on. All of a large set are read by the engine; a few of it are read here."""
    if count or isinstance(engine, OneProcess):
        with reporter.stage("read images", count or None) as step:
            return select(dataset, count, seed, on_image=step)
    with reporter.stage("read images", len(dataset.samples)) as step:
        seen = see_all(dataset, engine, step)

    def inspect(_: Dataset, sample: Sample) -> tuple[str, bytes]:
        found = seen[sample.name]
        if isinstance(found, ImageError):
            raise found
        return found

    return select(dataset, count, seed, inspect=inspect)


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


def _failure(stage: str, bundle: Bundle, error: StageError, reporter: Reporter) -> Row:
    reporter.warn(f"{bundle.path}: {error}")
    return {"verdict": "error", "reasons": [f"{stage}: {error}"]}


def inspect_bundle(path: Path, threads: int | None) -> dict[str, Any]:
    """The manifest in short, what ran in int8 here, and the golden samples; GoldenError if they differ."""
    check_threads(threads)
    bundle = read_bundle(path)
    manifest = bundle.manifest
    with open_session(bundle, threads) as session:
        verified = session.verify()
        engine = f"{session.engine_name} {session.engine_version}"
    with quiet():
        ran = profile(bundle, threads)
    return {
        "schema_version": 1,
        "bundle": str(path),
        "target": manifest.target,
        "precision": manifest.precision,
        "scheme": manifest.scheme,
        "model": manifest.provenance.get("model", {}).get("name"),
        "input_shape": list(manifest.input_shape),
        "classes": manifest.classes,
        "device_class": manifest.device_class,
        "size_bytes": bundle.size_bytes,
        "engine": engine,
        "golden_max_abs_difference": verified.max_abs_difference,
        "golden_tolerance": verified.tolerance,
        "int8": ran.to_dict(),
        "provenance": dict(manifest.provenance),
    }


def classify_images(path: Path, images: Sequence[Path], top: int, threads: int | None) -> dict[str, Any]:
    """The best labels of each image; ImageError for one that can't be read."""
    check_threads(threads)
    results = []
    with open_session(read_bundle(path), threads) as session:
        for image in images:
            best = session.classify(image, top)
            results.append({"image": str(image), "top": [{"label": label, "score": score} for label, score in best]})
    return {"schema_version": 1, "bundle": str(path), "results": results}


def inspect_model(path: Path, threads: int | None) -> dict[str, Any]:
    """What ran in int8 of a model file that edgekit need not have made."""
    with quiet():
        ran = profile_model(path, threads=threads)
    return {"schema_version": 1, "model": str(path), "size_bytes": path.stat().st_size, "int8": ran.to_dict()}
