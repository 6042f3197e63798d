"""Measures CPU seconds and peak memory of each stage against the number of parameters.

    python -m benchmarks.scale --data imagenet-500.zip convnextv2_atto convnextv2_nano convnextv2_tiny convnextv2_base
    python -m benchmarks.scale --tables

The float and the INT8 bundle of each target are built with random weights in separate processes, as `deploy` does for
large networks; a third process runs both. Peaks are those of all processes together, without the pages of files that
the system can drop. Seconds are CPU time.
benchmarks/scale.json has one row for each stage; measuring a model again replaces its rows. `--fit` fits the
predictions of `edgekit plan` to the rows of the models in FITTED. `--tables` writes benchmarks/SCALE.md and
docs/scale.png from all rows.
"""

import argparse
import gc
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import nnls

from benchmarks.machine import INTERVAL, memory_of, peak_of_this_process
from benchmarks.rows import keep_rows, read_rows
from edgekit.config.runtimes import PRECISIONS, RUNTIMES

HERE = Path(__file__).resolve().parent
ROWS, TABLES, PICTURE = HERE / "scale.json", HERE / "SCALE.md", HERE.parent / "docs/scale.png"
GIANTS = HERE / "giants.json"
FIT = HERE.parent / "edgekit/_assets/plan.json"
FITTED = (
    "convnextv2_atto",
    "convnextv2_nano",
    "convnextv2_tiny",
    "convnextv2_base",
    "convnextv2_large",
    "convnextv2_huge",
    "vit_small_patch16_224",
    "vit_large_patch16_224",
    "davit_tiny",
)
TARGETS = tuple(RUNTIMES)
STAGES = ("load", "export", "rewrite", "compile float", "quantize", "compile int8", "run")
GIB = 2**30


class Stages:
    """Measures peak memory and CPU seconds of named stages in this process."""

    def __init__(self, peak: Any) -> None:
        self.rows: list[dict[str, Any]] = []
        self._peak = peak

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        self._peak.value = memory_of(os.getpid())
        start = time.process_time()
        yield
        seconds = round(time.process_time() - start, 2)
        time.sleep(2 * INTERVAL)  # so that short stages have a sample
        self.rows.append({"stage": name, "seconds": seconds, "peak_bytes": self._peak.value})


def measure(model: str, target: str, data: Path, count: int) -> list[dict[str, Any]]:
    """Measure the rows of one model and target: load it in this process, and run the other stages in new processes."""
    from edgekit.job import Job
    from edgekit.measure import machine
    from edgekit.models.options import ModelOptions
    from edgekit.pipeline.builder import graphs_of, write_spec
    from edgekit.pipeline.loading import load_job
    from edgekit.pipeline.plan import shape_of_model
    from edgekit.runtime.backend import load_backend
    from edgekit.support.progress import Reporter
    from edgekit.support.run_folder import open_run

    network = ModelOptions(model, weights="random", imgsz=224)
    with (
        peak_of_this_process() as peak,
        tempfile.TemporaryDirectory(dir=HERE.parent) as folder,
        open_run(Path(folder) / "run") as run,
    ):
        stages = Stages(peak)
        with stages.stage("load"):
            load_backend(target)
            job = Job(network, data, targets=(target,), num_calibration_samples=count)
            spec, _ = load_job(job, Reporter(quiet=True), evaluates=False)
        with run.workspace("weights") as parking:
            parked = write_spec(spec, parking)
            spec = graphs_of(parked, Reporter(quiet=True)).spec
            gc.collect()  # the network in memory, as `Builder` does
            rows = list(stages.rows)
            for name in ("float", "int8", "run"):
                own = memory_of(os.getpid())  # of this process, which waits, as that of `deploy` does
                rows += [row | {"peak_bytes": row["peak_bytes"] + own} for row in part(name, parked, target)]
    shared = {
        "model": model, "params": spec.network.params, "macs": shape_of_model(network).macs, "input": 224,
        "target": target, "calibration_images": count, "cpu": machine.describe().cpu,
    }  # fmt: skip
    return [shared | {"size_bytes": None} | row for row in rows]


