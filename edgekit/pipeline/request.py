"""The request for one bundle of a job, with its fingerprint and the provenance for its manifest."""

import importlib.metadata
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgekit import __version__
from edgekit.config.device_classes import DeviceClass
from edgekit.config.precisions import Precision
from edgekit.config.recipes import Recipe
from edgekit.config.runtimes import COMPILER_DISTRIBUTIONS, RUNTIMES
from edgekit.models import Network
from edgekit.pipeline.sources import edgekit_sha256, module_sha256
from edgekit.support.hashes import digest

SHARED_DISTRIBUTIONS = (
    "numpy",
    "pillow",
    "onnx2pytorch",
    "open_clip_torch",
    "safetensors",
    "networkx",
    *COMPILER_DISTRIBUTIONS,
)
"""Distributions that affect every bundle. Those of single runtimes are in the table of runtimes."""


@dataclass(frozen=True)
class BundleRequest:
    """Everything that determines the content of one bundle."""

    network: Network
    target: str
    precision: Precision
    recipe: Recipe
    device_class: DeviceClass
    calibration_sha256: str = ""
    """`Selection.sha256` of the calibration images of an int8 bundle."""
    calibration_images: tuple[str, ...] = ()
    """`short_hashes` of these images. They are those of `calibration_sha256`, so the fingerprint doesn't need them."""

    @property
    def target_recipe(self) -> Recipe:
        """The recipe with the settings of the request's target."""
        return self.recipe.for_target(self.target)

    def fingerprint(self) -> str:
        """Hash everything that determines the bundle: equal fingerprints mean the same bundle.

        Only the golden samples of a float bundle may come from different images.
        """
        network, recipe = self.network, self.target_recipe
        parts: list[Any] = [network.weights_sha256, network.name, str(network.module), network.classes, network.labels]
        parts += [network.preprocessing.to_dict(), self.target, self.precision, asdict(self.device_class)]
        parts += [asdict(recipe.targets[self.target]), versions(), module_sha256(network.module)]
        if self.precision == "int8":
            parts += [self.calibration_sha256, {**asdict(recipe), "targets": None}]
        return digest(*parts)


@dataclass(frozen=True)
class ModelOrigin:
    """The network of a bundle. `weights` is the name of a file without its folder, a tag or "random"."""

    name: str
    source: str
    weights: str
    weights_sha256: str
    params: int
    license: str | None


@dataclass(frozen=True)
class Provenance:
    """The origin of a bundle. It contains no time, so that equal inputs give equal bundles."""

    versions: Mapping[str, str]
    model: ModelOrigin
    recipe: str
    rewrites: tuple[str, ...]
    """Rewrites that changed the graph."""
    weight_rounding: str
    calibration_sha256: str | None
    """`Selection.sha256` of the calibration images; None for a float bundle."""
    calibration_images: tuple[str, ...] = ()
    """`short_hashes` of the calibration images, with which `edgekit evaluate` recognizes them."""


def provenance_of(request: BundleRequest, rewrites: Sequence[str]) -> Provenance:
    """The provenance for the manifest of the bundle; `rewrites` are those that changed the graph."""
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
        calibration_images=request.calibration_images,
    )


def shaping_distributions() -> list[str]:
    """Names of the distributions that affect bundles, including all alternative distributions of a runtime."""
    names = [*SHARED_DISTRIBUTIONS]
    for runtime in RUNTIMES.values():  # including the runtime itself, which computes the golden samples
        names += [*runtime.compiler_distributions, *runtime.compiler_dependencies, *runtime.distributions]
    return list(dict.fromkeys(names))


def versions() -> dict[str, str]:
    """Versions of edgekit, Python and the packages that affect bundles, and the hash of edgekit's own code."""
    installed = {"edgekit": __version__, "edgekit-sources": edgekit_sha256(), "python": platform.python_version()}
    for distribution in shaping_distributions():
        try:
            installed[distribution] = importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:
            continue
    return installed
