"""The steps alone, and what stands around them."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from edgekit.cli import options as opt
from edgekit.cli.app import _job, _values, app, clean_stdout, emit
from edgekit.errors import OutputError, UsageError

Bundles = Annotated[list[Path], typer.Argument(help="Bundle folders.")]
BundlePath = Annotated[Path, typer.Argument(help="A bundle folder.")]


@app.command()
def quantize(
    model: opt.Model,
    data: opt.Data = None,
    calibration_data: opt.CalibrationData = None,
    weights: opt.Weights = None,
    target: opt.Target = None,
    device_class: opt.DeviceClass = None,
    recipe: opt.RecipeName = None,
    model_args: opt.ModelArgs = None,
    imgsz: opt.Imgsz = None,
    mean: opt.Mean = None,
    std: opt.Std = None,
    interpolation: opt.Interpolation = None,
    crop_pct: opt.CropPct = None,
    labels: opt.Labels = None,
    num_calibration_samples: opt.CalibrationCount = None,
    seed: opt.Seed = 0,
    output: opt.Output = None,
    json_: opt.Json = False,
    quiet: opt.Quiet = False,
) -> None:
    """Calibrate a model: one graph with Q/DQ for each target, for `edgekit compile`."""
    from edgekit.progress import Reporter

    with clean_stdout() as out:
        from edgekit.steps import quantize_model

        options = _job(_values(locals()))
        folders = quantize_model(options, Reporter(quiet))
        if json_:
            emit(out, {"schema_version": 1, "graphs": [str(folder) for folder in folders]})
        else:
            out.writelines(f"{folder}\n" for folder in folders)


@app.command(name="compile")
def compile_(
    source: Annotated[str, typer.Argument(help="A folder that `edgekit quantize` wrote, or a model for float.")],
    data: opt.Data = None,
    weights: opt.Weights = None,
    target: opt.Target = None,
    device_class: opt.DeviceClass = None,
    recipe: opt.RecipeName = None,
    model_args: opt.ModelArgs = None,
    imgsz: opt.Imgsz = None,
    mean: opt.Mean = None,
    std: opt.Std = None,
    interpolation: opt.Interpolation = None,
    crop_pct: opt.CropPct = None,
    labels: opt.Labels = None,
    seed: opt.Seed = 0,
    output: opt.Output = None,
    json_: opt.Json = False,
    quiet: opt.Quiet = False,
) -> None:
    """Compile a quantized graph to an int8 bundle, or a model to float bundles."""
    from edgekit.progress import Reporter

    with clean_stdout() as out:
        from edgekit.steps import compile_graphs, compile_model

        if Path(source).exists():
            if output is None:
                raise UsageError("no place for the bundles was given: name a folder with --output DIR.")
            made = compile_graphs(Path(source), output, Reporter(quiet))
        else:
            values = _values(locals()) | {"model": source, "calibration_data": None, "num_calibration_samples": 8}
            made = compile_model(_job(values), Reporter(quiet))
        if json_:
            emit(out, {"schema_version": 1, "bundles": [str(bundle.path) for bundle in made]})
        else:
            out.writelines(f"{bundle.path}\n" for bundle in made)


@app.command()
def evaluate(
    bundles: Bundles,
    data: opt.Data = None,
    num_eval_samples: opt.EvalCount = None,
    seed: opt.Seed = 0,
    threads: opt.Threads = None,
    json_: opt.Json = False,
    quiet: opt.Quiet = False,
) -> None:
    """Top-1 and top-5 of bundles on labelled images; the others' drop against the first."""
    from edgekit.progress import Reporter

    with clean_stdout() as out:
        from edgekit.steps import evaluate_bundles

        if data is None:
            raise UsageError("no images were given: name a folder or zip of labelled images with --data PATH.")
        found = evaluate_bundles(bundles, data, num_eval_samples, seed, threads, Reporter(quiet))
        if json_:
            emit(out, found)
            return
        for row in found["results"]:
            low, high = row["accuracy"]["drop_ci95_points"]
            out.write(
                f"{row['bundle']}: top-1 {row['accuracy']['top1']:.2%}, top-5 {row['accuracy']['top5']:.2%}, "
                f"drop {row['accuracy']['drop_top1_points']:+.2f} points [{low:+.2f}, {high:+.2f}], "
                f"agreement {row['accuracy']['agreement']:.2%}, n = {row['accuracy']['count']}\n"
            )


