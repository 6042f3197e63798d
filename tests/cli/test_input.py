"""Bad input: exit code 2, one message that says what to do, no traceback, and nothing half-written."""

import contextlib
import errno
import importlib
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edgekit.cli.main import main
from edgekit.images.dataset import Dataset
from edgekit.images.selection import select
from edgekit.runtime.bundle import read_bundle
from edgekit.support.libraries import install_command
from tests.helpers.measurements import without_fresh_processes
from tests.helpers.missing import missing
from tests.helpers.tiny import TINY_MODEL

Fails = Callable[..., str]


@pytest.fixture
def fails(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Fails:
    """Run a command that must fail as bad input does; what it said. The output folder must not come into being."""

    def run(*arguments: object, output: Path | None = None) -> str:
        given = [str(each) for each in arguments]
        if given[0] in ("deploy", "quantize", "demo"):
            given += ["-o", str(output or tmp_path / "out")]
        assert main(given) == 2
        out, err = capfd.readouterr()
        assert out == ""
        assert "Traceback" not in err
        *before, last = err.splitlines()
        assert last.startswith("edgekit: error: ") or any(line.startswith("edgekit: error: ") for line in before)
        assert not (tmp_path / "out").exists()
        return err

    return run


@pytest.fixture
def deploy(fails: Fails, tiny_weights: Path) -> Fails:
    """`edgekit deploy` of the tiny model."""
    return lambda *more, **other: fails("deploy", *TINY_MODEL, "--weights", tiny_weights, *more, **other)


@contextlib.contextmanager
def mounted(folder: Path, options: str) -> Iterator[Path]:
    """A small file system in memory at `folder`."""
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "none", str(folder)], capture_output=True, check=False
    )
    if done.returncode != 0:
        missing("can't mount a file system here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)  # OpenVINO keeps files mapped for a while


def test_no_data(deploy: Fails) -> None:
    assert "--data PATH" in deploy()


def test_missing_data(deploy: Fails, tmp_path: Path) -> None:
    message = deploy("--data", tmp_path / "gone")
    assert f"'{tmp_path / 'gone'}' doesn't exist\n  valid: a folder or a zip" in message


def test_missing_calibration_data(deploy: Fails, tmp_path: Path, photos: Path) -> None:
    assert "gone' doesn't exist" in deploy("--data", photos, "--calibration-data", tmp_path / "gone")


@pytest.mark.parametrize("holds", [[], ["notes.txt"], ["class_0/notes.txt", "class_1/.hidden.png"]])
def test_data_without_images(deploy: Fails, tmp_path: Path, holds: list[str]) -> None:
    data = tmp_path / "data"
    data.mkdir()
    for name in holds:
        (data / name).parent.mkdir(exist_ok=True)
        (data / name).write_text("no image")
    message = deploy("--data", data)
    assert f"'{data}' contains no images" in message
    assert "one folder of images for each class" in message


def test_data_that_is_no_zip(deploy: Fails, tmp_path: Path) -> None:
    (tmp_path / "data.zip").write_text("no zip")
    assert "data.zip' is not a folder or a zip" in deploy("--data", tmp_path / "data.zip")


def test_classes_that_do_not_match(deploy: Fails, photos: Path, tmp_path: Path) -> None:
    for index, name in enumerate(("cats", "dogs", "class_2")):
        shutil.copytree(photos / f"class_{index}", tmp_path / "data" / name)
    message = deploy("--data", tmp_path / "data")
    assert "2 of the 3 class folders" in message
    assert "'cats', 'dogs'" in message
    assert "--labels FILE" in message


def test_labels_of_another_number(deploy: Fails, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("a\nb\n")
    message = deploy("--data", photos, "--labels", tmp_path / "labels.txt")
    assert "has 2 names, but the model has 10 classes" in message
    assert "gone.txt' doesn't exist" in deploy("--data", photos, "--labels", tmp_path / "gone.txt")


@pytest.mark.parametrize(
    ("more", "asked"),
    [(["--num-eval-samples", "100"], 100), (["--num-calibration-samples", "41"], 41)],
)
def test_fewer_images_than_asked(deploy: Fails, photos: Path, more: list[str], asked: int) -> None:
    message = deploy("--data", photos, *more)
    assert f"of the {asked} images requested: of its 40 images" in message
    assert "Request fewer images" in message


@pytest.mark.parametrize("option", ["--num-eval-samples", "--num-calibration-samples"])
def test_a_number_of_images_below_zero(deploy: Fails, photos: Path, option: str) -> None:
    message = deploy("--data", photos, option, "-1")
    assert f"{option} is '-1'" in message
    assert "a whole number of at least 1" in message


def test_every_image_calibrated_on(deploy: Fails, photos: Path) -> None:
    message = deploy("--data", photos, "--num-calibration-samples", "40")
    assert "40 are already in use" in message


def test_all_images_corrupt(deploy: Fails, photos: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(photos, data)
    for path in data.glob("*/*.png"):
        path.write_bytes(path.read_bytes()[:50])
    message = deploy("--data", data)
    assert "of its 40 images, 40 can't be read" in message


def test_classify_a_corrupt_or_missing_image(fails: Fails, finished_run: Path, photos: Path, tmp_path: Path) -> None:
    broken = tmp_path / "cat.png"
    broken.write_bytes((photos / "class_0" / "0.png").read_bytes()[:50])
    bundle = finished_run / "onnx-int8"
    assert str(broken) in fails("classify", bundle, broken)
    assert "cat.png" in fails("classify", bundle, photos / "class_0" / "0.png", broken, "--json")
    assert "gone.png" in fails("classify", bundle, tmp_path / "gone.png")
    assert "--top is '0'" in fails("classify", bundle, photos / "class_0/0.png", "--top", "0")


@pytest.mark.parametrize("command", ["classify", "inspect", "evaluate", "benchmark"])
def test_what_is_no_bundle(command: str, fails: Fails, photos: Path, tmp_path: Path) -> None:
    inputs: dict[str, list[Any]] = {"classify": [photos / "class_0/0.png"], "evaluate": ["--data", photos]}
    more = inputs.get(command, [])
    assert "doesn't exist" in fails(command, tmp_path / "gone", *more)
    message = fails(command, photos, *more)
    assert "is not a bundle: it has no manifest.json" in message
    assert "edgekit deploy MODEL" in message


def test_a_changed_bundle(fails: Fails, finished_run: Path, tmp_path: Path) -> None:
    shutil.copytree(finished_run / "onnx-int8", tmp_path / "bundle")
    model = tmp_path / "bundle" / "model.onnx"
    content = bytearray(model.read_bytes())
    content[len(content) // 2] ^= 1
    model.write_bytes(content)
    assert "file 'model.onnx' was changed" in fails("inspect", tmp_path / "bundle")


def test_evaluate_without_data(fails: Fails, finished_run: Path) -> None:
    assert "--data PATH" in fails("evaluate", finished_run / "onnx-int8")


@pytest.mark.parametrize(
    ("model", "near"), [("convnextv2_ato", "convnextv2_atto"), ("mobilenetv3_smal_050", "mobilenetv3_small_050")]
)
def test_unknown_model_suggests_names(fails: Fails, photos: Path, model: str, near: str) -> None:
    message = fails("deploy", model, "--weights", "random", "--data", photos)
    assert f"unknown model '{model}'" in message
    assert near in message


@pytest.mark.parametrize("model", ["nowhere:build", "a b:c", ":", "json:nothing", "json:dumps"])
def test_factories_that_do_not_work(fails: Fails, photos: Path, model: str) -> None:
    assert model.partition(":")[0] in fails("deploy", model, "--data", photos)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (
            ["--target", "tflit"],
            "unknown target 'tflit'\n  valid: openvino, onnx, tflite\n  fix:   Did you mean 'tflite'?",
        ),
        (["--device", "pi"], "unknown device 'pi'\n  valid: local, "),
        (["--recipe", "convnextv3"], "default, resnet, vit\n  fix:   Did you mean 'convnextv2'?"),
        (["--recipe", "gone.toml"], "recipe 'gone.toml' can't be read"),
        (["--device-class", "raspberry-pi-6"], "Did you mean 'raspberry-pi-"),
        (["--threads", "0"], "--threads is '0'"),
        (["--threads", "-2"], "a whole number from 1"),
        (["--imgsz", "0"], "--imgsz is '0'"),
        (["--imgsz", "32x32x3"], "HEIGHTxWIDTH"),
        (["--mean", "0.5,0.5"], "--mean is '0.5,0.5'"),
        (["--std", "a,b,c"], "--std is 'a,b,c'"),
        (["--std", "0,1,1"], "three numbers above 0"),
        (["--crop-pct", "0"], "a number from 0.1 to 1"),
        (["--interpolation", "cubist"], "bicubic"),
        (["--model-args", "depths"], "--model-args is 'depths'"),
        (["--model-args", "depth=(1,)"], "Correct `--model-args`"),
        (["--weights", "gone.safetensors"], "gone.safetensors"),
    ],
)
def test_values_of_options(deploy: Fails, photos: Path, more: list[str], message: str) -> None:
    assert message in deploy("--data", photos, *more)


@pytest.mark.parametrize("command", ["evaluate", "benchmark", "inspect", "classify"])
def test_threads_of_the_steps(command: str, fails: Fails, finished_run: Path, photos: Path) -> None:
    inputs: dict[str, list[Any]] = {"classify": [photos / "class_0/0.png"], "evaluate": ["--data", photos]}
    more = inputs.get(command, [])
    assert "--threads is '0'" in fails(command, finished_run / "onnx-float", *more, "--threads", 0)


def test_recipe_with_mistakes(deploy: Fails, photos: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "mine.toml"
    recipe.write_text('name = "mine"\ndescription = "x"\nestimatr = "minmax"\n')
    message = deploy("--data", photos, "--recipe", recipe)
    assert "mine.toml: unknown key 'estimatr'" in message
    assert "Did you mean 'estimator'?" in message
    table = ["[onnx]", 'rewrites = ["chanels-last"]', 'activations = "uint8"']
    more = ["quantize_outputs = false", "quantize_depthwise = false"]
    recipe.write_text("\n".join(['name = "mine"', 'description = "x"', *table, *more]))
    message = deploy("--data", photos, "--recipe", recipe)
    assert "mine.toml: [onnx] rewrites: unknown pass 'chanels-last'" in message
    assert "Did you mean 'channels-last'?" in message


def test_weights_of_another_shape(fails: Fails, photos: Path, tiny_weights: Path) -> None:
    wider = "depths=(1,1,1,1),dims=(8,16,32,72),num_classes=10"
    message = fails(
        "deploy", "convnextv2_atto", "--model-args", wider, "--weights", tiny_weights, "--imgsz", 32, "--data", photos
    )
    assert tiny_weights.name in message
    assert "stages.3.blocks.0.conv_dw.weight: file [64, 1, 7, 7], model [72, 1, 7, 7]" in message


def test_nan_in_weights(fails: Fails, photos: Path, tmp_path: Path, tiny_convnext: Any) -> None:
    from safetensors.torch import save_file

    state = {name: value.clone() for name, value in tiny_convnext.module.state_dict().items()}
    state["stages.2.blocks.0.mlp.fc1.bias"][3] = float("nan")
    save_file(state, tmp_path / "nan.safetensors")
    message = fails("deploy", *TINY_MODEL, "--weights", tmp_path / "nan.safetensors", "--data", photos)
    assert "stages.2.blocks.0.mlp.fc1.bias" in message


FACTORY = """
import torch

class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv = torch.nn.Conv2d(3, 8, 4, 4)
        self.head = torch.nn.Linear(8, 10)

    def forward(self, x):
        BODY
        return self.head(torch.relu(self.conv(x)).mean((2, 3)))
"""


@pytest.mark.parametrize("index", [0, 19, 39], ids=["of test vectors", "calibrated on", "evaluated on"])
def test_nan_in_outputs(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], index: int
) -> None:
    """For one black image of forty."""
    (tmp_path / "nan_model.py").write_text(FACTORY.replace("BODY", "x = x / x.std((1, 2, 3), keepdim=True)"))
    monkeypatch.chdir(tmp_path)
    data = tmp_path / "data"
    shutil.copytree(photos, data)
    order = select(Dataset.open(data, [f"class_{label}" for label in range(10)]), None, seed=0).samples
    Image.fromarray(np.zeros((40, 40, 3), np.uint8)).save(data / order[index].name)
    job = ["--imgsz", "32", "--data", "data", "--mean", "0,0,0", "--std", "1,1,1", "--num-calibration-samples", "20"]
    assert main(["deploy", "nan_model:Model", *job, "--target", "onnx", "-o", "run"]) == 2
    err = capfd.readouterr().err
    assert "edgekit: error: model 'nan_model:Model' returns NaN or infinity for a real image" in err
    assert "Traceback" not in err


def test_a_model_that_cannot_be_traced(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "data_dependent.py").write_text(FACTORY.replace("BODY", "x = x if x.sum() > 0 else -x"))
    monkeypatch.chdir(tmp_path)
    arguments = ["deploy", "data_dependent:Model", "--imgsz", "32", "--data", str(photos), "-o", "run"]
    assert main([*arguments, "--target", "onnx"]) == 2
    err = capfd.readouterr().err
    assert "edgekit: error: torch.export can't trace model 'data_dependent:Model': " in err
    assert "Traceback" not in err


def test_an_output_with_other_files(deploy: Fails, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("mine")
    message = deploy("--data", photos, output=tmp_path / "mine")
    assert "(thesis.tex)" in message
    assert [file.name for file in (tmp_path / "mine").iterdir()] == ["thesis.tex"]


def test_an_output_that_is_a_file(deploy: Fails, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    assert f"the output '{tmp_path / 'file'}' is a file" in deploy("--data", photos, output=tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"


def test_a_read_only_output(deploy: Fails, photos: Path, tmp_path: Path) -> None:
    with mounted(tmp_path / "disc", "ro,size=1m") as disc:
        message = deploy("--data", photos, output=disc / "run")
        assert f"can't write '{disc / 'run'}': '{disc}' is read-only" in message


def test_an_output_that_is_in_use(deploy: Fails, photos: Path, tmp_path: Path) -> None:
    from edgekit.support.run_folder import open_run

    with open_run(tmp_path / "run"):
        assert "another edgekit command is using" in deploy("--data", photos, output=tmp_path / "run")


def test_a_missing_package_shows_before_the_work(deploy: Fails, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.import_module

    def missing(name: str) -> Any:
        if name == "jinja2":
            raise ModuleNotFoundError("No module named 'jinja2'", name=name)
        return real(name)

    monkeypatch.setattr(importlib, "import_module", missing)
    message = deploy("--data", photos)
    assert "'jinja2' is not installed" in message
    assert install_command("build") in message


def test_a_missing_runtime(fails: Fails, finished_run: Path, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", None)
    monkeypatch.setitem(sys.modules, "tflite_runtime.interpreter", None)
    message = fails("classify", finished_run / "tflite-int8", photos / "class_0/0.png")
    assert "LiteRT is not installed" in message
    assert install_command("tflite") in message


@pytest.mark.slow
def test_a_disc_that_is_full(
    finished_run: Path, job_arguments: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Room for the first bundles and not for the next: they stay, and with more room the command goes on."""
    with mounted(tmp_path / "disc", "size=1500k") as disc, without_fresh_processes():
        command = ["deploy", *job_arguments, "--target", "openvino", "--target", "onnx", "-o", str(disc / "run")]
        assert main(command) == 2
        err = capfd.readouterr().err
        assert "edgekit: error: can't write " in err
        assert "No space left on device" in err
        assert "Traceback" not in err
        made = sorted(each.name for each in (disc / "run").iterdir() if not each.name.startswith("."))
        assert "openvino-float" in made
        assert "onnx-int8" not in made
        for name in made:
            if "-" in name:
                read_bundle(disc / "run" / name)
        assert not [each for each in (disc / "run").rglob("*") if ".tmp" in each.name or ".compile" in each.name]
        subprocess.run(["mount", "-o", "remount,size=20m", str(disc)], check=True)
        assert main(command) == 0
        assert "openvino-float: reused from an earlier run" in capfd.readouterr().err


@pytest.mark.parametrize("full", ["copyfile", "posix_fallocate", "write_text"])
def test_a_disc_that_becomes_full(
    full: str,
    finished_run: Path,
    job_arguments: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """While a bundle, the cropped images, or a report are written."""
    folder = tmp_path / "run"
    shutil.copytree(finished_run, folder)
    if full == "copyfile":
        shutil.rmtree(folder / "onnx-float")

    def no_room(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    owner: Any = {"copyfile": shutil, "posix_fallocate": os, "write_text": Path}[full]
    before = (folder / "report.json").read_text()
    with pytest.MonkeyPatch.context() as patch, without_fresh_processes():
        patch.setattr(owner, full, no_room)
        assert main(["deploy", *job_arguments, "--target", "onnx", "-o", str(folder)]) == 2
    err = capfd.readouterr().err
    assert "No space left on device" in err
    assert "Traceback" not in err
    assert (folder / "report.json").read_text() == before
    assert not [each for each in folder.rglob("*") if ".tmp" in each.name or "build-" in each.name]


def test_dry_run_checks_everything_and_writes_nothing(
    job_arguments: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import json

    monkeypatch.chdir(tmp_path)
    assert main(["deploy", *job_arguments, "-o", "out", "--dry-run", "--json"]) == 0
    out, err = capfd.readouterr()
    found = json.loads(out)
    assert found["output"] == "out"
    assert (found["calibration_images"], found["evaluation_images"]) == (10, 20)
    assert len(found["bundles"]) == 6
    assert "compile" not in err
    assert main(["deploy", *job_arguments, "--dry-run", "--quiet"]) == 0
    out, err = capfd.readouterr()
    assert "output: runs/convnextv2_atto" in out.splitlines()
    assert [line[:35] for line in err.splitlines()] == ["warning: 10 calibration images are "]
    assert list(tmp_path.iterdir()) == []
