"""What a user can get wrong at the command line: exit code 2, one message, no traceback, nothing written."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from edgekit.cli.main import main
from edgekit.models.demo import assets
from tests.helpers import fake_runtime
from tests.helpers.tiny import TINY_VIT

TINY = "depths=(1,1,1,1),dims=(8,16,32,64),num_classes=10"


@pytest.fixture
def fake() -> Iterator[None]:
    with fake_runtime.added():
        yield


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ten classes of four small images."""
    folder = tmp_path_factory.mktemp("images")
    random = np.random.default_rng(0)
    for name in (assets() / "labels.txt").read_text().split():
        (folder / name).mkdir()
        for index in range(4):
            Image.fromarray(random.integers(0, 256, (32, 32, 3), np.uint8)).save(folder / name / f"{index}.png")
    return folder


def tiny(images: Path, *more: str) -> list[str]:
    """A deploy command of a tiny network, complete but for what a test adds."""
    return job(["convnextv2_atto", "--model-args", TINY, "--imgsz", "32"], images, *more)


def job(model: list[str], images: Path, *more: str) -> list[str]:
    names = str(assets() / "labels.txt")
    return ["deploy", *model, "--weights", "random", "--data", str(images), "--labels", names, "--quiet", *more]


def refused(command: list[str], capfd: pytest.CaptureFixture[str], *parts: str, output: Path | None = None) -> None:
    """Run the command: it must end with 2 and a message that contains `parts`, and leave no output behind."""
    capfd.readouterr()
    assert main(command) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert "Traceback" not in err
    assert err.count("edgekit: error: ") == 1
    for part in parts:
        assert part in err
    if output is not None:
        assert not output.exists()


def test_no_data(capfd: pytest.CaptureFixture[str]) -> None:
    refused(["deploy", "convnextv2_atto", "--weights", "random"], capfd, "--data")


