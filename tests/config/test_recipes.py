"""Device classes and recipes are read strictly: an error names the file, the key, the value and what is valid."""

import ast
import inspect
import re
from dataclasses import fields, replace
from itertools import pairwise
from pathlib import Path

import pytest

from edgekit.config import recipes as profiles
from edgekit.config import runtimes
from edgekit.config.runtimes import RUNTIMES
from edgekit.errors import ProfileError
from tests.helpers.refusals import refuses

CLASSES = ("raspberry-pi-4", "raspberry-pi-5", "x86-64-v3", "x86-64-v4")
ATTO = 550_000_000


def edited(tmp_path: Path, kind: str, name: str, old: str, new: str) -> Path:
    """A copy of a shipped file with one change."""
    text = (runtimes.data_folder(kind) / f"{name}.toml").read_text()  # type: ignore[arg-type]
    assert old in text
    path = tmp_path / "mine.toml"
    path.write_text(text.replace(old, new, 1))
    return path


def test_shipped_device_classes() -> None:
    assert runtimes.DeviceClass.listed() == CLASSES
    for name in CLASSES:
        device_class = runtimes.DeviceClass.load(name)
        assert device_class.name == name
        assert set(device_class.targets) <= set(RUNTIMES)
        assert device_class.threads <= device_class.cores
        assert isinstance(device_class.memory_gib, float)
    assert runtimes.DeviceClass.load("raspberry-pi-4").low_precision_float is None
    assert runtimes.DeviceClass.load("raspberry-pi-5").low_precision_float == "f16"


def test_shipped_recipes() -> None:
    assert profiles.list_recipes() == ("coatnet", "coca", "convnextv2", "davit", "default", "resnet", "vit")
    for name in profiles.list_recipes():
        recipe = profiles.Recipe.load(name)
        assert recipe.name == name
        assert set(recipe.targets) == set(RUNTIMES)
        assert recipe.estimator in ("histogram", "minmax", "mse")
    tflite = profiles.Recipe.load("convnextv2").targets["tflite"]
    assert (tflite.activations, tflite.quantize_outputs) == ("int8", True)


@pytest.mark.parametrize(
    ("name", "recipe"),
    [
        ("convnextv2_atto", "convnextv2"),
        ("hf-hub:timm/ConvNeXt_tiny.in12k", "convnextv2"),
        ("resnet50", "resnet"),
        ("timm/wide_resnet50_2.racm_in1k", "resnet"),
        ("resnetv2_50", "default"),
        ("swinv2_cr_tiny_224", "vit"),
        ("torchvision:swin_t", "vit"),
        ("transformers:swinv2", "vit"),
        ("transformers:mobilevit", "default"),
        ("pvt_v2_b0", "vit"),
        ("swiftformer_xs", "default"),
        ("my_package.models:build", "default"),
    ],
)
def test_recipe_for(name: str, recipe: str) -> None:
    assert profiles.Recipe.for_model(name).name == recipe


@pytest.mark.parametrize(
    ("name", "threads", "int8", "float32"),
    [("raspberry-pi-4", 4, 9.6, 19.1), ("raspberry-pi-5", 4, 1.8, 7.2), ("x86-64-v4", 2, 1.16, 4.65)],
)
def test_bounds(name: str, threads: int, int8: float, float32: float) -> None:
    device_class = runtimes.DeviceClass.load(name)
    assert device_class.nominal_ms(ATTO, "int8", threads) == pytest.approx(int8, rel=0.02)
    assert device_class.nominal_ms(ATTO, "float", threads) == pytest.approx(float32, rel=0.02)


@pytest.mark.parametrize(
    ("board", "flags", "expected"),
    [
        ("Raspberry Pi 5 Model B Rev 1.0\0", "Features\t: fp asimd asimddp asimdhp", "raspberry-pi-5"),
        ("Raspberry Pi 400 Rev 1.0\0", "Features\t: fp asimd", "raspberry-pi-4"),
        ("Raspberry Pi Compute Module 4 Rev 1.1\0", "", "raspberry-pi-4"),
        ("Raspberry Pi 3 Model B\0", "Features\t: fp asimd", None),
        (None, "flags\t\t: avx2 fma f16c bmi1 bmi2 movbe abm", "x86-64-v3"),
        (
            None,
            "flags : avx2 fma f16c bmi1 bmi2 movbe abm avx512f avx512bw avx512cd avx512dq avx512vl avx512_vnni",
            "x86-64-v4",
        ),
        (None, "flags : sse2", None),
        (None, None, None),
    ],
)
def test_host_class(tmp_path: Path, board: str | None, flags: str | None, expected: str | None) -> None:
    if board:
        model = tmp_path / "sys/firmware/devicetree/base/model"
        model.parent.mkdir(parents=True)
        model.write_text(board)
    if flags:
        (tmp_path / "proc").mkdir()
        (tmp_path / "proc/cpuinfo").write_text(f"processor : 0\n{flags}\n")
    assert runtimes.DeviceClass.of_host(tmp_path) == expected


