"""What can't be measured in a browser, checked before anything is measured."""

from collections.abc import Sequence

from edgekit.devices.registry import Device
from edgekit.errors import UsageError
from edgekit.measure.settings import Timing

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
