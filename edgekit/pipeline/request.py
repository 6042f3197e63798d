"""What the bundles of a job are built from, the inputs on which each of them depends, and its provenance."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from edgekit import __version__
from edgekit.config import sizes
from edgekit.config.choices import Precision
from edgekit.config.device_classes import DeviceClass
from edgekit.config.recipes import Recipe, TargetRecipe
from edgekit.config.runtimes import COMPILER_DISTRIBUTIONS, RUNTIMES
from edgekit.images.dataset import Dataset
from edgekit.images.overlap import short_hashes
from edgekit.images.selection import Selection
from edgekit.measure.tasks import Task
from edgekit.measure.tasks.single_label import SingleLabel
from edgekit.models.network import DISTRIBUTIONS, Network, NetworkIdentity
from edgekit.support.distribution import versions_of
from edgekit.support.files import Inputs

SHARED_DISTRIBUTIONS = (*DISTRIBUTIONS, "networkx", "scipy", *COMPILER_DISTRIBUTIONS)
"""Distributions that affect every bundle. Those of single runtimes are in the table of runtimes."""
ROOMS = ("compat", "compiler", "config", "images", "models", "pipeline", "runtime", "support")
"""Folders of the package whose code affects the content of bundles. The others run, measure or report."""


@dataclass(frozen=True)
class BuildSpec:
    """What the bundles of a job are built from."""

    network: Network
    recipe: Recipe
    device_class: DeviceClass
    """Machines that the bundles are for."""
    calibration_dataset: Dataset
    """The data set of the calibration images."""
    calibration: Selection
    """Images that calibrate the network."""
    task: Task = field(default_factory=SingleLabel)
    """What the network's outputs mean."""
    fitting: Selection | None = None
    """Images that fit the temperature of INT8 bundles; None for bundles without one."""
    fitting_dataset: Dataset | None = None
    """The data set of these images."""

    def at(self, threshold: float | None) -> "BuildSpec":
        """The same with a threshold that the user states; see `Task.at`."""
        return replace(self, task=self.task.at(threshold, self.network.classes))

    def request(self, target: str, precision: Precision) -> "BundleRequest":
        """The request for one bundle."""
        request = BundleRequest(self.network, target, precision, self.recipe, self.device_class, task=self.task)
        if precision == "float":
            return request
        images = self.calibration
        return replace(
            request,
            calibration_sha256=images.sha256,
            calibration_images=images.hashes,
            fitting_images=self.fitting.hashes if self.fitting else (),
        )


@dataclass(frozen=True)
class CalibrationInputs:
    """Inputs of int8 bundles only."""

    recipe: Recipe
    """The recipe without the tables of the runtimes."""
    sha256: str
    """`Selection.sha256` of the calibration images."""
    images: tuple[str, ...]
    """SHA-256 of each calibration image, in their order."""
    fitting_images: tuple[str, ...]
    """SHA-256 of each image that fits the temperature."""
    shared: Recipe | None
    """The recipe of the calibration that several runtimes share; None for a runtime that is calibrated alone."""


@dataclass(frozen=True)
class BundleInputs(Inputs):
    """Inputs of a bundle, or of a stored graph for it. The bundle's fingerprint is the key.

    The golden samples of a float bundle may come from other images, and the names of classes decide nothing else.
    """

    network: NetworkIdentity
    """The network."""
    target: str
    """Runtime that the bundle is for."""
    precision: Precision
    """Whether the bundle is float or int8."""
    rewrites_and_placement: TargetRecipe
    """The recipe's table for the runtime."""
    device_class: DeviceClass
    """Machines that the bundle is for."""
    calibration: CalibrationInputs | None
    """Inputs of the calibration; None for a float bundle."""
    task: tuple[str, tuple[float, ...]]
    """Name of the task, and its thresholds if the manifest has them."""
    versions: Mapping[str, str]
    """Versions of the packages that compile and run bundles, of Python and of edgekit, and the hash of its code."""


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
    """SHA-256 of each of these images, in their order."""
    fitting_images: tuple[str, ...] = ()
    """SHA-256 of each image that fits the temperature of an int8 bundle."""
    task: Task = field(default_factory=SingleLabel)
    """What the network's outputs mean."""

    @property
    def target_recipe(self) -> Recipe:
        """The recipe with the settings of the request's target."""
        return self.recipe.for_target(self.target)

    @property
    def shared_recipe(self) -> Recipe | None:
        """The recipe of the calibration that this runtime shares with others; None if it is calibrated alone.

        Each bundle of a large network is built in a process of its own, which calibrates for its runtime alone.
        """
        if self.precision == "float" or self.network.params >= sizes.CALIBRATED_ONCE_BELOW:
            return None
        return self.recipe.sharing_calibration(self.target)

    @property
    def inputs(self) -> BundleInputs:
        """Inputs of the bundle."""
        recipe, calibration = self.target_recipe, None
        if self.precision == "int8":
            images = self.calibration_sha256, self.calibration_images, self.fitting_images
            calibration = CalibrationInputs(replace(recipe, targets={}), *images, self.shared_recipe)
        return BundleInputs(
            network=self.network.identity,
            target=self.target,
            precision=self.precision,
            rewrites_and_placement=recipe.targets[self.target],
            device_class=self.device_class,
            calibration=calibration,
            task=(self.task.name, self.task.thresholds if self.task.activation == "sigmoid" else ()),
            versions=versions(),
        )


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
    class_order: str | None = None
    """`Network.class_order`."""
    temperature: float | None = None
    """Temperature by which the outputs were divided in the last layer; None for none."""


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
        calibration_images=short_hashes(request.calibration_images),
        class_order=network.class_order,
    )


def shaping_distributions() -> list[str]:
    """Names of the distributions that affect bundles, including all alternative distributions of a runtime."""
    names = [*SHARED_DISTRIBUTIONS]
    for runtime in RUNTIMES.values():  # including the runtime itself, which computes the golden samples
        names += [*runtime.compiler_distributions, *runtime.compiler_dependencies, *runtime.distributions]
    return list(dict.fromkeys(names))


def versions() -> dict[str, str]:
    """Versions of edgekit, Python and the packages that affect bundles, and the hash of edgekit's own code."""
    return {"edgekit": __version__, **versions_of(shaping_distributions(), ROOMS)}
