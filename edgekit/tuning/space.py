"""The search space: the plan of trials, and the recipe of a trial's choices.

It excludes 16-bit activations. ONNX Runtime 1.32 and OpenVINO 2026.4 compute such a layer in floating point, and LiteRT
2.3 computes it outside XNNPACK, where convnextv2_atto took fifteen times as long as its float model.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from typing import Any, Literal

from edgekit.compiler.quantize.calibrate import ESTIMATORS
from edgekit.config.recipes import Estimator, Recipe
from edgekit.support.libraries import import_needed


@dataclass(frozen=True)
class Choices:
    """One point of the search space, for one target."""

    estimator: Estimator
    """Estimator of activation ranges."""
    smooth_quant: bool
    """Whether to apply SmoothQuant."""
    bias_correction: Literal["none", "fast"]
    """Bias correction."""
    layers_in_float: int
    """Number of layers that stay in float, counted from the front of the study's order."""


def plan(recipe: Recipe, layers: int) -> list[Choices]:
    """All points in the order of trials.

    The recipe's own settings come first, with 0, 1, 2, 4, … of the layers in float: the first of them that meets the
    bounds ends what is worth trying, so even a short search has a result. The other settings follow, fewest layers in
    float first. `recipe` is the one for a target, from `for_target`; `layers` is the number of layers.
    """
    levels = [0] + [count for count in (1 << power for power in range(16)) if count < layers]
    own: Any = (recipe.estimator, recipe.smooth_quant, recipe.bias_correction)
    others = [it for it in product(ESTIMATORS, (False, True), ("none", "fast")) if it != own]
    order = [(own, level) for level in levels] + [(it, level) for level in levels for it in others]
    return [Choices(estimator, smooth, bias, level) for (estimator, smooth, bias), level in order]


def with_choices(recipe: Recipe, target: str, choices: Choices, order: Sequence[str]) -> Recipe:
    """The recipe with these choices for one target. `order` has the layers in the order of leaving them in float."""
    kept = recipe.keeping_in_float(target, order[: choices.layers_in_float])
    row = replace(
        kept.targets[target],
        estimator=choices.estimator,
        smooth_quant=choices.smooth_quant,
        bias_correction=choices.bias_correction,
    )
    return replace(kept, targets={**kept.targets, target: row})


def order_of(noise: Mapping[str, float], macs: Mapping[str, int]) -> list[str]:
    """Layers sorted by the noise removed per multiply-accumulate that stays in float, largest first."""
    return sorted(noise, key=lambda name: (-noise[name] / max(1, macs.get(name, 0)), name))


def to_toml(recipe: Recipe, comment: str) -> str:
    """The recipe as TOML, from which `load_recipe` reads the same recipe. MissingExtraError without tomlkit."""
    toml = import_needed("tomlkit", "tune")
    plain = {key: value for key, value in asdict(recipe).items() if key != "targets"}
    tables = {name: asdict(row) for name, row in recipe.targets.items()}
    text: str = toml.dumps(_without_defaults(plain | tables))
    return "".join(f"# {line}\n" for line in comment.splitlines()) + text


def _without_defaults(table: Mapping[str, object]) -> dict[str, object]:
    """The table without keys that are None, which TOML can't express, or empty tables."""
    values = {key: _without_defaults(value) if isinstance(value, Mapping) else value for key, value in table.items()}
    return {key: value for key, value in values.items() if value is not None and value != {}}
