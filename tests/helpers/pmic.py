"""A fake `vcgencmd` of a Raspberry Pi 5, whose power rises when edgekit has sampled the idle power."""

from collections.abc import Mapping
from pathlib import Path

from edgekit.measure.machine import IDLE_SAMPLES

IDLE_W, LOAD_W = 2.75, 6.5
PI4 = """#!/bin/sh
[ "$1" = get_throttled ] && echo "throttled=0x0" && exit
echo 'error=1 error_msg="Command not registered"'
exit 255
"""
"""The script of a board without this sensor."""


def adc(rails: Mapping[str, tuple[float, float]]) -> str:
    """The lines for rails with their amperes and volts, currents first."""
    amperes = [f"   {rail}_A current({at})={ampere:.8f}A" for at, (rail, (ampere, _)) in enumerate(rails.items())]
    volts = [f"   {rail}_V volt({at})={volt:.8f}V" for at, (rail, (_, volt)) in enumerate(rails.items(), len(rails))]
    return "\n".join([*amperes, *volts]) + "\n"


IDLE = adc({"3V7_WL_SW": (0.25, 3.0), "VDD_CORE": (2.0, 1.0)})
LOAD = adc({"3V7_WL_SW": (0.5, 3.0), "VDD_CORE": (5.0, 1.0)})


def fake_pmic(count: Path, after: str = f"echo '{LOAD}'") -> str:
    """The script. It counts its answers in the file `count`; those after the idle ones are printed by `after`.

    The shell expands variables in the file's name: with $PPID, each process has a count. The first answer tells that
    there is a sensor.
    """
    return f"""#!/bin/sh
[ "$1" = get_throttled ] && echo "throttled=0x0" && exit
[ "$1" = pmic_read_adc ] || exit 255
read -r answers 2>/dev/null <"{count}" || answers=0
echo $((answers + 1)) >"{count}"
if [ "$answers" -le {2 * IDLE_SAMPLES} ]; then
echo '{IDLE}'
else
{after}
fi
"""
