"""What the bundles of a job are built from, and a graph that is ready to compile.

Each bundle has the inputs on which it depends, and its provenance.
"""

import errno
import os
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch.fx import GraphModule

from edgekit import __version__
from edgekit.compiler.graph import read_graph, write_graph
from edgekit.config import runtimes
from edgekit.config.recipes import Recipe, TargetRecipe
from edgekit.config.runtimes import (
    COMPILER_DISTRIBUTIONS,
    RUNTIMES,
    DeviceClass,
    InputDtype,
    Precision,
    Runtime,
)
from edgekit.errors import InputError
from edgekit.images.dataset import Dataset
from edgekit.images.selection import Selection, short_hashes
from edgekit.measure.task import Task
from edgekit.measure.tasks import SingleLabel
from edgekit.models.network import DISTRIBUTIONS, Network, NetworkIdentity
from edgekit.report.document import to_json
from edgekit.runtime.bundle import Manifest
from edgekit.support.files import Inputs, replace_text, replacing, writing
from edgekit.support.libraries import LibraryErrors, quiet, versions_of

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
    input_dtype: InputDtype = "float32"
    """Type of the bundles' input."""

    def shared_recipe(self, target: str) -> Recipe | None:
        """The recipe of the calibration that this runtime shares with others; None if it is calibrated alone.

        Each bundle of a large network is built in a process of its own, which calibrates for its runtime alone.
        """
        if self.network.params >= runtimes.CALIBRATED_ONCE_BELOW:
            return None
        return self.recipe.sharing_calibration(target)

    def inputs(self, target: str, precision: Precision) -> "BundleInputs":
        """Inputs of one bundle."""
        recipe, calibration = self.recipe.for_target(target), None
        if precision == "int8":
            calibration = CalibrationInputs(
                replace(recipe, targets={}),
                self.calibration.sha256,
                self.calibration.hashes,
                self.fitting.hashes if self.fitting else (),
                self.shared_recipe(target),
            )
        return BundleInputs(
            network=self.network.identity,
            target=target,
            precision=precision,
            rewrites_and_placement=recipe.targets[target],
            device_class=self.device_class,
            calibration=calibration,
            task=(self.task.name, self.task.thresholds if self.task.activation == "sigmoid" else ()),
            input_dtype=self.input_dtype,
            versions=versions(),
        )

    def provenance(self, target: str, precision: Precision, rewrites: Sequence[str]) -> dict[str, Any]:
        """The origin of a bundle for its manifest; `rewrites` are those that changed the graph.

        It contains no time, so that equal inputs give equal bundles.
        """
        network = self.network
        images = self.calibration if precision == "int8" else None
        return {
            "versions": versions(),
            "model": {
                "name": network.name,
                "source": network.source,
                "weights": Path(network.weights).name,
                "weights_sha256": network.weights_sha256,
                "params": network.params,
                "license": network.license_note,
            },
            "recipe": self.recipe.name,
            "rewrites": list(rewrites),
            "weight_rounding": self.recipe.for_target(target).weight_rounding,
            "calibration_sha256": images.sha256 if images else None,
            "calibration_images": list(short_hashes(images.hashes)) if images else [],
            "class_order": network.class_order,
            "temperature": None,
        }


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

    The test vectors of a float bundle may come from other images, and the names of classes decide nothing else.
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
    input_dtype: InputDtype
    """Type of the bundle's input."""
    versions: Mapping[str, str]
    """Versions of the packages that compile and run bundles, of Python and of edgekit, and the hash of its code."""


def shaping_distributions() -> list[str]:
    """Names of the distributions that affect bundles, including all alternative distributions of a runtime."""
    names = [*SHARED_DISTRIBUTIONS]
    for runtime in RUNTIMES.values():  # including the runtime itself, which computes the test vectors
        names += [*runtime.compiler_distributions, *runtime.compiler_dependencies, *runtime.distributions]
    return list(dict.fromkeys(names))


def versions() -> dict[str, str]:
    """Versions of edgekit, Python and the packages that affect bundles, and the hash of edgekit's own code."""
    return {"edgekit": __version__, **versions_of(shaping_distributions(), ROOMS)}


