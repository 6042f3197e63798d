"""The plan of trials, and the recipes of their choices."""

from dataclasses import replace
from pathlib import Path

import pytest

from edgekit.config.recipes import load_recipe
from edgekit.tuning.space import Choices, order_of, plan, to_toml, with_choices

BASE = load_recipe("convnextv2")


def test_the_plan_starts_with_the_recipe_itself_and_continues_with_the_cheapest() -> None:
    points = plan(replace(BASE, estimator="minmax"), 10)
    levels = [0, 1, 2, 4, 8]
    assert points[:5] == [Choices("minmax", False, "none", level) for level in levels]
    assert len(points) == len(set(points)) == 16 * 5
    assert [point.layers_in_float for point in points[5:]] == [level for level in levels for _ in range(15)]
    assert {point.layers_in_float for point in plan(BASE, 1)} == {0}, "a network's only layer never stays in float"


def test_choices_apply_to_one_target() -> None:
    recipe = with_choices(
        replace(BASE, float_layers=("stem*",)), "onnx", Choices("minmax", True, "fast", 2), ["b", "a[0]", "c"]
    )
    onnx = recipe.for_target("onnx")
    assert (onnx.estimator, onnx.smooth_quant, onnx.bias_correction) == ("minmax", True, "fast")
    assert onnx.float_layers == ("stem*", "b", "a[[]0]")
    assert onnx.for_target("onnx") == onnx
    other = recipe.for_target("tflite")
    assert (other.estimator, other.float_layers) == ("mse", ("stem*",))
    assert other.targets["tflite"] == BASE.targets["tflite"]


def test_layers_are_ordered_by_noise_per_operation() -> None:
    noise, macs = {"a": 1.0, "b": 1.0, "c": 3.5, "d": 0.3}, {"a": 10, "b": 5, "c": 30, "d": 0}
    assert order_of(noise, macs) == ["d", "b", "c", "a"]
    assert order_of({"x": 1.0, "y": 8.0}, {"x": 1, "y": 16}) == ["x", "y"]


def test_a_recipe_survives_its_file(tmp_path: Path) -> None:
    recipe = replace(BASE, name='it\'s "tuned"', description="ü\nline", float_layers=("a*", "b"))
    recipe = with_choices(recipe, "tflite", Choices("mean-minmax", False, "none", 1), ["head.fc"])
    path = tmp_path / "recipe.toml"
    path.write_text(to_toml(recipe, "two\nlines"), "utf-8")
    assert path.read_text("utf-8").startswith("# two\n# lines\n")
    assert load_recipe(path) == recipe


@pytest.mark.parametrize("target", ["openvino", "onnx", "tflite"])
def test_the_shipped_recipe_has_no_overrides(target: str) -> None:
    assert BASE.for_target(target) == BASE
