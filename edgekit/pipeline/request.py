"""One bundle of a job: what its content depends on, as a fingerprint and as the provenance in its manifest."""

import importlib.metadata
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgekit import __version__
from edgekit.config.precisions import Precision
from edgekit.config.recipes import Recipe
from edgekit.config.runtimes import COMPILER_DISTRIBUTIONS, RUNTIMES
from edgekit.models import Network
from edgekit.pipeline.sources import edgekit_sha256, module_sha256
from edgekit.support.hashes import digest

SHARED_DISTRIBUTIONS = ("numpy", "pillow", "open_clip_torch", "safetensors", "networkx", *COMPILER_DISTRIBUTIONS)
"""Distributions that shape every bundle; the rows of the runtimes have the others."""


@dataclass(frozen=True)
class BundleRequest:
    """A bundle that is to be made of a network."""

    network: Network
    target: str
    precision: Precision
    recipe: Recipe
    device_class: str
    calibration_sha256: str = ""
    """Identifies the calibration images of an int8 bundle, as `Selection.sha256` does."""

    @property
    def target_recipe(self) -> Recipe:
        """The recipe as the request's target has it."""
        return self.recipe.for_target(self.target)

    def fingerprint(self) -> str:
        """Hash of everything that goes into the bundle: equal fingerprints mean the same bundle.

        Only the golden samples of a float bundle may be of other images.
        """
        network, recipe = self.network, self.target_recipe
        parts: list[Any] = [network.weights_sha256, network.name, str(network.module), network.classes, network.labels]
        parts += [network.preprocessing.to_dict(), self.target, self.precision, self.device_class]
        parts += [asdict(recipe.targets[self.target]), versions(), module_sha256(network.module)]
        if self.precision == "int8":
            parts += [self.calibration_sha256, {**asdict(recipe), "targets": None}]
        return digest(*parts)


@dataclass(frozen=True)
class ModelOrigin:
    """The network that a bundle was made of; `weights` is the name of a file without its folder, a tag or "random"."""

    name: str
    source: str
    weights: str
    weights_sha256: str
    params: int
    license: str | None


@dataclass(frozen=True)
class Provenance:
    """Where a bundle comes from. It holds no time, so that the same bundle is made each time."""

    versions: Mapping[str, str]
    model: ModelOrigin
    recipe: str
    rewrites: tuple[str, ...]
    """Those that found a place in the network."""
    weight_rounding: str
    calibration_sha256: str | None
    """None for a float bundle."""


def provenance_of(request: BundleRequest, rewrites: Sequence[str]) -> Provenance:
    """The provenance that goes into the manifest of the bundle; `rewrites` are those that changed the graph."""
    network, recipe = request.network, request.target_recipe
    return Provenance(
        versions=versions(),
        model=ModelOrigin(
            name=network.name,
            source=network.source,
            weights=Path(network.weights).name,
            weights_sha256=network.weights_sha256,
            params=network.params,
            license=network.license_note,
        ),
        recipe=recipe.name,
        rewrites=tuple(rewrites),
        weight_rounding=recipe.weight_rounding,
        calibration_sha256=request.calibration_sha256 or None,
    )


def shaping_distributions() -> list[str]:
    """The distributions that shape bundles, the alternatives to a runtime's own included."""
    found = [*SHARED_DISTRIBUTIONS]
    for runtime in RUNTIMES.values():  # the runtime itself too, since golden samples are what it answers
        found += [*runtime.compiler_distributions, *runtime.compiler_dependencies, *runtime.distributions]
    return list(dict.fromkeys(found))


def versions() -> dict[str, str]:
    """Versions of edgekit, Python and the packages that make bundles, and the hash of edgekit's own code for that."""
    found = {"edgekit": __version__, "edgekit-sources": edgekit_sha256(), "python": platform.python_version()}
    for distribution in shaping_distributions():
        try:
            found[distribution] = importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
