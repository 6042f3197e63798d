"""Implements `edgekit quantize` and `edgekit compile`, the two halves of building bundles."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from edgekit.errors import InputError
from edgekit.images.calibration_list import write_list
from edgekit.pipeline.build import build_one, warn_of_unmatched
from edgekit.pipeline.compile import compile_stage
from edgekit.pipeline.graphs import PreparedGraphs
from edgekit.pipeline.job import prepare
from edgekit.pipeline.options import Options
from edgekit.pipeline.prepared import STAGE, load_prepared, read_facts, save_prepared
from edgekit.pipeline.request import BundleInputs
from edgekit.pipeline.worker import parked
from edgekit.runtime.backend import load_backend
from edgekit.runtime.bundle import Bundle
from edgekit.support.libraries import quiet
from edgekit.support.progress import Reporter
from edgekit.support.run_folder import check_output, open_run


@dataclass(frozen=True, kw_only=True)
class QuantizedGraphs:
    """The document of `edgekit quantize`, which lists the folders that it wrote."""

    schema_version: Literal[1] = 1
    graphs: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class CompiledBundles:
    """The document of `edgekit compile`, which lists the folders that it wrote."""

    schema_version: Literal[1] = 1
    bundles: tuple[str, ...]


def quantize_model(options: Options, reporter: Reporter) -> list[Path]:
    """Calibrate for each target; return the folders with the graphs, `OUTPUT/<target>-int8-graph`."""
    check_output(options.folder)
    job = prepare(options, reporter, evaluate=False)
    folders = []
    with open_run(options.folder) as run, parked(job, run) as job:
        write_list(run.path / "calibration.json", job.calibration, job.recipe, options.seed)
        graphs = PreparedGraphs(job, reporter)
        for target in options.targets:
            folder = run.path / f"{target}-int8-graph"
            if _has_graph(folder, graphs.inputs(target, "int8")):
                reporter.say(f"{folder.name}: reused from an earlier run")
            else:
                prepared = graphs.prepare(target, "int8")
                warn_of_unmatched(prepared, reporter)
                save_prepared(prepared, folder)
            folders.append(folder)
    return folders


def _has_graph(folder: Path, inputs: BundleInputs) -> bool:
    try:
        return read_facts(folder).fingerprint == inputs.key
    except InputError:
        return False


def compile_graphs(source: Path, output: Path, reporter: Reporter) -> list[Bundle]:
    """Compile the graph that `quantize` wrote to `source`, or all graphs in it, to `output/<target>-int8`."""
    folders = [source] if (source / STAGE).exists() else sorted(file.parent for file in source.glob(f"*/{STAGE}"))
    if not folders:
        raise InputError(
            f"'{source}' contains no quantized graph", fix=f"Make one with `edgekit quantize MODEL -o {source}`"
        )
    check_output(output)
    names = {}
    for folder in folders:
        facts = read_facts(folder)
        load_backend(facts.target)
        names[folder] = f"{facts.target}-{facts.precision}"
    bundles = []
    with open_run(output) as run:
        for folder, name in names.items():
            with reporter.stage(f"{name}: compile"), quiet():
                bundle, _ = compile_stage(load_prepared(folder), run.path / name)  # no more than one graph in memory
            bundles.append(bundle)
    return bundles


def compile_model(options: Options, reporter: Reporter) -> list[Bundle]:
    """Build float bundles of a model, `OUTPUT/<target>-float`. A few images check their parity with torch."""
    check_output(options.folder)
    for target in options.targets:
        load_backend(target)
    job = prepare(options, reporter, evaluate=False)
    with open_run(options.folder) as run, parked(job, run) as job:
        graphs = PreparedGraphs(job, reporter)
        return [
            build_one(graphs, target, "float", run.path / f"{target}-float", reporter) for target in options.targets
        ]
