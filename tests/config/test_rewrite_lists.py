"""A list of rewrites may say what differs from the list that it extends."""

import tomllib
from pathlib import Path

import pytest

from edgekit.config.recipes import Recipe, list_recipes
from edgekit.config.runtimes import DeviceClass, data_folder
from edgekit.errors import ProfileError
from tests.helpers.refusals import refuses

REWRITES = ("fold", "split", "split-in-three", "blocks", "tanh")
RECIPE = """
name = "mine"
description = "a family"
[onnx]
rewrites = ["fold", "split"]
activations = "uint8"
quantize_outputs = false
quantize_depthwise = false
"""
VARIANT = '\n[onnx.on."raspberry-pi-*"]\n'


def parsed(lists: str) -> Recipe:
    return Recipe.parse(tomllib.loads(RECIPE + lists), "mine.toml", REWRITES)


@pytest.mark.parametrize(
    ("lists", "host", "board"),
    [
        ('int8_rewrites = { add = ["tanh"] }', "fold split tanh", "fold split tanh"),
        ('int8_rewrites = { drop = ["split"] }', "fold", "fold"),
        ('int8_rewrites = { add = ["blocks"], drop = ["split"] }', "fold blocks", "fold blocks"),
        ('int8_rewrites = ["tanh"]' + VARIANT + 'rewrites = { drop = ["split"] }', "tanh", "tanh"),
        # The runtime's change applies to the variant's list, unless the variant has its own.
        (
            'int8_rewrites = { add = ["tanh"] }' + VARIANT + 'rewrites = { add = ["blocks"], drop = ["split"] }',
            "fold split tanh",
            "fold blocks tanh",
        ),
        (
            'int8_rewrites = { add = ["tanh"] }' + VARIANT + 'rewrites = { drop = ["split"] }\nint8_rewrites = {}',
            "fold split tanh",
            "fold",
        ),
        (VARIANT + 'int8_rewrites = { add = ["tanh"] }', "fold split", "fold split tanh"),
        (VARIANT + 'rewrites = ["tanh"]\nint8_rewrites = { add = ["fold"] }', "fold split", "tanh fold"),
    ],
)
def test_a_change_of_a_list(lists: str, host: str, board: str) -> None:
    recipe = parsed(lists)
    for device_class, expected in (("x86-64-v4", host), ("raspberry-pi-4", board)):
        row = recipe.for_class(DeviceClass.load(device_class)).targets["onnx"]
        assert " ".join(row.rewrites_of("int8")) == expected


@pytest.mark.parametrize(
    ("lists", "problem", "valid", "fix"),
    [
        (
            'int8_rewrites = { drop = ["splt"] }',
            "[onnx]: int8_rewrites drops 'splt', which isn't in the list",
            "fold, split",
            "Did you mean 'split'? Remove it from `drop`",
        ),
        (
            'int8_rewrites = { add = ["fold"] }',
            "[onnx]: int8_rewrites adds 'fold', which is in the list already",
            "",
            "Remove it from `add`",
        ),
        ('int8_rewrites = { add = ["tahn"] }', "[onnx] int8_rewrites: unknown pass 'tahn'", None, "'tanh'"),
        ("int8_rewrites = { ad = [] }", "[onnx]: int8_rewrites: unknown key 'ad'", "add, drop", "'add'"),
        ('int8_rewrites = { add = "tanh" }', "[onnx]: int8_rewrites: add is 'tanh'", "a list of strings", ""),
        ("int8_rewrites = 3", "[onnx]: int8_rewrites is 3", "a list of strings", ""),
        (VARIANT + "rewrites = 3", "[onnx].on.raspberry-pi-*: rewrites is 3", "a list of strings", ""),
        (
            'int8_rewrites = { drop = ["split"] }' + VARIANT + 'rewrites = { drop = ["split"] }',
            "[onnx].on.raspberry-pi-*: int8_rewrites drops 'split', which isn't in the list",
            "fold",
            "Remove it from `drop`",
        ),
    ],
)
def test_mistakes_in_a_change(lists: str, problem: str, valid: str | None, fix: str) -> None:
    with pytest.raises(ProfileError) as caught:
        parsed(lists)
    assert caught.value.problem == f"mine.toml: {problem}"
    assert caught.value.valid == (", ".join(REWRITES) if valid is None else valid)
    assert fix in caught.value.fix


def test_the_runtimes_own_rewrites_extend_no_list() -> None:
    table = tomllib.loads(RECIPE.replace('["fold", "split"]', '{ add = ["fold"] }'))
    with refuses(ProfileError, "[onnx]", "rewrites", "add", "drop") as caught:
        Recipe.parse(table, "mine.toml", REWRITES)
    assert caught.value.valid.startswith("a list of strings")


def test_a_change_without_a_list_extends_none(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(RECIPE.replace('rewrites = ["fold", "split"]', 'int8_rewrites = { add = ["tanh"] }'))
    row = Recipe.load(path).targets["onnx"]
    assert (row.rewrites, row.int8_rewrites) == ((), ("tanh",))


def test_shipped_recipes_name_a_rewrite_once_for_each_runtime() -> None:
    """Their INT8 lists, and those for single device classes, say what differs."""
    for name in list_recipes():
        table = tomllib.loads((data_folder("calibration") / f"{name}.toml").read_text())
        rows = [row for row in table.values() if isinstance(row, dict)]
        variants = [variant for row in rows for variant in row.get("on", {}).values()]
        lists = [row.get("int8_rewrites") for row in rows]
        lists += [variant.get(key) for variant in variants for key in ("rewrites", "int8_rewrites")]
        assert not [each for each in lists if isinstance(each, list)], name
