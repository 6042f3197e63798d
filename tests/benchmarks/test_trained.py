"""benchmarks/trained.py: the table of choices, and its resumption."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks import recording, trained
from benchmarks.machine import Conditions
from benchmarks.recording import recordings
from benchmarks.rows import read_rows
from benchmarks.trainedlib import choices, measuring, subjects, timing
from benchmarks.trainedlib.choices import REPAIRED, SHIPPED, STOCK, Choice, varied
from benchmarks.trainedlib.subjects import SUBJECTS, Subject
from benchmarks.trainedlib.table import line
from benchmarks.trainedlib.text_images import draw
from edgekit.config.recipes import Recipe
from edgekit.models.options import ModelOptions, parse_model_args
from tests.benchmarks.test_recording import RECORDING
from tests.helpers.tiny import TINY_ARGS

TINY = ModelOptions("convnextv2_atto", weights="random", model_args=parse_model_args(TINY_ARGS), imgsz=32, crop_pct=1.0)


@pytest.fixture(autouse=True)
def _recording(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trained, "new_recording", lambda: RECORDING)
    monkeypatch.setattr(recording, "code_sha256", RECORDING.code.__getitem__)


@pytest.mark.slow
def test_rows_are_measured_once_and_shown_each_time(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(subjects, "SUBJECTS", {"tiny": Subject(TINY, "imagenet")})
    monkeypatch.setattr(choices, "CHOICES", {SHIPPED: Choice(), "no change": Choice({"activations": "uint8"})})
    file = tmp_path / "trained.json"
    command = ["--imagenet", str(photos), "--runtimes", "onnx", "--calibration", "4", "--images", "20"]
    command += ["--json", str(file), "--cache", str(tmp_path)]
    trained.main(command)
    (row,) = read_rows(file)
    assert (row["network"], row["runtime"], row["choice"], row["recipe"]) == ("tiny", "onnx", SHIPPED, "convnextv2")
    assert (row["calibration_images"], row["images"]) == (4, 20)
    assert row["drop_ci95_points"][0] <= row["drop_top1_points"] <= row["drop_ci95_points"][1]
    assert row["snr_db"] > 3
    assert 0 < row["agreement"] <= 1
    assert row["temperature"] is None
    assert row["fitted_temperature"] > 0
    assert [threshold for threshold, *_ in row["crossings"]] == [0.5, 0.8]
    assert recordings(tmp_path)[row["recording"]] == RECORDING
    output = capsys.readouterr().out
    assert "tiny onnx: 'no change' changes nothing in the recipe" in output
    assert output.count(line(row)) == 2, "when it is measured, and in the table"

    def refuse(*_: object) -> None:
        raise AssertionError("measured again")

    monkeypatch.setattr(measuring.Bench, "measure", refuse)
    trained.main([*command, "--choices", SHIPPED])
    assert capsys.readouterr().out.splitlines()[-1] == line(row)
    with pytest.raises(AssertionError, match="measured again"):
        trained.main([*command, "--choices", SHIPPED, "--again"])
    monkeypatch.setattr(recording, "code_sha256", lambda room: "changed")
    with pytest.raises(AssertionError, match="measured again"):
        trained.main([*command, "--choices", SHIPPED])


@pytest.mark.slow
def test_what_deploy_and_a_stock_tool_make_is_measured_and_timed(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subjects, "SUBJECTS", {"tiny": Subject(TINY, "imagenet")})
    monkeypatch.setattr(measuring, "MOST_DROP", -100)
    file, tool = tmp_path / "trained.json", STOCK["onnx"][0]
    command = ["--imagenet", str(photos), "--runtimes", "onnx", "--calibration", "4", "--images", "20"]
    command += ["--json", str(file), "--cache", str(tmp_path)]
    trained.main([*command, "--choices", f"{SHIPPED},{REPAIRED},{tool}"])
    shipped, deployed, stock = read_rows(file)
    assert shipped.keys() - stock.keys() == {"temperature"}
    assert (deployed["attempts"], deployed["float_layers"]) == (0, []), "random weights aren't repaired"
    assert (deployed["images"], deployed["top1"]) == (shipped["images"], shipped["top1"])

    monkeypatch.setattr(timing, "SECONDS", 0)
    monkeypatch.setattr(timing, "when_idle", lambda measure, what: (measure(), Conditions(0, 0, (1, 1))))
    trained.main([*command, "--time"])
    timings = [row["timing"] for row in read_rows(file) if "timing" in row]
    assert {timing["float"] for timing in timings} <= {"edgekit float", "stock float"}
    assert len({timing["float_ms"] for timing in timings}) == 1
    assert all(timing["ci95"][0] <= timing["ratio"] <= timing["ci95"][1] for timing in timings)


def test_a_key_is_set_where_the_recipe_reads_it() -> None:
    recipe = Recipe.load("default")
    changed = varied(recipe, "onnx", {"estimator": "mse", "weight_rounding": "nearest", "quantize_residuals": False})
    assert changed.for_target("onnx").estimator == "mse"
    assert changed.for_target("onnx").weight_rounding == "nearest"
    assert not changed.targets["onnx"].quantize_residuals
    assert changed.targets["tflite"] == recipe.targets["tflite"]
    assert varied(recipe, "onnx", {}) == recipe


def test_an_error_has_its_place_in_the_table() -> None:
    row = {"network": "n", "runtime": "onnx", "choice": "c", "recipe": "r", "images": 9, "float_top1": 0.5}
    assert "failed: a / b |" in line(row | {"error": "a |\n b"})


def test_unknown_names_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        trained.main(["--choices", "shipped,none"])
    assert "unknown choices: none; valid are shipped, " in capsys.readouterr().err


@pytest.mark.parametrize("name", ["resnet", "vit", "davit", "coatnet", "convnextv2"])
def test_a_network_gets_the_recipe_of_its_family(name: str) -> None:
    assert Recipe.for_model(SUBJECTS[name].model.name).name == name


def test_text_is_drawn_from_its_seed() -> None:
    image = np.asarray(draw("text 3", turned=False))
    assert image.shape == (48, 192, 3)
    assert (image == np.asarray(draw("text 3", turned=False))).all()
    turned = np.asarray(draw("text 3", turned=True))[::-1, ::-1]
    assert np.abs(image.mean(2) - turned.mean(2)).mean() < 30, "apart from the noise, it is the same line"
    assert np.abs(image.mean(2) - turned[::-1, ::-1].mean(2)).mean() > 0
