"""Images without labels: deploy and evaluate judge the agreement with float."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from edgekit.cli.main import main
from tests.helpers import fake_runtime
from tests.helpers.sharing import made_once
from tests.helpers.tiny import TINY_VIT

AGREEMENT = "agreement with float"


def run(capfd: Any, *arguments: object, code: int = 0) -> tuple[str, str]:
    with fake_runtime.added():
        assert main([str(each) for each in arguments]) == code
    found = capfd.readouterr()
    return " ".join(found.out.split()), found.err


def run_json(capfd: Any, *arguments: object, code: int = 0) -> Any:
    with fake_runtime.added():
        assert main([str(each) for each in (*arguments, "--json")]) == code
    return json.loads(capfd.readouterr().out)


@pytest.fixture(scope="session")
def flat(photos: Path, shared_folder: Path) -> Path:
    """The images of `photos` in one folder, and a file that is no image."""

    def make(folder: Path) -> None:
        for photo in photos.glob("*/*.png"):
            shutil.copy(photo, folder / f"{photo.parent.name}-{photo.name}")
        (folder / "broken.png").write_bytes(b"no image")

    return made_once(shared_folder, "flat", make)


@pytest.fixture
def job(vit_weights: Path, flat: Path, tmp_path: Path) -> list[str]:
    counts = ["--num-calibration-samples", "10", "--iterations", "5", "--warmup", "1", "--min-speedup", "0"]
    model = [*TINY_VIT, "--weights", str(vit_weights), "--target", "fake", "--threads", "1"]
    return ["deploy", *model, *counts, "--data", str(flat), "-o", str(tmp_path / "run")]


def wrong_bundle(weights: Path, flat: Path, folder: Path, capfd: Any) -> Path:
    """A bundle of a network that never gives the class which that of the weights gives."""
    from safetensors.torch import load_file, save_file

    state = load_file(weights)
    rolled = {name: each.roll(1, 0) if name.startswith("head.") else each for name, each in state.items()}
    save_file(rolled, folder / "rolled.safetensors")
    model = [*TINY_VIT, "--weights", folder / "rolled.safetensors", "--target", "fake", "--data", flat]
    run(capfd, "compile", *model, "-o", folder / "wrong")
    return folder / "wrong" / "fake-float"


def test_bundles_are_judged_by_their_agreement(
    job: list[str], vit_weights: Path, flat: Path, tmp_path: Path, capfd: Any
) -> None:
    report = run_json(capfd, *job, "--min-agreement", "50")
    reference, evaluation = report["reference"], report["evaluation"]
    assert (reference["top1"], reference["chance"], reference["near_chance"]) == (None, None, False)
    assert (reference["score"]["metric"], evaluation["classes"]) == (AGREEMENT, None)
    assert [each["name"] for each in evaluation["unreadable"]] == ["broken.png"]
    int8 = next(row for row in report["results"] if row["precision"] == "int8")
    assert (int8["accuracy"]["top1"], int8["accuracy"]["score"]["metric"]) == (None, AGREEMENT)
    assert int8["accuracy"]["score"]["value"] == int8["accuracy"]["agreement"] > 0.5
    (gate,) = (gate for gate in int8["gates"] if gate["name"] == "min-agreement")
    assert (gate["verdict"], gate["limit"], gate["whole_interval"]) == ("pass", 0.5, True)

    out, _ = run(capfd, "report", tmp_path / "run")
    assert "The images have no labels. Agreement with float is" in out or "Ship fake-float" in out
    assert "top-1" not in out

    bundles = [tmp_path / "run" / name for name in ("fake-float", "fake-int8")]
    out, err = run(capfd, "evaluate", *bundles, "--data", flat, "--min-agreement", "50")
    assert f"'{flat}' states no labels, so agreement with float is judged instead of accuracy" in err
    assert f"The 40 images have no labels, so accuracy isn't known. {bundles[1]}: {AGREEMENT}" in out
    wrong = wrong_bundle(vit_weights, flat, tmp_path, capfd)
    judged = run_json(capfd, "evaluate", bundles[0], wrong, "--data", flat, code=1)["results"]
    assert [row["verdict"] for row in judged] == ["pass", "fail"]
    assert "but at least 95 % is required" in judged[1]["reasons"][0]
    _, err = run(capfd, "evaluate", bundles[1], "--data", flat, code=2)
    assert "--reference BUNDLE" in err


def test_few_images_cannot_show_the_usual_agreement(job: list[str], capfd: Any) -> None:
    out, _ = run(capfd, *job, code=1)
    assert "fake-int8 is inconclusive. Not confirmed: the agreement may be" in out
    assert "Add images and run the same command again" in out


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--max-drop", "1"], ["--max-drop is a bound on the loss of accuracy", "--min-agreement PERCENT"]),
        (["--task", "multi-label"], ["41 images outside a class folder"]),
    ],
)
def test_what_images_without_labels_cannot_show(
    job: list[str], options: list[str], words: list[str], capfd: Any
) -> None:
    _, err = run(capfd, *job, *options, code=2)
    assert all(each in err for each in words)


def test_agreement_is_no_gate_for_images_with_labels(job: list[str], photos: Path, capfd: Any) -> None:
    _, err = run(capfd, *job, "--data", photos, "--min-agreement", "90", code=2)
    assert "these have labels" in err


def test_some_labels_are_neither(job: list[str], photos: Path, tmp_path: Path, capfd: Any) -> None:
    some = tmp_path / "some"
    shutil.copytree(photos, some)
    (some / "class_0" / "0.png").rename(some / "0.png")
    _, err = run(capfd, *job, "--data", some, code=2)
    assert "1 images outside a class folder, such as '0.png', of its 40 images" in err
    assert "a label for each image, or for none" in err


def test_a_soup_is_chosen_on_labels(vit_weights: Path, flat: Path, tmp_path: Path, capfd: Any) -> None:
    members = [tmp_path / "one.safetensors", tmp_path / "two.safetensors"]
    for member in members:
        shutil.copy(vit_weights, member)
    options = ["--data", flat, "--model", *TINY_VIT, "-o", tmp_path / "soup.safetensors"]
    _, err = run(capfd, "soup", *members, *options, code=2)
    assert "states no label" in err
