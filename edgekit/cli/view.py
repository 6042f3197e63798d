"""What stands around the job: inspect, classify, report, targets."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from edgekit.cli.app import app
from edgekit.cli.arguments import BundlePath
from edgekit.cli.groups import Json, Offline, Threads
from edgekit.cli.output import clean_stdout, emit
from edgekit.errors import OutputError


@app.command()
def inspect(
    bundle: Annotated[Path, typer.Argument(help="A bundle, or a model file of any origin (.onnx, .tflite, .xml).")],
    device: Annotated[str, typer.Option(help="Where to run it: local, a device's name, or ssh://USER@HOST.")] = "local",
    offline: Offline = False,
    threads: Threads = None,
    json_: Json = False,
) -> None:
    """What a bundle is, what ran in integer kernels, and whether its golden samples give the same numbers."""
    from edgekit.devices.registry import find_device
    from edgekit.devices.remote import inspect_on
    from edgekit.progress import Reporter
    from edgekit.rows import remarks_on

    with clean_stdout() as out:
        found = inspect_on(find_device(device), bundle, threads, Reporter(quiet=json_), offline)
        if json_:
            emit(out, found)
            return
        ran = found["int8"]
        if device != "local":
            out.write(f"device: {device} ({found['device']['cpu']})\n")
        out.writelines(f"{key}: {value}\n" for key, value in found.items() if not isinstance(value, list | dict))
        out.write(f"int8: {ran['share_of_macs']:.1%} of {ran['total_macs'] / 1e6:.1f} M MACs in integer kernels")
        out.write(" (simulated in floating point)\n" if ran["simulated"] else "\n")
        out.write(f"method: {ran['method']}\n")
        out.writelines(
            f"float: {op['name']} [{op['kernel']}] {op['macs'] / 1e6:.2f} M MACs: {op['reason']}\n"
            for op in ran["ops"]
            if not op["int8"]
        )
        for kind, ms in (ran["time_by_kind_ms"] or {}).items():
            out.write(f"time: {kind} {ms:.3f} ms\n")
        out.writelines(f"note: {each}\n" for each in remarks_on(ran))


@app.command()
def classify(
    bundle: BundlePath,
    images: Annotated[list[Path], typer.Argument(help="Image files.")],
    top: Annotated[int, typer.Option(help="How many labels.")] = 5,
    threads: Threads = None,
    json_: Json = False,
) -> None:
    """Classify images with a bundle."""
    from edgekit.bundles import classify_images

    with clean_stdout() as out:
        found = classify_images(bundle, images, top, threads)
        if json_:
            emit(out, found)
            return
        for result in found["results"]:
            if len(images) > 1:
                out.write(f"{result['image']}\n")
            out.writelines(f"{each['score']:7.2%}  {each['label']}\n" for each in result["top"])


@app.command()
def report(folder: Annotated[Path, typer.Argument(help="A run folder.")], json_: Json = False) -> None:
    """Print a run's table again, and write its report.html and report.csv anew."""
    from edgekit.report import load_report, render_table, write_report

    with clean_stdout() as out:
        found = load_report(folder)
        try:
            write_report(found, folder if folder.is_dir() else folder.parent)
        except OutputError as error:
            print(f"warning: {error}", file=sys.stderr)
        if json_:
            emit(out, found)
        else:
            from rich.console import Console

            render_table(found, Console(file=out))


@app.command()
def targets(json_: Json = False) -> None:
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
