"""What the search chooses from: the plan of trials, cheapest first, and the recipe that a trial's choices make.

Activations of 16 bits aren't in it: ONNX Runtime 1.32 and OpenVINO 2026.4 compute such a layer in floating point, and
LiteRT 2.3 does it outside XNNPACK, where convnextv2_atto took fifteen times the time of its float model.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from typing import Any, Literal

from edgekit.compiler.quantize.calibrate import ESTIMATORS
from edgekit.config.recipes import Recipe
from edgekit.support.libraries import import_needed


@dataclass(frozen=True)
class Choices:
    """One point of the search, for one target."""

    estimator: Literal["histogram", "minmax", "mean-minmax", "mse"]
    smooth_quant: bool
    bias_correction: Literal["none", "fast"]
    layers_in_float: int
    """How many, from the front of the study's order of layers."""


def plan(recipe: Recipe, layers: int) -> list[Choices]:
    """Every point, in the order of trials: fewest layers in float first, and among those the recipe's own settings.

    `recipe` is a target's, with `for_target`; `layers` can be left in float, and 0, 1, 2, 4, … of them are tried.
    """
    levels = [0] + [count for count in (1 << power for power in range(16)) if count < layers]
    own = (recipe.estimator, recipe.smooth_quant, recipe.bias_correction)
    others = list(product(ESTIMATORS, (False, True), ("none", "fast")))
    settings: list[Any] = [own, *(each for each in others if each != own)]
    return [Choices(estimator, smooth, bias, level) for level in levels for estimator, smooth, bias in settings]


def with_choices(recipe: Recipe, target: str, choices: Choices, order: Sequence[str]) -> Recipe:
    """The recipe with these choices for one target; `order` are the layers, the first to be left in float first."""
    row = replace(
        recipe.targets[target],
        estimator=choices.estimator,
        smooth_quant=choices.smooth_quant,
        bias_correction=choices.bias_correction,
        on={},  # what was tuned holds for the class that it was tuned for
        float_layers=(*recipe.for_target(target).float_layers, *map(_literally, order[: choices.layers_in_float])),
    )
    return replace(recipe, targets={**recipe.targets, target: row})


def _literally(name: str) -> str:
    """A pattern of fnmatch that fits this name alone."""
    return "".join(f"[{each}]" if each in "*?[" else each for each in name)


def order_of(noise: Mapping[str, float], macs: Mapping[str, int]) -> list[str]:
    """Layers by the noise that leaving them in float takes away for each multiply-accumulate that it costs."""
    return sorted(noise, key=lambda name: (-noise[name] / max(1, macs.get(name, 0)), name))


def to_toml(recipe: Recipe, comment: str) -> str:
    """The recipe as a file that `load_recipe` reads back to the same. MissingExtraError without tomlkit."""
    toml = import_needed("tomlkit", "tune")
    plain = {key: value for key, value in asdict(recipe).items() if key != "targets"}
    tables = {name: asdict(row) for name, row in recipe.targets.items()}
    text: str = toml.dumps(_said(plain | tables))
    return "".join(f"# {line}\n" for line in comment.splitlines()) + text


def _said(table: Mapping[str, object]) -> dict[str, object]:
    """A table without what is None or empty by default: TOML has no null."""
    given = {key: _said(value) if isinstance(value, Mapping) else value for key, value in table.items()}
    return {key: value for key, value in given.items() if value is not None and value != {}}
