"""The documents of `edgekit targets`: runtimes, device classes and recipes, or the rewrites of one recipe."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Literal

from edgekit.config.choices import PRECISIONS, Precision
from edgekit.config.device_classes import list_device_classes, load_device_class
from edgekit.config.recipes import TargetRecipe, list_recipes, load_recipe
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


@dataclass(frozen=True)
class ListedRewrites:
    """The rewrites that a table of a recipe enables for the bundles of one precision."""

    target: str
    """Runtime of the table."""
    on: str | None
    """Pattern of device classes of a table under `on`; None for the runtime's own table."""
    device_classes: tuple[str, ...]
    """Shipped device classes to which the table applies, sorted by name."""
    precision: Precision
    """Whether the list is for float or INT8 bundles."""
    rewrites: tuple[str, ...]
    """Names of the rewrites in the order of application."""


@dataclass(frozen=True, kw_only=True)
class RecipeRewrites:
    """The document of `edgekit targets --recipe`."""

    schema_version: Literal[1] = 1
    """Version of this document's format."""
    name: str
    """Name of the recipe."""
    description: str
    """One sentence about the recipe."""
    rewrites: tuple[ListedRewrites, ...]
    """The list of each table and precision, with `add` and `drop` applied."""


def list_rewrites(recipe_name: str, passes: Collection[str]) -> RecipeRewrites:
    """List the rewrites of a recipe, given by name or file. `passes` are all rewrites in their order of application.

    Raises ProfileError as `load_recipe` does.
    """
    recipe = load_recipe(recipe_name, passes)
    listed = []
    for target, row in recipe.targets.items():
        for pattern, variant, classes in _tables(row):
            for precision in PRECISIONS:
                names = tuple(name for name in passes if name in variant.rewrites_of(precision))
                listed.append(ListedRewrites(target, pattern, classes, precision, names))
    return RecipeRewrites(name=recipe.name, description=recipe.description, rewrites=tuple(listed))


def _tables(row: TargetRecipe) -> Iterator[tuple[str | None, TargetRecipe, tuple[str, ...]]]:
    """Each table of a runtime: the pattern after `on`, the settings, and the shipped device classes that take them."""
    patterns = {name: row.pattern_of(name) for name in list_device_classes()}
    for pattern, variant in ((None, row), *row.on.items()):
        yield pattern, variant, tuple(name for name in patterns if patterns[name] == pattern)