PARITY_IMAGES = 8
"""Calibration images on which the graph and each bundle are compared with torch."""
GRAPH, STAGE, SAMPLES = "graph.pt2", "stage.json", "samples.npz"


@dataclass(frozen=True)
class GraphFacts:
    """What a graph's bundle needs beside its files."""

    manifest: Manifest
    """The bundle's manifest, in which the names of what the compiler makes are still empty."""
    labels: tuple[str, ...]
    """Names of the classes, in the order of the outputs."""
    device_class: DeviceClass
    """Machines that the bundle is for."""
    unmatched: tuple[str, ...]
    """Rewrites of the recipe that match nothing in the network and aren't optional."""


@dataclass(frozen=True, eq=False)
class ParitySamples:
    """Real images on which a bundle is compared with torch."""

    pixels: NDArray[np.uint8]
    """Cropped images [N,H,W,C]."""
    logits: NDArray[np.float32]
    """Logits [N,classes] of torch's float network for these images."""


@dataclass(frozen=True, eq=False)
class GraphToCompile:
    """A graph for one runtime, float or with Q/DQ, and everything else that its bundle needs."""

    graph: GraphModule
    facts: GraphFacts
    samples: ParitySamples
    """Calibration images, of which the first ones become test vectors."""
    fitting: ParitySamples | None = None
    """Images that fit the temperature of an INT8 bundle; None for a bundle without one. `save_graph` leaves them out,
    because only a job that judges its bundles chooses them."""


def save_graph(to_compile: GraphToCompile, folder: Path) -> None:
    """Write a graph to a folder for `load_graph`, and replace an older one.

    Raises OutputError if the folder can't be written or contains something else.
    """
    samples = to_compile.samples
    example = torch.zeros(to_compile.facts.manifest.preprocessing.input_shape)
    with writing(folder):
        if folder.is_dir() and any(folder.iterdir()) and not (folder / STAGE).exists():
            raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY))
        with replacing(folder) as temporary:
            temporary.mkdir(parents=True)
            with quiet():
                write_graph(to_compile.graph, example, temporary / GRAPH)
            np.savez(temporary / SAMPLES, pixels=samples.pixels, logits=samples.logits)
            (temporary / STAGE).write_text(to_json(to_compile.facts), encoding="utf-8")


def load_graph(folder: Path) -> GraphToCompile:
    """Load a graph that `save_graph` wrote, with weights_only=True. Raises InputError for any other folder."""
    # numpy and torch raise almost anything on a damaged file.
    refused = LibraryErrors(lambda raised: _not_a_graph(folder, raised))
    facts = read_facts(folder)
    with quiet(), refused, np.load(folder / SAMPLES, allow_pickle=False) as arrays:
        samples = ParitySamples(arrays["pixels"], arrays["logits"])
        return GraphToCompile(read_graph(folder / GRAPH), facts, samples)


def read_facts(folder: Path) -> GraphFacts:
    """Read the facts that `save_graph` wrote, without its graph, which may be gigabytes.

    Raises InputError if the facts are damaged or a file is no longer whole, and UsageError for an unknown target.
    """
    try:
        facts = msgspec.json.decode((folder / STAGE).read_bytes(), type=GraphFacts)
    except (OSError, msgspec.DecodeError) as error:
        raise _not_a_graph(folder, error if isinstance(error, OSError) else f"{STAGE}: {error}") from error
    Runtime.find(facts.manifest.target)
    for name in (GRAPH, SAMPLES):
        if not zipfile.is_zipfile(folder / name):
            raise _not_a_graph(folder, f"{name} is missing or damaged")
    return facts


def save_facts(facts: GraphFacts, folder: Path) -> None:
    """Replace the facts of a graph that `save_graph` wrote."""
    with writing(folder / STAGE):
        replace_text(folder / STAGE, to_json(facts))


def _not_a_graph(folder: Path, reason: object) -> InputError:
    return InputError(
        f"'{folder}' is not a graph that `edgekit quantize` wrote: {reason}",
        fix="Make one with `edgekit quantize MODEL`",
    )
