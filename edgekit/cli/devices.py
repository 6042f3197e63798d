"""`edgekit devices`, which manages the machines to measure on, and `edgekit doctor`, which checks them."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from edgekit.cli import completion, panels
from edgekit.cli.app import Commands, app
from edgekit.cli.arguments import argument, device_option
from edgekit.cli.command import command
from edgekit.cli.output import Answer
from edgekit.errors import printable
from edgekit.job.job import values_of

if TYPE_CHECKING:
    from edgekit.devices.doctor import Diagnosis

EXAMPLES = """
Examples:
  edgekit devices add pi5 ssh://pi@raspberrypi.local
  edgekit doctor pi5
  edgekit demo --device pi5
"""

devices = typer.Typer(
    cls=Commands,
    rich_markup_mode="rich",
    help="Add, list, clean and remove devices, and show what runs there.\n\n"
    "A device is another machine that edgekit reaches over SSH.",
    epilog=EXAMPLES,
)
app.add_typer(devices, name="devices", rich_help_panel=panels.MORE)


@command(None, "wheels", "web_network", "web_runtime", shown=("wheels", "web_network", "web_runtime"), group=devices)
def add(
    stated: dict[str, Any],
    name: str = argument("NAME", "A name of your choice, made of letters, digits, '.', '_' and '-'."),
    url: str = argument(
        "URL",
        "USER@HOST, ssh://USER@HOST:PORT, ssh://ALIAS for an alias in your ssh configuration, or web for a browser.",
    ),
    class_: str | None = device_option(
        "NAME",
        "Device class of the device. `edgekit targets` lists the classes.",
        flags=("--device-class", "--class"),
        autocompletion=completion.shipped_device_classes,
        show_default="detected on the device",
    ),
    ssh_config: str | None = device_option(
        "FILE", "The ssh configuration file to connect with.", show_default="ssh's own"
    ),
    trust: Path | None = device_option(
        "FILE",
        "PEM file with the public key that must have signed every bundle that is pushed to the device. The device "
        "keeps a copy at the first push, and then takes no other bundles from anybody.",
    ),
) -> str:
    """Save a device or a browser under a name, with the options to reach it.

    Other commands then find it with --device NAME. Nothing is installed yet.
    """
    from edgekit.config.device_classes import shipped_class
    from edgekit.devices.push import read_trust
    from edgekit.devices.registry import Device, add_device
    from edgekit.devices.web.runtime_package import check_package

    stated = values_of(stated)
    if package := stated.get("web_runtime"):
        check_package(package)
        stated["web_runtime"] = str(package.absolute())
    if wheels := stated.get("wheels"):
        stated["wheels"] = str(wheels.absolute())
    device = Device(
        name,
        f"ssh://{url}" if "@" in url and "://" not in url else url,  # as ssh and scp take it
        device_class=shipped_class(class_).name if class_ else None,
        ssh_config=str(Path(ssh_config).absolute()) if ssh_config else None,
        trust=read_trust(trust) if trust else None,
        **stated,
    )
    add_device(device)
    use = "Measure there with: edgekit demo --device" if device.is_browser else "Check it with: edgekit doctor"
    return f"added {name}. {use} {name}"


@command(None, group=devices, name="list")
def list_() -> Answer:
    """List the saved devices."""
    from edgekit.cli.field_lines import NO_DEVICES
    from edgekit.devices.registry import DeviceListing, read_devices, settings_of
    from edgekit.devices.slots import fingerprint_of

    devices = read_devices().values()
    facts = [
        (
            device.name,
            device.url,
            device.device_class,
            device.ssh_config and f"configuration {device.ssh_config}",
            device.trust and f"trusts the key {fingerprint_of(device.trust)}",
            device.wheels and f"packages from {device.wheels}",
            device.web_network and f"served over {device.web_network}",
            device.web_runtime and f"LiteRT.js from {device.web_runtime}",
        )
        for device in devices
    ]
    listing = DeviceListing(devices=tuple(map(settings_of, devices)))
    return Answer(listing, ["  ".join(filter(None, each)) for each in facts] or [NO_DEVICES])


@command(None, group=devices)
def remove(
    name: str = argument("NAME", "The name of a device.", autocompletion=completion.saved_devices),
) -> str:
    """Forget a device.

    Files that edgekit keeps on the device stay there. Run `edgekit devices
    clean NAME` first to delete them.
    """
    from edgekit.devices.registry import remove_device

    remove_device(name)
    return f"removed {name}"


@command(None, group=devices)
def clean(
    name: str = argument(
        "DEVICE", "The name of a device, or ssh://USER@HOST.", autocompletion=completion.saved_devices
    ),
) -> str:
    """Delete the environments and files that edgekit keeps on a device."""
    from edgekit.devices.probe_result import probe
    from edgekit.devices.registry import find_remote
    from edgekit.devices.setup import clean
    from edgekit.devices.transport import connect

    with connect(find_remote(name)) as connection:
        facts = probe(connection)
        removed = clean(connection, facts)
    return f"{name}: removed {facts.cache}" if removed else f"{name}: nothing to remove at {facts.cache}"


@command(None, group=devices)
def status(
    names: list[str] | None = argument(
        "DEVICE",
        "Names of devices, or ssh://USER@HOST; all saved devices if there are none.",
        value=None,
        autocompletion=completion.saved_devices,
    ),
) -> Answer:
    """Show which bundle is active in each app on devices.

    Bundles come there with `edgekit push`. The files of each bundle are compared
    with their hashes. The exit code is 1 if a device can't be asked, or an
    active bundle is damaged.
    """
    from edgekit.cli.field_lines import status_lines
    from edgekit.devices.push import status_of
    from edgekit.devices.registry import find_remote, saved_machines
    from edgekit.support.progress import Reporter

    chosen = [find_remote(name) for name in dict.fromkeys(names or saved_machines())]
    result = status_of(chosen, Reporter(quiet=True))
    damaged = any(app.verdict == "error" for device in result.devices for app in device.apps)
    passed = not damaged and not any(device.failure for device in result.devices)
    return Answer(result, status_lines(result), passed=passed)


@command(panels.COMMANDS)
def doctor(
    names: list[str] | None = argument(
        "DEVICE",
        "Devices to check: local (this machine), names from `edgekit devices list`, or ssh://USER@HOST; this "
        "machine if there are none.",
        value=None,
        autocompletion=completion.devices,
    ),
) -> Answer:
    """Check whether this machine or a device is ready, and print the fix for each problem.

    Looks at Python, glibc, the processor, the runtimes, memory and disk, and on
    this machine also at installed packages and the model hub. Nothing on a
    device is changed. The exit code is 1 if there is a problem.
    """
    from edgekit.devices.doctor import diagnose
    from edgekit.devices.registry import LOCAL, find_machine

    diagnosis = diagnose([find_machine(name) for name in dict.fromkeys(names or [LOCAL])])
    return Answer(diagnosis, _diagnosed(diagnosis, bool(names)), passed=diagnosis.healthy)


def _diagnosed(diagnosis: "Diagnosis", named: bool) -> Iterator[str]:
    for finding in diagnosis.findings:
        device = f"{finding.device}: " if named else ""
        yield f"{finding.status:<8} {device}{finding.name}: {printable(finding.found)}"
        if finding.fix:
            yield f"{'':<8} fix: {printable(finding.fix)}"
    yield "all checks passed" if diagnosis.healthy else "problems found; suggested fixes above"
