"""What a user can name on the command line: runtimes, device classes and recipes."""

from dataclasses import dataclass
from typing import Literal

from edgekit.config.device_classes import list_device_classes, load_device_class
from edgekit.config.recipes import list_recipes, load_recipe
from edgekit.config.runtimes import RUNTIMES


@dataclass(frozen=True)
class ListedRuntime:
    """A runtime: the name that --target takes, and the title that its project uses."""

    name: str
    runtime: str


@dataclass(frozen=True)
class Described:
    """A device class or a recipe."""

    name: str
    description: str


@dataclass(frozen=True, kw_only=True)
class Catalogue:
    """The document of `edgekit targets`."""

    schema_version: Literal[1] = 1
    targets: tuple[ListedRuntime, ...]
    device_classes: tuple[Described, ...]
    recipes: tuple[Described, ...]


def list_catalogue() -> Catalogue:
    """Every registered runtime and every shipped device class and recipe."""
    classes = (load_device_class(name) for name in list_device_classes())
    recipes = (load_recipe(name) for name in list_recipes())
    return Catalogue(
        targets=tuple(ListedRuntime(each.name, each.title) for each in RUNTIMES.values()),
        device_classes=tuple(Described(each.name, each.description) for each in classes),
        recipes=tuple(Described(each.name, each.description) for each in recipes),
    )
