"""What `edgekit evaluate`, `benchmark`, `inspect` and `classify` do with bundles. Needs no torch."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekit.errors import ImageError, StageError, UsageError
from edgekit.images.dataset import Dataset, Sample, open_dataset
from edgekit.images.selection import Selection, select, unreadable
from edgekit.measure.accuracy import Predictions, compare
from edgekit.measure.cluster import engine_of
from edgekit.measure.rows import Row
from edgekit.measure.shards import Engine, OneProcess, close_session, evaluate_shards, see_all, shards_of
from edgekit.runtime.bundle import Bundle, read_bundle
from edgekit.runtime.engine import check_threads
from edgekit.support.files import write_json
from edgekit.support.progress import Reporter
from edgekit.support.run_folder import open_run


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


def _failure(stage: str, bundle: Bundle, error: StageError, reporter: Reporter) -> Row:
    reporter.warn(f"{bundle.path}: {error}", error)
    return {"verdict": "error", "reasons": [f"{stage}: {error}"]}