def test_missing_data(images: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    refused(tiny(tmp_path / "nowhere", "-o", str(run)), capfd, "nowhere", output=run)


def test_empty_data(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty" / "cat").mkdir(parents=True)
    (tmp_path / "empty" / "cat" / "notes.txt").write_text("no image")
    run = tmp_path / "run"
    refused(tiny(tmp_path / "empty", "-o", str(run)), capfd, "no images", output=run)


def test_classes_that_do_not_match(images: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    other = tmp_path / "other"
    shutil.copytree(images, other)
    (other / "cat").rename(other / "unicorn")
    refused(tiny(other, "-o", str(tmp_path / "run")), capfd, "unicorn", output=tmp_path / "run")


@pytest.mark.parametrize("option", ["--num-calibration-samples", "--num-eval-samples"])
def test_fewer_images_than_asked(images: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], option: str) -> None:
    refused(tiny(images, option, "4000", "-o", str(tmp_path / "run")), capfd, "4000", "40", output=tmp_path / "run")


def test_every_image_corrupt(images: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(images, broken)
    for path in broken.rglob("*.png"):
        path.write_bytes(path.read_bytes()[:100])
    refused(tiny(broken, "-o", str(tmp_path / "run")), capfd, "can't be read", output=tmp_path / "run")


@pytest.mark.parametrize(
    ("given", "part"),
    [
        (["--target", "tflit"], "Did you mean 'tflite'"),
        (["--recipe", "convnextv3"], "convnextv2"),
        (["--device-class", "raspberry-pi-6"], "raspberry-pi-5"),
        (["--device", "pi5"], "local"),
        (["--threads", "0"], "--threads is '0'"),
        (["--precision", "int4"], "float, int8"),
        (["--imgsz", "big"], "--imgsz is 'big'"),
        (["--mean", "1,2"], "--mean is '1,2'"),
        (["--model-args", "depths"], "depths"),
        (["--iterations", "many"], "many"),
        (["--no-such-option"], "--no-such-option"),
    ],
)
def test_wrong_option(
    images: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], given: list[str], part: str
) -> None:
    refused(tiny(images, "-o", str(tmp_path / "run"), *given), capfd, part, output=tmp_path / "run")


def test_unknown_model(images: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    refused(["deploy", "convnextv2_ato", "--data", str(images), "-o", str(run)], capfd, "convnextv2_atto", output=run)


def test_weights_of_another_shape(images: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    command = tiny(images, "-o", str(tmp_path / "run"))
    command[command.index("random")] = str(assets() / "convnextv2_cifar10.safetensors")
    refused(command, capfd, "don't fit", output=tmp_path / "run")


def test_weights_with_nan(images: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    state = load_file(assets() / "convnextv2_cifar10.safetensors")
    state["head.fc.weight"][0, 0] = torch.nan
    save_file(state, tmp_path / "nan.safetensors")
    command = ["demo", "--weights", str(tmp_path / "nan.safetensors"), "-o", str(tmp_path / "run")]
    refused(command, capfd, "head.fc.weight", output=tmp_path / "run")


def test_output_with_something_else(images: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    refused(tiny(images, "-o", str(tmp_path)), capfd, "thesis.txt")
    assert [each.name for each in tmp_path.iterdir()] == ["thesis.txt"]


def test_output_is_a_file(images: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run").write_text("mine")
    refused(tiny(images, "-o", str(tmp_path / "run")), capfd, "file")
    assert (tmp_path / "run").read_text() == "mine"


def test_classify_a_corrupt_image(make_bundle: object, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    bundle = make_bundle("onnx")  # type: ignore[operator]
    (tmp_path / "cat.jpg").write_bytes(b"\xff\xd8 not a picture")
    refused(["classify", str(bundle), str(tmp_path / "cat.jpg")], capfd, "cat.jpg")


def test_not_a_bundle(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    refused(["inspect", str(tmp_path)], capfd, "not a bundle")


def test_dry_run_writes_nothing(images: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(tiny(images, "--dry-run", "--json", "-o", str(tmp_path / "run"))) == 0
    planned = json.loads(capfd.readouterr().out)
    assert len(planned["bundles"]) == 6
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("fake")
def test_the_whole_job_with_corrupt_images(images: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    data, run = tmp_path / "data", tmp_path / "run"
    shutil.copytree(images, data)
    for name in ("cat/0.png", "dog/1.png"):
        (data / name).write_bytes(b"\x89PNG broken")
    counts = ("--num-calibration-samples", "8", "--iterations", "20", "--warmup", "2")
    more = ("--target", "fake", *counts, "--min-speedup", "0")
    assert main(job(TINY_VIT, data, *more, "-o", str(run), "--json")) == 0
    out, err = capfd.readouterr()
    report = json.loads(out)
    passed_over = {each["name"] for part in ("calibration", "evaluation") for each in report[part]["unreadable"]}
    assert passed_over == {"cat/0.png", "dog/1.png"}
    assert "cat/0.png" in err
    assert [row["verdict"] for row in report["results"]] == ["pass"] * 2
    assert report["evaluation"]["overlap_with_calibration"] == 0
    assert report["model"]["accuracy_meaningful"] is False
    assert sorted(each.name for each in run.iterdir() if not each.name.startswith(".")) == [
        "calibration.json", "fake-float", "fake-int8", "report.csv", "report.html", "report.json",
    ]  # fmt: skip

    image = str(next((images / "cat").iterdir()))
    bundles = [str(run / name) for name in ("fake-float", "fake-int8")]
    for command in (
        ["classify", bundles[0], image, "--json"],
        ["evaluate", *bundles, "--data", str(images), "--json"],
        ["benchmark", *bundles, "--iterations", "10", "--json"],
        ["inspect", bundles[1], "--json"],
        ["report", str(run), "--json"],
        ["targets", "--json"],
    ):
        assert main(command) == 0, command
        json.loads(capfd.readouterr().out)
        assert main([each for each in command if each != "--json"]) == 0, command
        assert capfd.readouterr().out
