"""Whether an INT8 model saturates on x86 processors without VNNI, whose kernels add two products in 16 bits."""

import importlib
import platform
import warnings
from pathlib import Path

from edgekit.config.device_classes import cpu_features
from edgekit.config.runtimes import find_runtime
from edgekit.runtime.bundle import Bundle

VNNI = frozenset({"avx512_vnni", "avx_vnni"})
"""CPU features, as in /proc/cpuinfo, of which either one adds four products in 32 bits."""
X86 = ("x86_64", "AMD64")


class SaturationWarning(UserWarning):
    """A bundle computes less accurately on this processor than on those with VNNI."""


def pairs_that_can_saturate(target: str, model: Path) -> int:
    """Number of pairs of weights in a finished model file that can saturate on x86 without VNNI."""
    runtime = find_runtime(target)
    if not runtime.saturating_inputs:
        return 0
    pairs: int = importlib.import_module(runtime.profiler_module).count_pairs(model)
    return pairs


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
