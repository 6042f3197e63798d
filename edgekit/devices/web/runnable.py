"""What can't be measured in a browser, checked before anything is measured."""

from collections.abc import Sequence

from edgekit.config.runtimes import find_runtime
from edgekit.devices.registry import Device
from edgekit.errors import UsageError
from edgekit.measure.baselines import Group
from edgekit.measure.settings import Timing
from edgekit.runtime.bundle import Bundle
from edgekit.support.progress import Reporter

BROWSER_TARGET = "tflite"
"""The runtime whose bundles browsers run."""


def check_browsers(devices: Sequence[Device], timing: Timing, targets: Sequence[str] = (BROWSER_TARGET,)) -> None:
    """Raise UsageError if there is a browser among the devices and the job has something that browsers can't do."""
    browser = next((device.name for device in devices if device.is_browser), None)
    if browser is None:
        return
    for option, value in (("--sustain", timing.sustain_s), ("--streams", timing.streams)):
        if value is not None:
            raise UsageError(f"{option} doesn't work in a browser, as '{browser}' is", fix=f"Leave out `{option}`")
    if other := [target for target in targets if target != BROWSER_TARGET]:
        raise UsageError(
            f"'{browser}' is a browser, which can't run bundles for {', '.join(other)}",
            valid=f"--target {BROWSER_TARGET} for a job with a browser",
        )


def runnable_on(device: Device, bundles: Group, reporter: Reporter) -> Group:
    """The bundles that a device can run: a browser runs those for LiteRT. Raises UsageError if it can run none."""
    if not device.is_browser:
        return bundles
    runnable = {name: bundle for name, bundle in bundles.items() if bundle.manifest.target == BROWSER_TARGET}
    if not runnable:
        raise UsageError(
            f"'{device.name}' is a browser, and none of the bundles is for {find_runtime(BROWSER_TARGET).title}",
            valid=f"bundles that were made with --target {BROWSER_TARGET}",
        )
    if others := [name for name in bundles if name not in runnable]:
        reporter.say(f"{device.name}: a browser runs bundles for LiteRT only, so it skips {', '.join(others)}")
    return runnable


def check_reference(device: Device, bundle: Bundle) -> None:
    """Raise UsageError if a browser can't run the bundle that others are to be compared with."""
    target = bundle.manifest.target
    if target != BROWSER_TARGET:
        raise UsageError(
            f"'{device.name}' is a browser, which can't run the reference '{bundle.path}', a bundle for "
            f"{find_runtime(target).title}",
            valid=f"a bundle that was made with --target {BROWSER_TARGET}",
            fix="Name such a bundle with `--reference`, or leave `--reference` out to compare with the first float one",
        )
