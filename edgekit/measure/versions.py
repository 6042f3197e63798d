"""Versions of what measures a bundle on this machine, which stored measurements depend on."""

from edgekit import __version__
from edgekit.config.runtimes import find_runtime
from edgekit.support.distribution import versions_of

ROOMS = ("compat", "config", "devices", "images", "measure", "report", "runtime", "support")
"""Folders of the package whose code runs and measures bundles."""


def measuring_versions(target: str) -> dict[str, str]:
    """Versions of a runtime, numpy, Pillow, Python and edgekit on this machine, and the hash of edgekit's own code."""
    distributions = ("numpy", "pillow", *find_runtime(target).distributions)
    return {"edgekit": __version__, **versions_of(distributions, ROOMS)}
