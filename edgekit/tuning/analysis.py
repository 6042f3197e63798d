"""What `edgekit sensitivity` does: a job's layers measured for each target, written as a document and a picture."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from edgekit import __version__
from edgekit.compiler.graph import layers
from edgekit.config.precisions import PRECISIONS
from edgekit.errors import InputError, StageError, UsageError
from edgekit.images.crops import crop_samples
from edgekit.images.dataset import Sample
from edgekit.pipeline.build import build_one
from edgekit.pipeline.evaluation_images import images_key
from edgekit.pipeline.graphs import PreparedGraphs
from edgekit.pipeline.job import Job, prepare
from edgekit.pipeline.options import Options
from edgekit.pipeline.prepared import Prepared
from edgekit.report import load_report, write_report
from edgekit.report.schema import FILE as REPORT
from edgekit.report.sensitivity import draw_sensitivity
from edgekit.report.sensitivity_document import ImageSet, LayerTime, NamedModel, Sensitivity, TargetSensitivity
from edgekit.report.serialization import to_json
from edgekit.runtime.backend import load_backend
from edgekit.runtime.profiling import profile
from edgekit.support.files import replace_text, writing
from edgekit.support.hashes import digest
from edgekit.support.libraries import import_needed, quiet
from edgekit.support.progress import Reporter
from edgekit.support.run_folder import RunFolder, check_output, open_run
from edgekit.tuning.sensitivity import Trials, measure
from edgekit.tuning.simulate import Simulation

FILE, PICTURE = "sensitivity.json", "sensitivity.svg"


def analyse(options: Options, reporter: Reporter) -> Sensitivity:
    """Measure every layer for each target and write OUTPUT/sensitivity.json and .svg. Returns the document.

    A report of the same weights in the folder shows it, too. A target whose compiler refuses has no times.
    """
    if not options.settings.max_drop >= 0:
        raise UsageError(f"--max-drop is {options.settings.max_drop:g}: give points of top-1, 0 or more.")
    check_output(options.folder)
    import_needed("matplotlib", "build")
    for target in options.targets:
        load_backend(target)
    job = prepare(options, reporter)
    with open_run(options.folder) as run:
        graphs = PreparedGraphs(job, reporter)
        parts = [_analysed(graphs, target, options, run, reporter) for target in options.targets]
        sensitivity = document(job, options, parts)
        picture, _ = draw_sensitivity(sensitivity, standalone=True)
        for file, text in ((FILE, to_json(sensitivity)), (PICTURE, picture)):
            with writing(run.path / file):
                replace_text(run.path / file, text)
        _add_to_report(run.path, sensitivity, reporter)
    return sensitivity


def document(job: Job, options: Options, parts: Sequence[TargetSensitivity]) -> Sensitivity:
    """The whole of sensitivity.json."""
    return Sensitivity(
        edgekit=__version__,
        created=datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
        command=options.command,
        model=NamedModel(job.network.name, job.network.weights_sha256),
        accuracy_meaningful=job.network.weights != "random",
        recipe=job.recipe.name,
        calibration=ImageSet(len(job.calibration.samples), job.calibration.sha256),
        evaluation=ImageSet(len(job.evaluation.samples), job.evaluation.sha256),
        max_drop_points=options.settings.max_drop,
        targets=tuple(parts),
    )


def _analysed(
    graphs: PreparedGraphs, target: str, options: Options, run: RunFolder, reporter: Reporter
) -> TargetSensitivity:
    """One target's part: kept from an interrupted run, or measured."""
    key = digest(graphs.fingerprint(target, "int8"), images_key(graphs.job), options.settings.max_drop)
    kept = _recall(run, target, key)
    if kept is not None:
        reporter.say(f"{target}: reused from an earlier run")
        return kept
    job = graphs.job
    prepared = graphs.prepare(target, "int8")
    trials = simulate(graphs, prepared, job.evaluation.samples)
    measured = measure(
        trials,
        target,
        layer_macs(graphs),
        options.settings.max_drop,
        reporter,
        lambda: layer_times(graphs, prepared, options.settings.threads, run, reporter),
    )
    run.remember(f"sensitivity-{target}", key, msgspec.to_builtins(measured))
    return measured


def _recall(run: RunFolder, target: str, key: str) -> TargetSensitivity | None:
    """What an interrupted run measured; None if it did not, or if another version of edgekit did."""
    try:
        return msgspec.convert(run.recall(f"sensitivity-{target}", key), TargetSensitivity | None)
    except msgspec.ValidationError:
        return None


def simulate(graphs: PreparedGraphs, prepared: Prepared, samples: Sequence[Sample]) -> Trials:
    """Trials of a graph that was calibrated for one target, on samples of the evaluation."""
    job, recipe = graphs.job, graphs.job.recipe
    unrounded = None
    if recipe.weight_rounding != "nearest":
        nearest = replace(recipe, weight_rounding="nearest")
        unrounded = graphs.with_recipe(nearest).prepare(prepared.facts.target, "int8").graph
    simulation = Simulation(prepared.graph, recipe.targets[prepared.facts.target], unrounded)
    preprocessing = job.network.preprocessing
    return Trials(simulation, crop_samples(job.dataset, samples, preprocessing), preprocessing)


def layer_macs(graphs: PreparedGraphs) -> dict[str, int]:
    """Multiply-accumulates of each layer."""
    found: Counter[str] = Counter()
    for _, layer in layers(graphs.exported()):
        found[layer.name] += layer.macs
    return found


def layer_times(
    graphs: PreparedGraphs, prepared: Prepared, threads: int | None, run: RunFolder, reporter: Reporter
) -> dict[str, LayerTime]:
    """Milliseconds of each layer's kernels in float and INT8, from the runtime's profiler; none where it tells none."""
    found: dict[str, Mapping[str, float]] = {}
    target = prepared.facts.target
    try:
        for precision in PRECISIONS:
            graph = prepared if precision == "int8" else None
            bundle = build_one(graphs, target, precision, run.path / f"{target}-{precision}", reporter, graph)
            with reporter.stage(f"{bundle.path.name}: profile"), quiet():
                ran: dict[str, float] = {}
                for op in profile(bundle, threads).ops:
                    if op.ms is not None:
                        ran[op.name] = ran.get(op.name, 0.0) + op.ms
                found[precision] = ran
    except StageError as error:
        reporter.warn(f"{target}: no times of layers: {error}", error)
        return {}
    both = found["float"].keys() & found["int8"].keys()
    times = ((name, found["float"][name], found["int8"][name]) for name in both)
    return {name: LayerTime(float_ms, int8_ms, float_ms - int8_ms) for name, float_ms, int8_ms in times}


def _add_to_report(folder: Path, sensitivity: Sensitivity, reporter: Reporter) -> None:
    """Add the document to the folder's report, if it has one of the same weights."""
    if not (folder / REPORT).exists():
        return
    try:
        report = load_report(folder)
    except InputError as error:
        reporter.warn(f"the report does not show the sensitivity: {error}", error)
        return
    if report.model.weights_sha256 != sensitivity.model.weights_sha256:
        reporter.warn(f"'{folder / REPORT}' is of other weights: it was left as it is")
        return
    write_report(replace(report, sensitivity=sensitivity), folder)
    reporter.say(f"{folder}/report.html shows it too")
