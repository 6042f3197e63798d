"""Whether an INT8 model saturates on x86 processors without VNNI, whose kernels add two products in 16 bits."""

import importlib
import platform
import warnings
from pathlib import Path
from typing import Protocol

from edgekit.config.device_classes import cpu_features
from edgekit.config.runtimes import find_runtime
from edgekit.errors import MissingExtraError
from edgekit.runtime.bundle import Bundle

VNNI = frozenset({"avx512_vnni", "avx_vnni"})
"""CPU features, as in /proc/cpuinfo, of which either one adds four products in 32 bits."""
X86 = ("x86_64", "AMD64")


class SaturationWarning(UserWarning):
    """A bundle computes less accurately on this processor than on those with VNNI."""


class PairCounter(Protocol):
    """The module `saturation` in the folder of a runtime whose kernels add in 16 bits."""

    def count_pairs(self, model: Path) -> int:
        """Number of pairs of weights in a model file that can saturate. MissingExtraError if it can't be read here."""
        ...


def pairs_that_can_saturate(target: str, model: Path) -> int | None:
    """Number of pairs of weights in a finished model file that can saturate on x86 without VNNI.

    None if a package that reads the file is not installed.
    """
    if not find_runtime(target).saturating_inputs:
        return 0
    counter: PairCounter = importlib.import_module(f"edgekit.runtime.{target}.saturation")
    try:
        return counter.count_pairs(model)
    except MissingExtraError:
        return None


def lacks_vnni(root: Path = Path("/")) -> bool:
    """Whether this is an x86 processor that is known to have no VNNI. `root` is the folder that contains proc."""
    features = cpu_features(root) if platform.machine() in X86 else []
    return bool(features) and VNNI.isdisjoint(features)


def warn_if_saturating(bundle: Bundle) -> None:
    """Warn with a SaturationWarning if the bundle's INT8 weights can saturate on this processor."""
    manifest = bundle.manifest
    pairs = manifest.pairs_that_can_saturate
    if manifest.precision != "int8" or pairs == 0 or not find_runtime(manifest.target).saturating_inputs:
        return
    if lacks_vnni():
        which = "an unknown number" if pairs is None else f"{pairs:,}"
        warnings.warn(
            f"bundle '{bundle.path}' may be less accurate on this processor, which has no VNNI: {which} of its pairs "
            "of weights can saturate. Make the bundle again with this version of edgekit, for an x86 device class.",
            SaturationWarning,
            stacklevel=3,
        )
