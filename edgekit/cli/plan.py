"""`edgekit plan`, which predicts the cost of a job before it starts."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.cli import completion, panels
from edgekit.cli.arguments import ONE_MODEL, bundle_option, device_option
from edgekit.cli.command import command
from edgekit.cli.output import Answer
from edgekit.config.device_classes import DeviceClass, host_class, list_device_classes, load_device_class
from edgekit.config.recipes import load_recipe
from edgekit.errors import UsageError
from edgekit.job import Job
from edgekit.job.job import MODEL

if TYPE_CHECKING:
    from edgekit.pipeline.plan import Plan, PlannedBundle

GIB = 2**30


@command(panels.MORE, *(name for name in MODEL if name not in ("weights", "labels")), "targets", "recipe")
def plan(
    stated: dict[str, Any],
    quiet: bool,
    model: str = ONE_MODEL,
    device: str | None = device_option(
        "DEVICE",
        "Device that the bundles will run on: local (this machine), a name from `edgekit devices list`, or "
        "ssh://USER@HOST.",
        autocompletion=completion.devices,
        show_default="local",
    ),
    device_class: str | None = device_option(
        "NAME",
        "Device class that the bundles will run on, or a TOML file that describes one; in place of --device.",
        autocompletion=completion.device_classes,
    ),
    memory: float | None = bundle_option(
        "GIB",
        "Memory of the machine that makes the bundles, in GiB.",
        show_default="what is free on this machine",
        min=0.1,
    ),
) -> Answer:
    """Predict memory, time and bundle sizes of a job without reading weights.

    Also gives the latency at the nominal peak rate of the device's class, and
    names int8 bundles that will hardly be faster than float there.
    """
    from edgekit.support.progress import Reporter, loading

    job = Job.of(model, stated)
    cls, is_here = _class_of(device, device_class)
    with loading(Reporter(quiet)):
        from edgekit.compiler.rewrites import REWRITES
        from edgekit.pipeline.plan import plan_model
    chosen = load_recipe(job.recipe, REWRITES) if job.recipe else None
    bytes_ = None if memory is None else int(memory * GIB)
    planned = plan_model(job.model_options, job.targets, cls, chosen, memory_of_class=not is_here, memory=bytes_)
    machine = "this machine" if memory is None else "the machine"
    return Answer(planned, lines_of_plan(planned, machine))


def _class_of(device: str | None, device_class: str | None) -> tuple[DeviceClass | None, bool]:
    """The class of the device, and whether it is this machine."""
    from edgekit.devices.registry import THIS, find_machine

    if device_class is not None:
        if device is not None:
            raise UsageError("--device and --device-class were both given", fix="Leave one of them out")
        return load_device_class(device_class if not device_class.endswith(".toml") else Path(device_class)), False
    chosen = find_machine(device) if device else THIS
    if chosen == THIS:
        name = host_class()
        return (load_device_class(name) if name else None), True
    from edgekit.devices.probe_result import class_of_remote

    name = class_of_remote(chosen)
    if name is None:
        raise UsageError(
            f"no device class fits '{chosen.name}'",
            valid=f"{', '.join(list_device_classes())}, or the path of a TOML file",
            fix="Name the class with --device-class",
        )
    return load_device_class(name), False


def lines_of_plan(planned: "Plan", machine: str) -> list[str]:
    """A plan as lines of text."""
    height, width = planned.input_shape[2:]
    lines = [
        f"{planned.model}: {planned.params / 1e6:,.2f} M parameters, {planned.macs / 1e9:,.2f} GMAC at "
        f"{height}x{width}",
        f"{machine} has {planned.memory_available_bytes / GIB:.1f} GiB of memory free; all bundles take "
        f"{planned.disk_bytes / 1e6:,.0f} MB of disk",
        f"peak memory and CPU time per stage, {planned.memory_model}:",
    ]
    for stage in planned.stages:
        over = "" if stage.peak_bytes < planned.memory_available_bytes else "  more than is free"
        lines.append(f"{stage.target:<9} {stage.stage:<14} {stage.peak_bytes / GIB:6.2f} GiB {stage.seconds:6} s{over}")
    lines += [_line(planned, bundle, machine) for bundle in planned.artifacts]
    if nominal := planned.latency_bound_ms:
        lines.append(
            f"multiply-accumulates at the nominal rate of {nominal.device_class}: {nominal.float_ms:.2f} ms in float, "
            f"{nominal.int8_ms:.2f} ms in int8 ({nominal.threads} threads)"
        )
    for target in planned.float_on_device:
        lines.append(f"{target}-int8 will hardly be faster than float, because most of it runs in float on Arm")
    return lines


def _line(planned: "Plan", bundle: "PlannedBundle", machine: str) -> str:
    """Whether a bundle fits where it will run, and whether the machine can make it."""
    line = f"{bundle.name}: {'fits' if bundle.fits else 'does not fit'}: {bundle.why}"
    if bundle.peak_bytes is None:
        return line
    verdict = "suffices" if planned.possible(bundle) else "does not suffice"
    return f"{line}; making it takes {bundle.peak_bytes / GIB:.1f} GiB: {machine} {verdict}"
