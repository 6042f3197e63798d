"""Device classes (targets/*.toml) and recipes (calibration/*.toml), read strictly into frozen dataclasses.

A flag takes the name of a shipped file or the path of one's own. Adding a class or a recipe is adding a file.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal

from edgekit.config.precisions import Scheme
from edgekit.config.runtimes import RUNTIMES
from edgekit.config.toml_reader import build, read_table, shipped_names, unknown
from edgekit.errors import ProfileError


@dataclass(frozen=True)
class TargetRecipe:
    """What one runtime wants: exact rewrites by name, where Q/DQ go, and what it has in place of the recipe's own."""

    rewrites: tuple[str, ...]
    activations: Literal["uint8", "int8"]
    quantize_outputs: bool
    quantize_depthwise: bool
    quantize_gelu: bool = False
    """Where outputs are quantized, GELU's behind them too: from int8 to int8 it is a table of 256 values."""
    quantize_residuals: bool = False
    """Residual sums and max pooling behind a quantized layer go from int8 to int8."""
    hard_swish_in_float: bool = False
    """HardSwish between Q/DQ spelled out as a product: LiteRT's converter leaves that in float."""
    estimator: Literal["histogram", "minmax", "mean-minmax", "mse"] | None = None
    """None, here and below: as the recipe says."""
    smooth_quant: bool | None = None
    bias_correction: Literal["none", "fast"] | None = None
    float_layers: tuple[str, ...] | None = None
    on: Mapping[str, "TargetRecipe"] = field(default_factory=dict, metadata={"variants": True})
    """What is wanted instead on device classes whose name fits an fnmatch pattern; the first that fits counts."""


PLAIN = TargetRecipe(rewrites=(), activations="int8", quantize_outputs=False, quantize_depthwise=False)
"""What a recipe says of a target that it has no table for."""


@dataclass(frozen=True)
class Recipe:
    """How to calibrate a family of models. The file has a table for each target beside these keys."""

    name: str
    description: str
    targets: Mapping[str, TargetRecipe] = field(metadata={"tables": RUNTIMES, "default": PLAIN})
    architectures: tuple[str, ...] = ()
    """fnmatch patterns of model names that take this recipe unasked."""
    optional_rewrites: tuple[str, ...] = ()
    """Rewrites that some networks of the family have no place for; others that match nothing are warned of."""
    scheme: Scheme = "w8a8"
    num_calibration_samples: int = 128
    estimator: Literal["histogram", "minmax", "mean-minmax", "mse"] = "histogram"
    smooth_quant: bool = False
    bias_correction: Literal["none", "fast"] = "none"
    equalization: float | None = None
    """How much of a channel's range goes into the weights behind it where that is free, up to 1; None for nothing."""
    weight_rounding: Literal["nearest", "gptq"] = "nearest"
    float_layers: tuple[str, ...] = ()
    """fnmatch patterns of layers that stay in float."""

    def for_target(self, target: str) -> "Recipe":
        """The recipe as one target has it: what its table says itself stands in the recipe's place."""
        row = self.targets[target]
        own = {key: getattr(row, key) for key in OWN if getattr(row, key) is not None}
        plain = replace(row, estimator=None, smooth_quant=None, bias_correction=None, float_layers=None)
        if self.scheme == "w8":  # the others are about activations in int8
            own |= {"smooth_quant": False, "bias_correction": "none", "equalization": None}
        return replace(self, targets={**self.targets, target: plain}, **own)

    def for_class(self, device_class: str) -> "Recipe":
        """The recipe as one device class has it: where a target's table says something for it, that is the table."""
        rows = {
            name: next((row.on[each] for each in row.on if fnmatchcase(device_class, each)), replace(row, on={}))
            for name, row in self.targets.items()
        }
        return replace(self, targets=rows)


OWN = ("estimator", "smooth_quant", "bias_correction", "float_layers")
"""What a target's table may say for itself."""


def list_recipes() -> tuple[str, ...]:
    """Names of the shipped recipes, sorted."""
    return shipped_names("calibration")


def load_recipe(name_or_path: str | Path, rewrites: Collection[str] | None = None) -> Recipe:
    """The recipe of this name or in this file; `rewrites` are the pass names that are valid, None for any.

    Raises ProfileError if there is none or it isn't valid.
    """
    where, table = read_table("calibration", name_or_path, "recipe")
    return parse_recipe(table, where, rewrites)


def parse_recipe(table: Mapping[str, Any], where: str, rewrites: Collection[str] | None = None) -> Recipe:
    """The recipe that a table holds as its TOML would, checked as `load_recipe` does; `where` is what messages name."""
    recipe = build(Recipe, table, where)
    for name, target in recipe.targets.items():
        for rewrite in {each: None for row in (target, *target.on.values()) for each in row.rewrites}:
            if rewrites is not None and rewrite not in rewrites:
                raise ProfileError(f"{where}: [{name}] rewrites: {unknown(rewrite, rewrites, 'pass')}")
    for rewrite in recipe.optional_rewrites:
        if rewrites is not None and rewrite not in rewrites:
            raise ProfileError(f"{where}: optional_rewrites: {unknown(rewrite, rewrites, 'pass')}")
    if recipe.equalization is not None and recipe.equalization > 1:
        raise ProfileError(f"{where}: equalization is {recipe.equalization}: it takes a number above 0, up to 1.")
    return recipe


def recipe_for(model_name: str, rewrites: Collection[str] | None = None) -> Recipe:
    """The shipped recipe whose longest pattern fits this model's name."""
    name = model_name.rsplit("/", 1)[-1].lower()
    recipes = [load_recipe(each, rewrites) for each in list_recipes()]
    fits = [(len(pattern), r) for r in recipes for pattern in r.architectures if fnmatchcase(name, pattern)]
    return max(fits, key=lambda fit: fit[0])[1]