@pytest.mark.parametrize(
    ("old", "new", "problem", "valid"),
    [
        ("clock_ghz = 2.4", "clock_ghz = 'fast'", "clock_ghz is 'fast'", "a number above 0"),
        ("clock_ghz = 2.4", "clock_ghz = nan", "clock_ghz is nan", "a number above 0"),
        ("cores = 4", "cores = 0", "cores is 0", "a whole number above 0"),
        ("cores = 4", "cores = 4.5", "cores is 4.5", "a whole number above 0"),
        ("cores = 4", "cores = true", "cores is true", "a whole number above 0"),
        ("cores = 4", "", "key 'cores' is missing", "a whole number above 0"),
        ("dot_product = true", "dot_product = 1", "dot_product is 1", "true or false"),
        ('"f16"', '"fp16"', "low_precision_float: unknown value 'fp16'", "bf16, f16"),
        ('["tflite", ', '["tflight", ', "targets: unknown value 'tflight'", ", ".join(RUNTIMES)),
        ('["tflite", "onnx", "openvino"]', "[]", "targets is []", "a list of strings"),
        ('["asimd", ', '[7, "asimd", ', "instruction_set is 7", "a string"),
    ],
)
def test_device_class_mistakes(tmp_path: Path, old: str, new: str, problem: str, valid: str) -> None:
    path = edited(tmp_path, "targets", "raspberry-pi-5", old, new)
    with pytest.raises(ProfileError) as caught:
        runtimes.DeviceClass.load(path)
    assert (caught.value.problem, caught.value.valid) == (f"{path}: {problem}", valid)


def test_a_misspelled_key_of_a_device_class(tmp_path: Path) -> None:
    path = edited(tmp_path, "targets", "raspberry-pi-5", "clock_ghz =", "clock_gz =")
    with pytest.raises(ProfileError) as caught:
        runtimes.DeviceClass.load(path)
    assert caught.value.problem == f"{path}: unknown key 'clock_gz'"
    assert caught.value.valid.split(", ") == [key.name for key in fields(runtimes.DeviceClass)]
    assert "'clock_ghz'" in caught.value.fix


def test_a_file_that_is_not_toml(tmp_path: Path) -> None:
    path = edited(tmp_path, "targets", "raspberry-pi-5", "cores = 4", "cores = = 4")
    with pytest.raises(ProfileError) as caught:
        runtimes.DeviceClass.load(path)
    assert all(fact in caught.value.problem for fact in (str(path), "TOML", "line 6"))


@pytest.mark.parametrize(
    ("old", "new", "problem", "valid", "fix"),
    [
        ("[tflite]", "[tflit]", "unknown key 'tflit'", ["openvino", "onnx", "tflite"], "'tflite'"),
        ("[openvino]", "[targets]", "unknown key 'targets'", ["openvino", "estimator"], ""),
        ("[onnx]\nrewrites", "[onnx]\nrewrite", "[onnx]: unknown key 'rewrite'", ["activations"], "'rewrites'"),
        (
            "quantize_outputs = true",
            "quantize_outputs = 'no'",
            "[onnx].on.raspberry-pi-*: quantize_outputs is 'no'",
            ["true or false"],
            "",
        ),
        ("equalization = 0.5", "equalization = 0.5\nother = 3", "unknown key 'other'", ["float_layers"], ""),
        (
            'estimator = "mse"',
            'estimator = "min_max"',
            "estimator: unknown value 'min_max'",
            ["histogram", "mse"],
            "'minmax'",
        ),
        (
            'weight_rounding = "gptq"',
            "weight_rounding = false",
            "weight_rounding is false",
            ["one of nearest, gptq"],
            "",
        ),
    ],
)
def test_recipe_mistakes(tmp_path: Path, old: str, new: str, problem: str, valid: list[str], fix: str) -> None:
    path = edited(tmp_path, "calibration", "convnextv2", old, new)
    with pytest.raises(ProfileError) as caught:
        profiles.Recipe.load(path)
    assert caught.value.problem == f"{path}: {problem}"
    assert all(part in caught.value.valid for part in valid)
    assert fix in caught.value.fix


