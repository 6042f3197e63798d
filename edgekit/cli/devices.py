"""`edgekit devices`, which manages the machines to measure on."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgekit.cli import completion, panels
from edgekit.cli.app import app
from edgekit.cli.output import clean_stdout, emit
from edgekit.cli.shared import Json, Offline, WebNetwork, WebRuntime

if TYPE_CHECKING:
    from edgekit.devices.check import DeviceCheck
    from edgekit.report.device import Throttling

EXAMPLES = """
Examples:
  edgekit devices add pi5 ssh://pi@raspberrypi.local
  edgekit devices check pi5
  edgekit demo --device pi5
"""

devices = typer.Typer(
    rich_markup_mode="rich",
    help="Add, list, check, clean and remove devices, and show what runs there.\n\n"
    "A device is another machine that edgekit reaches over SSH.",
    epilog=EXAMPLES,
)
app.add_typer(devices, name="devices", rich_help_panel=panels.MORE)

Name = Annotated[
    str,
    typer.Argument(
        metavar="DEVICE", autocompletion=completion.saved_devices, help="The name of a device, or ssh://USER@HOST."
    ),
]


@devices.command()
def add(
    name: Annotated[
        str,
        typer.Argument(metavar="NAME", help="A name of your choice, made of letters, digits, '.', '_' and '-'."),
    ],
    url: Annotated[
        str,
        typer.Argument(
            metavar="URL",
            help="ssh://USER@HOST:PORT, ssh://ALIAS for an alias in your ssh configuration, or web for a browser.",
        ),
    ],
    class_: Annotated[
        str | None,
        typer.Option(
            "--class",
            metavar="NAME",
            autocompletion=completion.shipped_device_classes,
            show_default="detected on the device",
            rich_help_panel=panels.DEVICE,
            help="Device class of the device. `edgekit targets` lists the classes.",
        ),
    ] = None,
    ssh_config: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            show_default="ssh's own",
            rich_help_panel=panels.DEVICE,
            help="The ssh configuration file to connect with.",
        ),
    ] = None,
    trust: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            rich_help_panel=panels.DEVICE,
            help="PEM file with the public key that must have signed every bundle that is pushed to the device. The "
            "device keeps a copy at the first push, and then takes no other bundles from anybody.",
        ),
    ] = None,
    offline: Offline = False,
    web_network: WebNetwork = None,
    web_runtime: WebRuntime = None,
) -> None:
    """Save a device or a browser under a name, with the options to reach it.

    Other commands then find it with --device NAME. Nothing is installed yet.
    """
    from edgekit.config.device_classes import shipped_class
    from edgekit.devices.registry import Device, add_device
    from edgekit.devices.trust import read_trust

    device = Device(
        name,
        url,
        device_class=shipped_class(class_).name if class_ else None,
        ssh_config=str(Path(ssh_config).absolute()) if ssh_config else None,
        trust=read_trust(trust) if trust else None,
        offline=offline,
        web_network=web_network,
        web_runtime=str(web_runtime.absolute()) if web_runtime else None,
    )
    add_device(device)
    print(
        f"added {name}. "
        + (
            f"Measure with: edgekit demo --device {name}"
            if device.is_browser
            else f"Check it with: edgekit doctor {name}"
        )
    )


@devices.command(name="list")
def list_(json_: Json = False) -> None:
    """List the saved devices."""
    from edgekit.devices.registry import DeviceListing, read_devices
    from edgekit.devices.trust import fingerprint_of

    devices = tuple(read_devices().values())
    with clean_stdout() as out:
        if json_:
            emit(out, DeviceListing(devices=devices))
            return
        for device in devices:
            facts = (
                device.name,
                device.url,
                device.device_class,
                device.ssh_config and f"configuration {device.ssh_config}",
                device.trust and f"trusts the key {fingerprint_of(device.trust)}",
                "offline" if device.offline else None,
                device.web_network and f"served over {device.web_network}",
                device.web_runtime and f"LiteRT.js from {device.web_runtime}",
            )
            out.write("  ".join(filter(None, facts)) + "\n")


@devices.command()
def remove(
    name: Annotated[
        str, typer.Argument(metavar="NAME", autocompletion=completion.saved_devices, help="The name of a device.")
    ],
) -> None:
    """Forget a device.

    Files that edgekit keeps on the device stay there. Run `edgekit devices
    clean NAME` first to delete them.
    """
    from edgekit.devices.registry import remove_device

    remove_device(name)
    print(f"removed {name}")


@devices.command()
def check(name: Name, json_: Json = False) -> int:
    """Show what a device is, what it lacks and which runtimes it can run.

    Nothing on the device is changed. The exit code is 1 if it can run none.
    """
    from edgekit.devices.check import check
    from edgekit.devices.registry import find_remote

    with clean_stdout() as out:
        result = check(find_remote(name))
        if json_:
            emit(out, result)
        else:
            out.writelines(f"{line}\n" for line in _lines(result))
    return 0 if any(verdict.runs for verdict in result.targets.values()) else 1


@devices.command()
def clean(name: Name) -> None:
    """Delete the environments and files that edgekit keeps on a device."""
    from edgekit.devices.check import probe
    from edgekit.devices.registry import find_remote
    from edgekit.devices.setup import clean
    from edgekit.devices.transport import connect

    with connect(find_remote(name)) as connection:
        facts = probe(connection)
        removed = clean(connection, facts)
    print(f"{name}: removed {facts.cache}" if removed else f"{name}: nothing to remove at {facts.cache}")


@devices.command()
def status(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="DEVICE",
            autocompletion=completion.saved_devices,
            help="Names of devices, or ssh://USER@HOST; all saved devices if there are none.",
        ),
    ] = None,
    json_: Json = False,
) -> int:
    """Show which bundle is active in each app on devices.

    Bundles come there with `edgekit push`. The files of each bundle are compared
    with their hashes. The exit code is 1 if a device can't be asked, or an
    active bundle is damaged.
    """
    from edgekit.cli.field_lines import status_lines
    from edgekit.devices.registry import find_remote, saved_machines
    from edgekit.devices.rollout import status_of
    from edgekit.support.progress import Reporter

    with clean_stdout() as out:
        chosen = [find_remote(name) for name in dict.fromkeys(names or saved_machines())]
        result = status_of(chosen, Reporter(quiet=True))
        if json_:
            emit(out, result)
        else:
            out.writelines(f"{line}\n" for line in status_lines(result))
    damaged = any(app.verdict == "error" for device in result.devices for app in device.apps)
    return 1 if damaged or any(device.failure for device in result.devices) else 0


def _lines(result: "DeviceCheck") -> list[str]:
    """The result of a check as lines of text."""
    facts = result.facts
    shown = {
        "board": facts.board,
        "processor": f"{facts.cpu or 'unknown'}, {facts.machine}, {facts.cores} cores",
        "features": " ".join(facts.noted_features or ()) or None,
        "class": result.device_class,
        "emulated": "by QEMU: timings are not comparable" if facts.emulated else None,
        "clock": f"{_measure(facts.clock_mhz, 'MHz')}, at most {_measure(facts.clock_max_mhz, 'MHz')}",
        "governor": facts.governor,
        "memory": f"{_megabytes(facts.memory_available_bytes)} free of {_megabytes(facts.memory_bytes)}",
        "disk": f"{_megabytes(facts.disk_free_bytes)} free at {facts.cache}",
        "temperature": _measure(facts.celsius, "°C"),
        "throttled": None if facts.throttled is None else _throttled(facts.throttled),
        "load": _measure(facts.load, "", 2),
        "system": f"Linux {facts.kernel}, glibc {facts.glibc or 'none'}",
        "Python": ", ".join(python.version for python in facts.pythons),
    }
    lines = [f"{key + ':':<12} {value or 'unknown'}" for key, value in shown.items() if key != "emulated" or value]
    lines += [f"{'missing:':<12} {item}" for item in result.lacks]
    for target, verdict in result.targets.items():
        lines.append(f"{target + ':':<12} {'can run' if verdict.runs else f'cannot run: {verdict.reason}'}")
    return lines


def _throttled(throttling: "Throttling") -> str:
    """The throttling that the firmware reports, now and since the device started."""
    parts = {"now": throttling.now, "since boot": throttling.since_boot}
    return "; ".join(f"{when}: {', '.join(names)}" for when, names in parts.items() if names) or (
        "not now, and not since boot"
    )


def _measure(value: float | None, unit: str, digits: int = 0) -> str:
    return "unknown" if value is None else f"{value:.{digits}f} {unit}".strip()


def _megabytes(size: int | None) -> str:
    return "unknown" if size is None else f"{size / 1e6:,.0f} MB"
