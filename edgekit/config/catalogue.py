"""The catalogue that `edgekit targets` prints: runtimes, device classes and recipes."""

from dataclasses import dataclass
from typing import Literal

from edgekit.config.device_classes import list_device_classes, load_device_class
from edgekit.config.recipes import list_recipes, load_recipe
from edgekit.config.runtimes import RUNTIMES


@dataclass(frozen=True)
class ListedRuntime:
    """A runtime that bundles can be compiled for."""

    name: str
    """Name for `--target`."""
    runtime: str
    """Name that the runtime's own project uses."""


@dataclass(frozen=True)
class Described:
    """A device class or a recipe."""

    name: str
    """Name for `--device-class` or `--recipe`."""
    description: str
    """One sentence about the device class or recipe."""


@dataclass(frozen=True, kw_only=True)
class Catalogue:
    """The document of `edgekit targets`."""

    schema_version: Literal[1] = 1
    """Version of this document's format."""
    targets: tuple[ListedRuntime, ...]
    """Registered runtimes."""
    device_classes: tuple[Described, ...]
    """Shipped device classes, sorted by name."""
    recipes: tuple[Described, ...]
    """Shipped recipes, sorted by name."""


def list_catalogue() -> Catalogue:
    """List every registered runtime and every shipped device class and recipe."""
    classes = (load_device_class(name) for name in list_device_classes())
    recipes = (load_recipe(name) for name in list_recipes())
    return Catalogue(
        targets=tuple(ListedRuntime(runtime.name, runtime.title) for runtime in RUNTIMES.values()),
        device_classes=tuple(Described(row.name, row.description) for row in classes),
        recipes=tuple(Described(row.name, row.description) for row in recipes),
    )