def part(name: str, file: Path, target: str) -> list[dict[str, Any]]:
    """Measure rows with `stages_of` in a new process."""
    from edgekit.pipeline.builder import GIVE_BACK
    from edgekit.support.libraries import SLEEPING

    command = [sys.executable, "-m", "benchmarks.scale", "--part", name, str(file), target]
    environment = os.environ | GIVE_BACK | dict([SLEEPING])
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
    rows: list[dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    return rows


def stages_of(name: str, file: Path, target: str) -> list[dict[str, Any]]:
    """Build one bundle of a parked job, or run both bundles, in this process as `build_process` does."""
    with peak_of_this_process() as peak:
        return _measured(Stages(peak), name, file, target)


def _measured(stages: Stages, name: str, file: Path, target: str) -> list[dict[str, Any]]:
    from edgekit.config.runtimes import Precision
    from edgekit.pipeline.build import compile_stage
    from edgekit.pipeline.builder import graphs_of
    from edgekit.runtime.backend import load_backend
    from edgekit.runtime.bundle import read_bundle
    from edgekit.runtime.session import open_session
    from edgekit.support.progress import Reporter

    sizes, folder = {}, file.parent
    if name == "run":
        with stages.stage("run"), ExitStack() as stack:
            for bundle in ("float", "int8"):
                stack.enter_context(open_session(read_bundle(folder / bundle), 1)).verify()
        return stages.rows
    precision: Precision = "float" if name == "float" else "int8"
    load_backend(target)
    gc.freeze()  # as in the build process, which has imported the compilers
    graphs = graphs_of(file, Reporter(quiet=True))
    with stages.stage("export"):
        _ = graphs.simplified
    with stages.stage("rewrite" if name == "float" else "quantize"):
        to_compile = graphs.graph_to_compile(target, precision)
    with stages.stage(f"compile {name}"):
        sizes[f"compile {name}"] = compile_stage(to_compile, folder / name)[0].size_bytes
    return [
        row | {"size_bytes": sizes.get(row["stage"])}
        for row in stages.rows
        if name == "int8" or row["stage"] != "export"
    ]


def exponent(rows: list[dict[str, Any]], key: str) -> float:
    """Fit b of `key` = a * params ** b by least squares of the logarithms."""
    x, y = (np.log([row[name] for row in rows]) for name in ("params", key))
    return float(np.polyfit(x, y, 1)[0])


def tables() -> None:
    """Write SCALE.md and the picture."""
    import matplotlib

    from edgekit.compiler.rounding import MOST_INPUTS_OF_LARGE
    from edgekit.config.runtimes import ROUNDED_TOGETHER_UP_TO

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = [row for row in read_rows(ROWS) if row["model"].startswith("convnextv2_")]
    rows.sort(key=lambda row: row["params"])
    lines = [
        "# Time and memory of each stage by number of parameters", "",
        "Written by `benchmarks/scale.py --tables` from `scale.json`: ConvNeXt V2 at 224 x 224 with random weights and",
        ", ".join(sorted({str(row["calibration_images"]) for row in rows}))
        + " calibration images. A separate process builds each bundle. Peaks don't count the pages of files that the",
        "system can drop.",
        f"Times are CPU seconds of one run on {', '.join(sorted({row['cpu'] for row in rows}))}, whose two cores",
        "were shared with other processes, so exponents are more reliable than seconds. GPTQ rounds the weights; above",
        f"{ROUNDED_TOGETHER_UP_TO / 1e6:.0f} M parameters, only those of layers with at most "
        f"{MOST_INPUTS_OF_LARGE:,} inputs.", "",
        "| target | stage | " + " | ".join(dict.fromkeys(r["model"].removeprefix("convnextv2_") for r in rows))
        + " | exponent s | exponent GiB |",
    ]  # fmt: skip
    names = list(dict.fromkeys(row["model"] for row in rows))
    lines.append("|" + "---|" * (len(names) + 4))
    figure, axes = pyplot.subplots(1, 2, figsize=(10, 4))
    for target in TARGETS:
        for stage in STAGES:
            mine = [row for row in rows if (row["target"], row["stage"]) == (target, stage)]
            by = {row["model"]: row for row in mine}
            cells = [
                f"{by[n]['seconds']:.1f} s, {by[n]['peak_bytes'] / GIB:.2f} GiB" if n in by else "-" for n in names
            ]
            powers = [f"{exponent(mine, key):.2f}" for key in ("seconds", "peak_bytes")]
            lines.append(f"| {target} | {stage} | " + " | ".join(cells + powers) + " |")
        by_model = [[row for row in rows if (row["model"], row["target"]) == (name, target)] for name in names]
        by_model = [stages for stages in by_model if stages]
        params = [stages[0]["params"] for stages in by_model]
        axes[0].loglog(params, [sum(row["seconds"] for row in stages) for stages in by_model], "o-", label=target)
        axes[1].loglog(params, [max(row["peak_bytes"] for row in stages) / GIB for stages in by_model], "o-")
    axes[0].set_ylabel("seconds, all stages")
    axes[1].set_ylabel("peak memory, GiB")
    for axis in axes:
        axis.set_xlabel("parameters")
        axis.grid(True, which="both", alpha=0.3)
    axes[0].legend()
    figure.suptitle("ConvNeXt V2 at 224: float and INT8 bundle of one target")
    figure.tight_layout()
    figure.savefig(PICTURE, dpi=100)
    lines += ["", "![seconds and peak memory against parameters, log-log](../docs/scale.png)", ""]
    TABLES.write_text("\n".join(lines) + checks())


def fit() -> None:
    """Write the coefficients of `edgekit plan`: the peak of each stage and target as a sum over `plan.terms`.

    The fit minimizes relative errors, so that small models count as much as large ones.
    """
    from edgekit.config.recipes import Recipe
    from edgekit.models.options import ModelOptions
    from edgekit.pipeline.plan import shape_of_model, size_of_weights, terms

    rows = [row for row in read_rows(ROWS) if row["model"] in FITTED]
    models = sorted({row["model"] for row in rows}, key=FITTED.index)
    shapes = {model: shape_of_model(ModelOptions(model, imgsz=224)) for model in models}
    recipes = {model: Recipe.for_model(model) for model in models}
    peak_bytes: dict[str, Any] = {target: {} for target in TARGETS}
    layer_bytes: dict[str, Any] = {target: {} for target in TARGETS}
    for target in TARGETS:
        for stage in STAGES:
            mine = [row for row in rows if (row["target"], row["stage"]) == (target, stage)]
            x = [terms(shapes[row["model"]], recipes[row["model"]], target, stage) for row in mine]
            y = [row["peak_bytes"] for row in mine]
            peak_bytes[target][stage] = least_squares(x, y, y)
        for precision in ("float", "int8"):
            mine = [row for row in rows if (row["target"], row["stage"]) == (target, f"compile {precision}")]
            weights = [size_of_weights(shapes[r["model"]], recipes[r["model"]], target, precision) for r in mine]
            y = [row["size_bytes"] for row in mine]
            beyond = [size - size_of_all for size, size_of_all in zip(y, weights, strict=True)]
            (layer_bytes[target][precision],) = least_squares(
                [[len(shapes[r["model"]].dense)] for r in mine], beyond, y
            )
    (images,) = {row["calibration_images"] for row in rows}
    document: dict[str, Any] = {"schema_version": 1, "fitted_on": models, "input": 224, "calibration_images": images}
    document |= {"peak_bytes": peak_bytes, "layer_bytes": layer_bytes}
    FIT.write_text(json.dumps(document, indent=1) + "\n")


def least_squares(x: list[list[int]], y: list[float], sizes: list[float]) -> list[float]:
    """Coefficients c >= 0 that minimize the squares of (x @ c - y) / sizes.

    No term makes a stage smaller. Without that condition, terms that grow together get large coefficients of
    opposite signs, which no longer cancel for a giant.
    """
    share = 1 / np.array(sizes, float)
    columns = np.array(x, float) * share[:, None]
    scale = np.maximum(np.abs(columns).max(0), np.finfo(float).tiny)
    coefficients, _ = nnls(columns / scale, np.array(y) * share)
    return [float(coefficient) for coefficient in coefficients / scale]


def predictions() -> list[dict[str, Any]]:
    """Predictions of `edgekit plan` for models outside the fit, with the measured values, in bytes."""
    from edgekit.models.options import ModelOptions
    from edgekit.pipeline.plan import plan_model, read_fit

    rows = [row for row in read_rows(ROWS) if row["model"] not in read_fit().fitted_on]
    comparisons = []
    for model in dict.fromkeys(row["model"] for row in rows):
        planned = plan_model(ModelOptions(model, weights="random", imgsz=224))
        planned_sizes = {(bundle.target, bundle.precision): bundle.size_bytes for bundle in planned.artifacts}
        for target in dict.fromkeys(row["target"] for row in rows if row["model"] == model):
            mine = {row["stage"]: row for row in rows if (row["model"], row["target"]) == (model, target)}
            worst = max(mine.values(), key=lambda row: row["peak_bytes"])
            peak = max(stage.peak_bytes for stage in planned.stages if stage.target == target)
            sizes = {p: (planned_sizes[target, p], mine[f"compile {p}"]["size_bytes"]) for p in PRECISIONS}
            row = {"model": model, "target": target, "stage": worst["stage"], "peak": (peak, worst["peak_bytes"])}
            comparisons.append(row | sizes)
    return comparisons


def giants() -> list[dict[str, Any]]:
    """Predictions for the INT8 bundles that benchmarks/giants.py made, with the measured peaks, in bytes."""
    from benchmarks.giants import FACTORIES
    from edgekit.config.recipes import Recipe
    from edgekit.models.options import ModelOptions
    from edgekit.pipeline.plan import plan_model

    peaks: dict[tuple[str, int], dict[str, int]] = {}
    for row in read_rows(GIANTS):
        peaks.setdefault((row["model"], row["input"]), {})[row["target"]] = row["peak_bytes"]
    comparisons = []
    for (model, size), measured in peaks.items():
        factory = FACTORIES.get(model)
        options = ModelOptions(factory.name if factory else model, imgsz=size)
        planned = plan_model(options, tuple(measured), recipe=Recipe.load(factory.recipe) if factory else None)
        predicted = {bundle.target: bundle.peak_bytes for bundle in planned.artifacts if bundle.precision == "int8"}
        comparisons += [
            {"model": model, "target": target, "peak": (predicted[target], peak)} for target, peak in measured.items()
        ]
    return comparisons


def checks() -> str:
    """The tables of predictions."""
    from edgekit.pipeline.plan import read_fit

    lines = [
        "", "## Predictions of `edgekit plan` for models outside the fit", "",
        f"The fit uses {', '.join(read_fit().fitted_on)}.", "",
        "| model | target | largest stage | peak predicted, measured GiB | error | size float | size INT8 |",
        "|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for row in predictions():
        predicted, measured = row["peak"]
        sizes = [f"{a / 1e6:.1f}, {b / 1e6:.1f} MB ({a / b - 1:+.1%})" for a, b in (row["float"], row["int8"])]
        lines.append(
            f"| {row['model']} | {row['target']} | {row['stage']} | {predicted / GIB:.2f}, "
            f"{measured / GIB:.2f} | {predicted / measured - 1:+.1%} | {' | '.join(sizes)} |"
        )
    lines += [
        "", "`benchmarks/giants.py` ran `edgekit deploy --precision int8` of the largest models:", "",
        "| model | target | peak predicted, measured GiB | error |",
        "|---|---|---|---|",
    ]  # fmt: skip
    for row in giants():
        predicted, measured = row["peak"]
        peaks = f"{predicted / GIB:.2f}, {measured / GIB:.2f} | {predicted / measured - 1:+.1%}"
        lines.append(f"| {row['model']} | {row['target']} | {peaks} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--targets", nargs="+", default=TARGETS, choices=TARGETS)
    parser.add_argument("--count", type=int, default=8, help="number of calibration images")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--fit", action="store_true")
    parser.add_argument("--tables", action="store_true")
    parser.add_argument("--part", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.part:
        print(json.dumps(stages_of(args.part[0], Path(args.part[1]), args.part[2])))
        return
    for model in args.models:
        for target in args.targets:
            if args.here:
                keep_rows(ROWS, measure(model, target, args.data, args.count), ("model", "target"))
                continue
            command = [sys.executable, "-m", "benchmarks.scale", model, "--here", "--targets", target]
            command += ["--data", str(args.data), "--count", str(args.count)]
            done = subprocess.run(command, stderr=subprocess.PIPE, text=True)
            error = done.stderr.strip().splitlines()[-1:] if done.returncode else []
            print(model, target, "done" if done.returncode == 0 else f"failed ({done.returncode}): {error}", flush=True)
    if args.fit:
        fit()
    if args.tables:
        tables()


if __name__ == "__main__":
    main()