@app.command()
def benchmark(
    bundles: Bundles,
    threads: opt.Threads = None,
    warmup: opt.Warmup = 20,
    iterations: opt.Iterations = 200,
    json_: opt.Json = False,
    quiet: opt.Quiet = False,
) -> None:
    """Latency of bundles, timed in turns in one process; ratios against the first."""
    from edgekit.progress import Reporter

    with clean_stdout() as out:
        from edgekit.steps import benchmark_bundles

        found = benchmark_bundles(bundles, threads, warmup, iterations, Reporter(quiet))
        if json_:
            emit(out, found)
            return
        for row in found["results"]:
            time = row["latency_ms"]
            faster = row["speedup"]
            versus = f", {faster['ratio']:.2f}x {faster['versus']}" if faster else ""
            out.write(
                f"{row['bundle']}: p50 {time['p50']:.2f} ms, p90 {time['p90']:.2f}, p99 {time['p99']:.2f}, "
                f"{time['threads']} threads, n = {time['count']}, peak {row['peak_rss_bytes'] / 1e6:.0f} MB{versus}\n"
            )


@app.command()
def inspect(bundle: BundlePath, threads: opt.Threads = None, json_: opt.Json = False) -> None:
    """What a bundle is, and whether its golden samples give the same numbers here."""
    with clean_stdout() as out:
        from edgekit.steps import inspect_bundle

        found = inspect_bundle(bundle, threads)
        if json_:
            emit(out, found)
        else:
            out.writelines(f"{key}: {value}\n" for key, value in found.items() if not isinstance(value, list | dict))


@app.command()
def classify(
    bundle: BundlePath,
    images: Annotated[list[Path], typer.Argument(help="Image files.")],
    top: Annotated[int, typer.Option(help="How many labels.")] = 5,
    threads: opt.Threads = None,
    json_: opt.Json = False,
) -> None:
    """Classify images with a bundle."""
    with clean_stdout() as out:
        from edgekit import load

        with load(bundle, threads) as session:
            results: list[dict[str, Any]] = []
            for image in images:
                best = session.classify(image, top)
                results.append(
                    {"image": str(image), "top": [{"label": label, "score": score} for label, score in best]}
                )
        if json_:
            emit(out, {"schema_version": 1, "bundle": str(bundle), "results": results})
            return
        for result in results:
            if len(results) > 1:
                out.write(f"{result['image']}\n")
            out.writelines(f"{each['score']:7.2%}  {each['label']}\n" for each in result["top"])


@app.command()
def report(folder: Annotated[Path, typer.Argument(help="A run folder.")], json_: opt.Json = False) -> None:
    """Print a run's table again, and write its report.html and report.csv anew."""
    with clean_stdout() as out:
        from rich.console import Console

        from edgekit.report import load_report, render_table, write_report

        found = load_report(folder / "report.json")
        try:
            write_report(found, folder)
        except OutputError as error:
            print(f"warning: {error}", file=sys.stderr)
        if json_:
            emit(out, found)
        else:
            render_table(found, Console(file=out))


@app.command()
def targets(json_: opt.Json = False) -> None:
    """Runtimes, device classes and recipes that there are."""
    from edgekit.profiles import list_device_classes, list_recipes, load_device_class, load_recipe
    from edgekit.targets import TARGETS

    classes = [load_device_class(name) for name in list_device_classes()]
    recipes = [load_recipe(name) for name in list_recipes()]
    with clean_stdout() as out:
        if json_:
            listed = {
                "targets": [{"name": each.name, "runtime": each.title} for each in TARGETS.values()],
                "device_classes": [{"name": each.name, "description": each.description} for each in classes],
                "recipes": [{"name": each.name, "description": each.description} for each in recipes],
            }
            emit(out, {"schema_version": 1} | listed)
            return
        out.writelines(f"target        {each.name}: {each.title}\n" for each in TARGETS.values())
        out.writelines(f"device class  {each.name}: {each.description}\n" for each in classes)
        out.writelines(f"recipe        {each.name}: {each.description}\n" for each in recipes)
