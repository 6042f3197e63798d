"""Commands other than the pipeline: inspect, classify, report, compare, targets and doctor."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgekit.cli import panels
from edgekit.cli.app import app
from edgekit.cli.arguments import BundlePath
from edgekit.cli.groups import Json, Offline, OneDevice, Threads
from edgekit.cli.output import clean_stdout, emit
from edgekit.errors import OutputError

if TYPE_CHECKING:
    from edgekit.report.compare import RowComparison


@app.command(rich_help_panel=panels.STEPS)
def inspect(
    bundle: Annotated[
        Path,
        typer.Argument(
            metavar="BUNDLE", help="A bundle folder, or a model file from any source (.onnx, .tflite or .xml)."
        ),
    ],
    device: OneDevice = "local",
    offline: Offline = False,
    threads: Threads = None,
    json_: Json = False,
) -> None:
    """Show what a bundle holds and which of its layers run in integer kernels."""
    from edgekit.devices.registry import find_device
    from edgekit.devices.remote import inspect_on
    from edgekit.measure.gates import SIMULATED
    from edgekit.report.row import all_figures
    from edgekit.support.progress import Reporter

    with clean_stdout() as out:
        inspection = inspect_on(find_device(device), bundle, threads, Reporter(quiet=json_), offline)
        if json_:
            emit(out, inspection)
            return
        if inspection.device:
            out.write(f"device: {device} ({inspection.device.cpu})\n")
        plain = {name: value for name, value in vars(inspection).items() if isinstance(value, str | int | float)}
        out.writelines(f"{name}: {value}\n" for name, value in plain.items())
        for figure in all_figures():
            if figure.is_part_of(inspection) and figure.value(inspection) is not None:
                out.write(f"{figure.title}: {figure.text(inspection)} {figure.unit}\n")
        ran = inspection.int8
        out.write(f"in integer kernels: {ran.int8_macs / 1e6:.1f} of {ran.total_macs / 1e6:.1f} M MACs")
        out.write(" (simulated in floating point)\n" if ran.simulated else "\n")
        out.write(f"method: {ran.method}\n")
        out.writelines(
            f"float: {op.name} [{op.kernel}] {op.macs / 1e6:.2f} M MACs: {op.reason}\n" for op in ran.ops if not op.int8
        )
        for kind, ms in (ran.time_by_kind_ms or {}).items():
            out.write(f"time: {kind} {ms:.3f} ms\n")
        if ran.simulated:
            out.write(f"note: {SIMULATED}\n")


@app.command(rich_help_panel=panels.STEPS)
def classify(
    bundle: BundlePath,
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE", help="Image files.")],
    top: Annotated[
        int,
        typer.Option(
            min=1, metavar="N", rich_help_panel=panels.OUTPUT, help="Number of labels to print for each image."
        ),
    ] = 5,
    threads: Threads = None,
    json_: Json = False,
) -> None:
    """Classify images with a bundle."""
    from edgekit.measure.inspect_bundle import classify_images

    with clean_stdout() as out:
        found = classify_images(bundle, images, top, threads)
        if json_:
            emit(out, found)
            return
        for result in found.results:
            if len(images) > 1:
                out.write(f"{result.image}\n")
            out.writelines(f"{each.score:7.2%}  {each.label}\n" for each in result.top)


@app.command(rich_help_panel=panels.STEPS)
def report(folder: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")], json_: Json = False) -> None:
    """Print a run's table, and rewrite its report.html and report.csv."""
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


@app.command(rich_help_panel=panels.ANALYSIS)
def compare(
    before: Annotated[
        Path, typer.Argument(metavar="RUN_A", help="The run folder to compare with, such as yesterday's.")
    ],
    after: Annotated[Path, typer.Argument(metavar="RUN_B", help="The run folder to judge.")],
    json_: Json = False,
) -> int:
    """Compare two runs; exit with 1 if a figure got worse beyond the noise."""
    from edgekit.report import load_report
    from edgekit.report.compare import compare_runs

    with clean_stdout() as out:
        found = compare_runs(load_report(before), load_report(after))
        if json_:
            emit(out, found)
        else:
            out.writelines(f"note: {note}\n" for note in found.notes)
            out.writelines(line for row in found.results for line in _changes(row))
            out.writelines(f"worse: {text}\n" for text in found.regressions)
            if not found.regressions:
                out.write("nothing got worse beyond the noise\n")
    return 0 if found.verdict == "pass" else 1


@app.command(rich_help_panel=panels.DEVICES)
def targets(json_: Json = False) -> None:
    """List the runtimes, device classes and recipes."""
    from edgekit.config.catalogue import list_catalogue

    catalogue = list_catalogue()
    with clean_stdout() as out:
        if json_:
            emit(out, catalogue)
            return
        out.writelines(f"target        {each.name}: {each.runtime}\n" for each in catalogue.targets)
        out.writelines(f"device class  {each.name}: {each.description}\n" for each in catalogue.device_classes)
        out.writelines(f"recipe        {each.name}: {each.description}\n" for each in catalogue.recipes)


@app.command(rich_help_panel=panels.DEVICES)
def doctor(json_: Json = False) -> int:
    """Check this machine, and print the fix for each problem."""
    from edgekit.devices.doctor import examine

    with clean_stdout() as out:
        found = examine()
        if json_:
            emit(out, found)
        else:
            for each in found.findings:
                out.write(f"{each.status:<8} {each.name}: {each.found}\n")
                if each.fix:
                    out.write(f"{'':<8} fix: {each.fix}\n")
            out.write("nothing is in the way\n" if found.healthy else "something is broken: see the fixes\n")
    return 0 if found.healthy else 1


def _changes(row: "RowComparison") -> Iterator[str]:
    from edgekit.report.compare import compared_figures, describe_change

    first, second = row.verdicts
    yield f"{row.bundle} on {row.device}: {first or 'missing'} -> {second or 'missing'}\n"
    for figure in compared_figures():
        if change := row.changes.get(figure.csv_column):
            yield f"  {figure.title}: {describe_change(figure, change)}\n"
