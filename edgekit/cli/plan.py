"""`edgekit plan`, which predicts the cost of a job before it starts."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgekit.cli import panels
from edgekit.cli.app import app
from edgekit.cli.arguments import Model
from edgekit.cli.groups import Json, RecipeName, Source, Targets, flat
from edgekit.cli.options import model_options, targets_of
from edgekit.cli.output import clean_stdout, emit
from edgekit.config.device_classes import DeviceClass, host_class, load_device_class
from edgekit.errors import UsageError
from edgekit.support.libraries import needs

if TYPE_CHECKING:
    from edgekit.pipeline.plan_document import Plan


@app.command(rich_help_panel=panels.ANALYSIS)
@flat
def plan(
    model: Model,
    source: Source,
    target: Targets = None,
    device: Annotated[
        str | None,
        typer.Option(
            metavar="DEVICE",
            show_default="local",
            rich_help_panel=panels.DEVICE,
            help="Device that the bundles will run on: local (this machine), a name from `edgekit devices list`, or "
            "ssh://USER@HOST.",
        ),
    ] = None,
    device_class: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            rich_help_panel=panels.DEVICE,
            help="Device class that the bundles will run on, or a TOML file that describes one; in place of --device.",
        ),
    ] = None,
    recipe: RecipeName = None,
    json_: Json = False,
) -> int:
    """Predict memory, time and bundle sizes of a job without reading weights."""
    options = model_options(model, None, source)
    targets = targets_of(target)
    with clean_stdout() as out:
        cls, is_here = _class_of(device, device_class)
        with needs("build"):
            from edgekit.pipeline.plan import plan_model
        planned = plan_model(options, targets, cls, recipe, memory_of_class=not is_here)
        if json_:
            emit(out, planned)
        else:
            out.writelines(f"{line}\n" for line in _lines(planned))
    return 0


def _class_of(device: str | None, device_class: str | None) -> tuple[DeviceClass | None, bool]:
    """The class of the device, and whether it is this machine."""
    from edgekit.devices.check import class_of_remote
    from edgekit.devices.registry import THIS, find_device

    if device_class is not None:
        if device is not None:
            raise UsageError("--device and --device-class were both given: give one of them")
        return load_device_class(device_class if not device_class.endswith(".toml") else Path(device_class)), False
    found = find_device(device) if device else THIS
    name = host_class() if found == THIS else class_of_remote(found)
    if name is None and found != THIS:
        raise UsageError(f"no device class fits '{found.name}': say what it is with --device-class")
    return (load_device_class(name) if name else None), found == THIS


def _lines(planned: "Plan") -> list[str]:
    """A plan as a person reads it."""
    gib = 2**30
    height, width = planned.input_shape[2:]
    lines = [
        f"{planned.model}: {planned.params / 1e6:,.2f} M parameters, {planned.macs / 1e9:,.2f} GMAC at "
        f"{height}x{width}",
        f"this machine has {planned.memory_available_bytes / gib:.1f} GiB of memory free; all bundles take "
        f"{planned.disk_bytes / 1e6:,.0f} MB of disk",
        f"memory and processor's seconds of each stage, {planned.memory_model}:",
    ]
    for each in planned.stages:
        over = "" if each.peak_bytes < planned.memory_available_bytes else "  more than there is"
        lines.append(f"{each.target:<9} {each.stage:<14} {each.peak_bytes / gib:6.2f} GiB {each.seconds:6} s{over}")
    for bundle in planned.artifacts:
        lines.append(f"{bundle.name}: {'fits' if bundle.fits else 'does not fit'}: {bundle.why}")
    if bound := planned.latency_bound_ms:
        lines.append(
            f"no inference on {bound.device_class} is faster than {bound.float_ms:.2f} ms in float, "
            f"{bound.int8_ms:.2f} ms in int8 ({bound.threads} threads)"
        )
    return lines
