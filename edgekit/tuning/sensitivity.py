"""`edgekit sensitivity`: the layers that cost accuracy in INT8, and the time that each saves."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from torch.fx import GraphModule

from edgekit import __version__
from edgekit.compiler.graph import copy_sharing
from edgekit.config.runtimes import PRECISIONS
from edgekit.errors import InputError, StageError
from edgekit.job import Job
from edgekit.pipeline.build import build_one
from edgekit.pipeline.graphs import JobGraphs
from edgekit.pipeline.job_images import JobImages
from edgekit.pipeline.loading import load_job
from edgekit.report import load_report, write_report
from edgekit.report.document import REPORT_FILE as REPORT
from edgekit.report.document import to_json
from edgekit.report.sensitivity_document import (
    ImageSet,
    LayerTime,
    NamedModel,
    SensitiveBlock,
    SensitiveLayer,
    Sensitivity,
    Simulated,
    TargetSensitivity,
)
from edgekit.runtime.backend import load_backend
from edgekit.runtime.bundle import Bundle
from edgekit.runtime.engine import check_threads
from edgekit.runtime.profile import Profile, profile_bundle
from edgekit.support.files import Inputs, replace_text, shareable_command, writing
from edgekit.support.libraries import import_needed, quiet
from edgekit.support.progress import Reporter
from edgekit.support.run_folder import RunFolder, check_output, open_run
from edgekit.tuning.mixtures import LayerCosts, LayerTimes, Mixtures, layer_macs, simulate, steps_of, total_ms
from edgekit.tuning.study import StudyInputs, study_inputs

FILE, PICTURE = "sensitivity.json", "sensitivity.svg"


def analyse(job: Job, reporter: Reporter) -> Sensitivity:
    """Measure every layer for each target and write OUTPUT/sensitivity.json and .svg. Returns the document.

    If the folder has a report of the same weights, the report shows the sensitivity too. A target whose compiler fails
    has no times.
    """
    check_output(job.folder)
    import_needed("jinja2", "build")
    for target in job.targets:
        load_backend(target)
    spec, images = load_job(job, reporter)
    with open_run(job.folder) as run:
        graphs = JobGraphs(spec, reporter)
        parts = [_analysed(graphs, images, target, job, run) for target in job.targets]
        sensitivity = Sensitivity(
            edgekit=__version__,
            created=datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
            command=shareable_command(job.command),
            model=NamedModel(spec.network.name, spec.network.weights_sha256),
            accuracy_meaningful=spec.network.weights != "random",
            recipe=spec.recipe.name,
            calibration=ImageSet(len(images.calibration.samples), images.calibration.sha256),
            evaluation=ImageSet(len(images.evaluation.samples), images.evaluation.sha256),
            max_drop_points=job.gates.max_drop,
            targets=tuple(parts),
        )
        for file, text in ((FILE, to_json(sensitivity)), (PICTURE, sensitivity.svg())):
            with writing(run.path / file):
                replace_text(run.path / file, text)
        _add_to_report(run.path, sensitivity, reporter)
    return sensitivity


@dataclass(frozen=True)
class SensitivityInputs(Inputs):
    """Inputs of the sensitivity of a network's layers for one target."""

    layers: StudyInputs
    """Inputs of what is simulated, and of the bundles in which the layers are timed."""
    max_drop: float
    """`Gates.max_drop`, which decides how many layers must stay in float."""


def _analysed(graphs: JobGraphs, images: JobImages, target: str, job: Job, run: RunFolder) -> TargetSensitivity:
    """One target's part of the document, measured or reused from an interrupted run."""
    layers = study_inputs(graphs.spec, images, target, job.timing)
    inputs = SensitivityInputs(layers, job.gates.max_drop)
    earlier = run.recall(f"sensitivity-{target}", inputs, TargetSensitivity)
    if earlier is not None:
        graphs.reporter.say(f"{target}: reused from an earlier run")
        return earlier
    to_compile = graphs.graph_to_compile(target, "int8")
    preprocessing = graphs.spec.network.preprocessing
    mixtures = simulate(graphs, target, to_compile.graph, images.dataset.crop(images.evaluation.samples, preprocessing))
    bundles = (  # which are built when they are profiled
        build_one(graphs, target, each, run.path / f"{target}-{each}", to_compile if each == "int8" else None)
        for each in PRECISIONS
    )
    graph = copy_sharing(to_compile.graph)  # compiling changes the other one
    measured = measure(
        mixtures,
        target,
        layer_macs(graphs),
        job.gates.max_drop,
        graphs.reporter,
        lambda: profiled_costs(bundles, target, job.timing.threads, graph, graphs.reporter),
    )
    run.remember(f"sensitivity-{target}", inputs, measured)
    return measured


