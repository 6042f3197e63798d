"""What the single-step commands do: quantize, compile, evaluate, benchmark, inspect."""

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from edgekit import machine
from edgekit.benchmark import alternate, measure_fresh, ratio, summary
from edgekit.bundle import Bundle, read_bundle
from edgekit.data import open_dataset, select
from edgekit.errors import InputError, UsageError
from edgekit.evaluate import compare, predict
from edgekit.libraries import import_needed
from edgekit.measure import base_row
from edgekit.progress import Reporter
from edgekit.run_folder import RunFolder
from edgekit.runtime.session import Session


def quantize_model(options: Any, reporter: Reporter) -> list[Path]:
    """Calibrate for each target; folders with the graphs, `OUTPUT/<target>-int8`."""
    from edgekit.pipeline import prepare, write_calibration

    build, stages = import_needed("edgekit.build", "build"), import_needed("edgekit.stages", "build")
    run = RunFolder(options.folder)
    job = prepare(options, reporter, evaluate=False)
    write_calibration(run.path / "calibration.json", job, options.seed)
    graphs = build.PreparedGraphs(job, reporter)
    folders = []
    for target in options.targets:
        folder = run.path / f"{target}-int8"
        stages.save_prepared(graphs.prepare(target, "int8"), folder)
        folders.append(folder)
    return folders


def compile_graphs(source: Path, output: Path, reporter: Reporter) -> list[Bundle]:
    """Compile a graph that `quantize` kept, or every one in a folder of them, to `output/<target>-int8`."""
    stages = import_needed("edgekit.stages", "build")
    folders = (
        [source]
        if (source / stages.STAGE).exists()
        else sorted(each.parent for each in source.glob(f"*/{stages.STAGE}"))
    )
    if not folders:
        raise InputError(f"'{source}' holds no quantized graph: make one with: edgekit quantize MODEL -o {source}")
    run = RunFolder(output)
    made = []
    for folder in folders:
        prepared = stages.load_prepared(folder)
        name = f"{prepared.target}-{prepared.precision}"
        with reporter.stage(f"{name}: compile"):
            bundle, _ = stages.compile_stage(prepared, run.path / name)
        made.append(bundle)
    return made


def compile_model(options: Any, reporter: Reporter) -> list[Bundle]:
    """Float bundles of a model, `OUTPUT/<target>-float`; a few of its images check the parity with torch."""
    from edgekit.pipeline import prepare

    build, stages = import_needed("edgekit.build", "build"), import_needed("edgekit.stages", "build")
    run = RunFolder(options.folder)
    graphs = build.PreparedGraphs(prepare(options, reporter, evaluate=False), reporter)
    made = []
    for target in options.targets:
        with reporter.stage(f"{target}-float: compile"):
            bundle, _ = stages.compile_stage(graphs.prepare(target, "float"), run.path / f"{target}-float")
        made.append(bundle)
    return made


def evaluate_bundles(
    paths: Sequence[Path], data: Path, count: int | None, seed: int, threads: int | None, reporter: Reporter
) -> dict[str, Any]:
    """Accuracy of each bundle on the same images; `versus` is the first of them."""
    bundles = [read_bundle(path) for path in paths]
    dataset = open_dataset(data, bundles[0].labels)
    with reporter.stage("read images", count) as step:
        chosen = select(dataset, count, seed, on_image=step)
    for name, reason in chosen.unreadable:
        reporter.warn(f"passed over {name}: {reason}")
    found = []
    for bundle in bundles:
        if bundle.labels != bundles[0].labels:
            raise UsageError(f"'{bundle.path}' has other labels than '{bundles[0].path}': evaluate them apart.")
        with Session(bundle, threads) as session, reporter.stage(str(bundle.path), len(chosen.samples)) as step:

            def images(session: Session = session, step: Any = step) -> Any:
                for sample in chosen.samples:
                    yield session.preprocess(dataset.image(sample)), sample.label
                    step()

            found.append(predict(session, images()))
    rows = [
        {"bundle": str(bundle.path), "accuracy": compare(answers, found[0]) | {"versus": str(bundles[0].path)}}
        for bundle, answers in zip(bundles, found, strict=True)
    ]
    summary_ = {"count": len(chosen.samples), "sha256": chosen.sha256, "unreadable": list(chosen.unreadable)}
    return {"schema_version": 1, "evaluation": summary_, "results": rows}


def benchmark_bundles(
    paths: Sequence[Path], threads: int | None, warmup: int, iterations: int, reporter: Reporter
) -> dict[str, Any]:
    """Latency and memory of each bundle, timed in turns on one golden sample; `speedup` is against the first."""
    rows, calls, fresh, used = [], {}, {}, 1
    with ExitStack() as stack:
        for path in paths:
            session = stack.enter_context(Session(read_bundle(path), threads))
            used = session.threads
            session.verify()
            image = session.bundle.manifest.preprocessing.normalize(session.bundle.golden().pixels[0])
            calls[str(path)] = lambda session=session, image=image: session(image)
            fresh[str(path)] = measure_fresh(path, used)
            row = base_row(str(path), session.bundle, machine.describe())
            rows.append({key: row[key] for key in ("bundle", "target", "precision", "scheme", "size_bytes")})
        with reporter.stage("time", warmup + iterations) as step:
            times = alternate(calls, warmup, iterations, step)
    first = str(paths[0])
    for row in rows:
        name = row["bundle"]
        alone = {"load": fresh[name].load_ms, "first": fresh[name].first_ms}
        row["latency_ms"] = summary(times[name], used) | alone
        row["peak_rss_bytes"] = fresh[name].peak_rss_bytes
        row["speedup"] = None
        if name != first:
            point, interval = ratio(times[first], times[name])
            row["speedup"] = {"versus": first, "ratio": point, "ci95": list(interval)}
    return {"schema_version": 1, "device": machine.describe(), "results": rows}


def inspect_bundle(path: Path, threads: int | None) -> dict[str, Any]:
    """The manifest in short, and the golden samples run on this processor; GoldenError if they differ."""
    bundle = read_bundle(path)
    manifest = bundle.manifest
    with Session(bundle, threads) as session:
        verified = session.verify()
        engine = f"{session.engine_name} {session.engine_version}"
    row = base_row(path.name, bundle, machine.describe())
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
        "int8": row["int8"],
        "provenance": dict(manifest.provenance),
    }
