"""`edgekit devices`, which manages the machines to measure on; doctor, which checks them; push and rollback."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit import api
from edgekit.cli.frame import (
    BUNDLE,
    COMMANDS,
    MORE,
    OUTPUT,
    Answer,
    Commands,
    all_pass,
    app,
    argument,
    command,
    of_every_command,
)
from edgekit.job import OF_BUNDLE, values_of
from edgekit.job.kinds import Each, Place, Text, own

if TYPE_CHECKING:
    from edgekit.devices.push import Pushed

EXAMPLES = """
Examples:
  edgekit devices add pi5 ssh://pi@raspberrypi.local
  edgekit doctor pi5
  edgekit demo --device pi5
"""
PUSH_EXAMPLES = """
Examples:
  edgekit push runs/demo/tflite-int8 pi5
  edgekit push runs/demo/tflite-int8 pi5 --name door --max-p99 40
  edgekit push runs/demo/tflite-int8 pi5-1 pi5-2 pi5-3 --canary 1 --parallel 2
"""
ROLLBACK_EXAMPLES = """
Examples:
  edgekit rollback pi5 --name door
  edgekit rollback pi5-1 pi5-2 --name door --to 211412ab02c7
"""
DEVICE_NAMES = argument(Each(Text(), metavar="DEVICE"), "Names of devices, or ssh://USER@HOST.")
devices = Commands(
    "devices",
    "Add, list, clean and remove devices, and show what runs there.\n\n"
    "A device is another machine that edgekit reaches over SSH.",
    of_every_command(OUTPUT),
    epilog=EXAMPLES,
    rich_help_panel=MORE,
)
app.add_command(devices)


@command(None, "wheels", "web_network", "web_runtime", shown=("wheels", "web_network", "web_runtime"), group=devices)
def add(
    stated: dict[str, Any],
    name: str = argument(Text(metavar="NAME"), "A name of your choice, made of letters, digits, '.', '_' and '-'."),
    url: str = argument(
        Text(metavar="URL"),
        "USER@HOST, ssh://USER@HOST:PORT, ssh://ALIAS for an alias in your ssh configuration, or web for a browser.",
    ),
    class_: str | None = own(
        "Device",
        Text(metavar="NAME"),
        "Device class of the device. `edgekit targets` lists the classes.",
        flags=("--device-class", "--class"),
        default="detected on the device",
    ),
    ssh_config: str | None = own(
        "Device", Text(metavar="FILE"), "The ssh configuration file to connect with.", default="ssh's own"
    ),
    trust: Path | None = own(
        "Device",
        Place(),
        "PEM file with the public key that must have signed every bundle that is pushed to the device. The device "
        "keeps a copy at the first push, and then takes no other bundles from anybody.",
    ),
) -> str:
    """Save a device or a browser under a name, with the options to reach it.

    Other commands then find it with --device NAME. Nothing is installed yet.
    """
    from edgekit.config.runtimes import DeviceClass
    from edgekit.devices.registry import Device
    from edgekit.devices.web import check_package
    from edgekit.runtime.signature import public_pem, read_public_key

    stated = values_of(stated)
    if package := stated.get("web_runtime"):
        check_package(package)
        stated["web_runtime"] = str(package.absolute())
    if wheels := stated.get("wheels"):
        stated["wheels"] = str(wheels.absolute())
    device = Device(
        name,
        f"ssh://{url}" if "@" in url and "://" not in url else url,  # as ssh and scp take it
        device_class=DeviceClass.shipped(class_).name if class_ else None,
        ssh_config=str(Path(ssh_config).absolute()) if ssh_config else None,
        trust=public_pem(read_public_key(trust)).decode() if trust else None,
        **stated,
    )
    device.add()
    use = "Measure there with: edgekit demo --device" if device.is_browser else "Check it with: edgekit doctor"
    return f"added {name}. {use} {name}"


@command(None, group=devices, name="list")
def list_() -> Answer:
    """List the saved devices."""
    from edgekit.devices.registry import list_devices

    return Answer(list_devices())


@command(None, group=devices)
def remove(
    saved: str = argument(Text(metavar="NAME"), "The name of a device."),
) -> str:
    """Forget a device.

    Files that edgekit keeps on the device stay there. Run `edgekit devices
    clean NAME` first to delete them.
    """
    from edgekit.devices.registry import Device

    Device.remove(saved)
    return f"removed {saved}"


@command(None, group=devices)
def clean(
    saved: str = argument(Text(metavar="DEVICE"), "The name of a device, or ssh://USER@HOST."),
) -> str:
    """Delete the environments and files that edgekit keeps on a device."""
    from edgekit.devices.setup import clean

    return clean(saved)


@command(None, group=devices)
def status(
    saved: list[str] | None = argument(
        Each(Text(), metavar="DEVICE"),
        "Names of devices, or ssh://USER@HOST; all saved devices if there are none.",
        value=None,
    ),
) -> Answer:
    """Show which bundle is active in each app on devices.

    Bundles come there with `edgekit push`. The files of each bundle are compared
    with their hashes. The exit code is 1 if a device can't be asked, or an
    active bundle is damaged.
    """
    from edgekit.devices.push import status_of
    from edgekit.support.progress import Reporter

    status = status_of(saved, Reporter(quiet=True))
    return Answer(status, passed=status.passed)


@command(COMMANDS)
def doctor(
    machines: list[str] | None = argument(
        Each(Text(), metavar="DEVICE"),
        "Devices to check: local (this machine), names from `edgekit devices list`, or ssh://USER@HOST; this "
        "machine if there are none.",
        value=None,
    ),
) -> Answer:
    """Check whether this machine or a device is ready, and print the fix for each problem.

    Looks at Python, glibc, the processor, the runtimes, memory and disk, and on
    this machine also at installed packages and the model hub. Nothing on a
    device is changed. The exit code is 1 if there is a problem.
    """
    from edgekit.devices.doctor import diagnose

    diagnosis = diagnose(machines)
    return Answer(diagnosis, diagnosis.page(named=bool(machines)), passed=diagnosis.healthy)


@command(MORE, of=api.push, defaults={"threads": OF_BUNDLE}, epilog=PUSH_EXAMPLES)
def push(
    stated: dict[str, Any], json_: bool, quiet: bool, bundle: Path = BUNDLE, saved: list[str] = DEVICE_NAMES
) -> Answer:
    """Put a bundle on devices, try it there, and make it an app's active one.

    Each device opens the bundle in a fresh process, runs its test vectors and
    times it. If all is well, the link ~/edgekit-apps/APP/current is switched to
    it in one step. Otherwise the active bundle stays, and the exit code is 1.

    Only files that a device lacks are copied, and an interrupted copy is
    resumed. A device that doesn't pass stops the roll-out.
    """
    return _answer(lambda: api.push(bundle, saved, quiet=quiet or json_, **stated))


@command(MORE, epilog=ROLLBACK_EXAMPLES)
def rollback(
    json_: bool,
    quiet: bool,
    saved: list[str] = DEVICE_NAMES,
    name: str = own("Device", Text(metavar="APP"), "Name of the app, which has its own two slots.", value="app"),
    to: str | None = own(
        "Device",
        Text(metavar="HASH"),
        "Hash of the bundle to return to, or its beginning, as `edgekit devices status` shows it.",
        default="the bundle that the last push replaced",
    ),
) -> Answer:
    """Switch an app back to the bundle that the last push replaced.

    The names and sizes of its files are compared with the record of its trial,
    and the link is switched in one step. Nothing has to be installed, read or
    waited for. The same command a second time changes nothing, so repeat it
    after a lost connection.
    """
    from edgekit.devices.push import roll_back_devices
    from edgekit.support.progress import Reporter

    return _answer(lambda: roll_back_devices(saved, name, Reporter(quiet or json_), to))


def _answer(work: Callable[[], "Pushed"]) -> Answer:
    """What devices have after this work, or when Ctrl-C ends it."""
    from edgekit.devices.push import Interrupted

    interruption = None
    try:
        pushed = work()
    except Interrupted as interrupted:
        pushed, interruption = interrupted.pushed, interrupted
    return Answer(pushed, passed=all_pass(pushed.results), error=interruption)