def test_missing_target_table(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('name = "mine"\ndescription = "nothing"\n')
    assert all(row == profiles.PLAIN for row in profiles.Recipe.load(path).targets.values())
    path.write_text('name = "mine"\ndescription = "nothing"\n[openvino]\nquantize_outputs = true\n')
    with refuses(ProfileError, "[openvino]", "'activations'") as missing:
        profiles.Recipe.load(path)
    assert missing.value.valid == "one of uint8, int8"
    path.write_text('name = "mine"\ndescription = "nothing"\nopenvino = 3\n')
    with pytest.raises(ProfileError, match=r"\[openvino\] is 3") as no_table:
        profiles.Recipe.load(path)
    assert no_table.value.valid == "a table"


RECIPE_FOR_CLASSES = """
name = "mine"
description = "another placement on some devices"
[onnx]
rewrites = ["layer-scale"]
activations = "uint8"
quantize_outputs = false
quantize_depthwise = false
[onnx.on."raspberry-pi-*"]
quantize_outputs = true
"""


def test_a_recipe_overrides_settings_for_device_classes(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(RECIPE_FOR_CLASSES)
    recipe = profiles.Recipe.load(path)
    plain, board = (
        recipe.for_class(runtimes.DeviceClass.load(name)).targets["onnx"] for name in ("x86-64-v4", "raspberry-pi-4")
    )
    assert (plain.quantize_outputs, board.quantize_outputs) == (False, True)
    assert board == replace(plain, quantize_outputs=True, kinds={"*": "static"}), "it has no dynamic layers"
    assert not plain.on


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("quantize_outputs = true", "outputs = true", "[onnx].on.raspberry-pi-*: unknown key 'outputs'"),
        ("quantize_outputs = true", "on = {}", "[onnx]: on is "),
        ('[onnx.on."raspberry-pi-*"]\nquantize_outputs = true', "on = 3", "[onnx]: on is 3. Valid: a table for each"),
    ],
)
def test_mistakes_in_overrides_for_device_classes(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(RECIPE_FOR_CLASSES.replace(old, new))
    with pytest.raises(ProfileError, match=re.escape(message)):
        profiles.Recipe.load(path)


def test_unknown_names_list_what_exists() -> None:
    with refuses(ProfileError, "'pi-5'") as caught:
        runtimes.DeviceClass.load("pi-5")
    assert caught.value.valid == "raspberry-pi-4, raspberry-pi-5, x86-64-v3, x86-64-v4"
    assert ".toml" in caught.value.fix
    with refuses(ProfileError, "'convnext'") as caught:
        profiles.Recipe.load("convnext")
    assert "'convnextv2'" in caught.value.fix


def test_missing_and_binary_files(tmp_path: Path) -> None:
    with refuses(ProfileError, "none.toml", "coatnet, coca, convnextv2, davit"):
        profiles.Recipe.load(str(tmp_path / "none.toml"))
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"\xff\xfe\x00")
    with refuses(ProfileError, "binary.toml"):
        runtimes.DeviceClass.load(binary)


def test_the_names_of_rewrites_are_checked(tmp_path: Path) -> None:
    table = 'activations = "int8"\nquantize_outputs = true\nquantize_depthwise = false\nrewrites = '
    tables = "".join(f"[{target}]\n{table}{['fold-afine']}\n" for target in RUNTIMES)
    path = tmp_path / "mine.toml"
    path.write_text(f'name = "mine"\ndescription = "a mistake"\n{tables}')
    assert profiles.Recipe.load(path).targets["tflite"].rewrites == ("fold-afine",)
    with refuses(ProfileError, "[openvino]", "'fold-afine'", "'fold-affine'"):
        profiles.Recipe.load(path, rewrites=["fold-affine", "grn-sum"])
    path.write_text(f'name = "mine"\ndescription = "a mistake"\noptional_rewrites = ["grn-sun"]\n{tables}')
    with refuses(ProfileError, "optional_rewrites", "'grn-sun'", "'grn-sum'"):
        profiles.Recipe.load(path, rewrites=["fold-afine", "grn-sum"])


def test_the_names_of_lowerings_are_those_of_the_runtime(tmp_path: Path) -> None:
    path = edited(tmp_path, "calibration", "default", '"int8-hard-swish"', '"int8-hard-swsh"')
    with refuses(ProfileError, "[onnx]", "'int8-hard-swsh'") as caught:
        profiles.Recipe.load(path)
    assert caught.value.valid == ", ".join(RUNTIMES["onnx"].lowerings)
    assert "'int8-hard-swish'" in caught.value.fix
    path = edited(tmp_path, "calibration", "default", "[openvino]\n", '[openvino]\nlowerings = ["int8-silu"]\n')
    with refuses(ProfileError, "[openvino]", "'int8-silu'"):
        profiles.Recipe.load(path)


@pytest.mark.parametrize("kind", [runtimes.DeviceClass, profiles.Recipe, profiles.TargetRecipe])
def test_every_key_is_documented(kind: type) -> None:
    (body,) = (node.body for node in ast.parse(inspect.getsource(kind)).body if isinstance(node, ast.ClassDef))
    undocumented = [
        node.target.id
        for node, following in pairwise(body)
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and not isinstance(following, ast.Expr)
    ]
    assert undocumented == []