def profiled_costs(
    bundles: Iterable[Bundle], target: str, threads: int | None, graph: GraphModule, reporter: Reporter
) -> LayerCosts | None:
    """What each layer costs in float, by profiles of the float and the INT8 bundle on this machine; None without."""
    profiles: list[Profile] = []
    try:
        for bundle in bundles:
            with reporter.stage(f"{bundle.path.name}: profile"), quiet():
                profiles.append(profile_bundle(bundle, check_threads(threads)))
    except StageError as error:
        reporter.warn(f"{target}: the layers can't be timed: {error}", error)
        return None
    in_float, in_int8 = profiles
    return LayerTimes(total_ms(in_int8.layer_times), total_ms(in_float.layer_times), in_int8.conversion_ns).costs(graph)


def _add_to_report(folder: Path, sensitivity: Sensitivity, reporter: Reporter) -> None:
    """Add the document to the folder's report, if it has one of the same weights."""
    if not (folder / REPORT).exists():
        return
    try:
        report = load_report(folder)
    except InputError as error:
        reporter.warn(f"the sensitivity was not added to the report: {error}", error)
        return
    if report.model.weights_sha256 != sensitivity.model.weights_sha256:
        reporter.warn(f"the sensitivity was not added to '{folder / REPORT}', which reports other weights")
        return
    write_report(replace(report, sensitivity=sensitivity), folder)
    reporter.say(f"{folder}/report.html shows the sensitivity too")


def block_of(layer: str) -> str:
    """The block of a layer: its path up to the last number that a name follows."""
    path = re.sub(r"\.\d+$", "", layer)
    numbered = re.match(r"((?:.*\.)?\d+)\.", path)
    return numbered[1] if numbered else path.split(".")[0]


def measure(
    mixtures: Mixtures,
    target: str,
    macs: Mapping[str, int],
    max_drop: float,
    reporter: Reporter,
    time_layers: Callable[[], LayerCosts | None] = lambda: None,
) -> TargetSensitivity:
    """One target's part of the document: INT8 as a whole, each layer and block, and the culprits.

    `time_layers` returns what the layers cost in float, if the runtime tells. It is called after the simulation.
    """
    everything, layers = mixtures.everything, mixtures.simulation.layers
    blocks: dict[str, list[str]] = {}
    for name in layers:
        blocks.setdefault(block_of(name), []).append(name)
    groups = [frozenset([name]) for name in layers] + [frozenset(names) for names in blocks.values()]
    with reporter.stage(f"{target}: simulate {len(layers)} layers", len(mixtures.images)) as step:
        mixtures.run([mixture for group in groups for mixture in (group, everything - group)], step)
    alone = mixtures.alone()
    layer_costs = time_layers()
    whole = mixtures.figures(everything)
    noise = sum(alone.values())
    order = [name for name, _ in steps_of(alone, layer_costs)]
    harmful, then = culprits(mixtures, order, max_drop, reporter, target)

    def costs(name: str, own: Sequence[str]) -> dict[str, Any]:
        """The figures of a layer or a block."""
        only = frozenset(own)
        return {
            "name": name,
            "macs": sum(macs.get(layer, 0) for layer in own),
            "only_int8": mixtures.figures(only),
            "only_float": mixtures.figures(everything - only).spared(whole),
            "noise_share": mixtures.noise(only) / noise if noise else 0.0,
            "time": _time_of(layer_costs, own),
        }

    return TargetSensitivity.of(
        target,
        mixtures.float_accuracy().value,
        whole,
        [SensitiveLayer(block=block_of(name), **costs(name, [name])) for name in layers],
        [SensitiveBlock(layers=tuple(own), **costs(name, own)) for name, own in blocks.items()],
        harmful,
        then,
    )


def _time_of(costs: LayerCosts | None, layers: Sequence[str]) -> LayerTime | None:
    """The time of these layers together; None if that of one isn't known."""
    if costs is None or not costs.int8_ms.keys() >= set(layers):
        return None
    in_float, in_int8 = (sum(times[name] for name in layers) for times in (costs.float_ms, costs.int8_ms))
    return LayerTime(float_ms=in_float, int8_ms=in_int8, saved_ms=costs.lost_ms(layers))


def culprits(
    mixtures: Mixtures, order: Sequence[str], max_drop: float, reporter: Reporter, title: str
) -> tuple[tuple[str, ...], Simulated]:
    """The first layers of an order, as many as must stay in float to keep the drop within `max_drop` points.

    Returns them, and the accuracy with them in float.
    """
    everything = mixtures.everything

    def suffices(count: int) -> bool:
        mixture = everything - frozenset(order[:count])
        if mixture not in mixtures.logits:
            with reporter.stage(f"{title}: simulate {count} layers in float", len(mixtures.images)) as step:
                mixtures.run([mixture], step)
        return bool(mixtures.figures(mixture).drop_top1_points <= max_drop)

    low, high = 0, 0
    while not suffices(high):  # terminates, because all layers in float lose nothing
        low, high = high, min(max(1, 2 * high), len(order))
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if suffices(middle) else (middle, high)
    return tuple(order[:high]), mixtures.figures(everything - frozenset(order[:high]))
