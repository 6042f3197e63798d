"""`edgekit classify` of bundles whose outputs are several labels or vectors."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgekit
from edgekit.cli.main import main
from tests.helpers.tiny import MakeBundle

THRESHOLDS = tuple(0.0 if index in (3, 7) else 1.0 for index in range(10))


def run(capfd: Any, *arguments: object, code: int = 0) -> tuple[str, str]:
    assert main(["classify", *map(str, arguments)]) == code
    found = capfd.readouterr()
    return found.out, found.err


@pytest.fixture
def several(make_bundle: MakeBundle) -> Path:
    return make_bundle("onnx", "several", task="multi-label", activation="sigmoid", thresholds=THRESHOLDS)


@pytest.fixture(params=["normalize", "none"])
def vectors(make_bundle: MakeBundle, request: pytest.FixtureRequest) -> Path:
    return make_bundle("onnx", "vectors", task="embedding", activation=request.param)


def test_labels_above_their_thresholds_are_printed(
    several: Path, make_bundle: MakeBundle, photos: Path, capfd: Any
) -> None:
    images = [photos / "class_0/0.png", photos / "class_1/1.png"]
    out, err = run(capfd, several, *images)
    blocks = out.split(f"{images[1]}\n")
    assert [sorted(line[-7:] for line in block.splitlines()[-2:]) for block in blocks] == [["class 3", "class 7"]] * 2
    assert err == ""
    document = json.loads(run(capfd, several, images[0], "--json", "--top", 1)[0])
    with edgekit.load(several) as session:
        [(label, score)] = session.classify(images[0], top=1)
    assert document["results"] == [{"image": str(images[0]), "top": [{"label": label, "score": score}]}]
    assert len(run(capfd, several, images[0], "--threshold", 0)[0].splitlines()) == 10
    none = make_bundle("onnx", "none", activation="sigmoid", thresholds=(1.0,) * 10)
    assert run(capfd, none, images[0])[0] == "no label reaches its threshold\n"


def test_the_nearest_images_of_a_folder_are_printed(vectors: Path, photos: Path, tmp_path: Path, capfd: Any) -> None:
    image = photos / "class_2/3.png"
    document = json.loads(run(capfd, vectors, image, "--data", photos, "--top", 40, "--json")[0])
    (found,) = document["results"]
    files = sorted(photos.glob("*/*.png"))
    with edgekit.load(vectors) as session:
        rows = np.stack([session.embed(file) for file in files])
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    cosines = rows @ rows[files.index(image)]
    assert [one["cosine"] for one in found["nearest"]] == sorted(
        (one["cosine"] for one in found["nearest"]), reverse=True
    )
    assert {one["image"]: one["cosine"] for one in found["nearest"]} == {
        file.relative_to(photos).as_posix(): pytest.approx(float(cosine), abs=1e-5)
        for file, cosine in zip(files, cosines, strict=True)
    }
    assert (found["nearest"][0]["image"], found["nearest"][0]["label"]) == ("class_2/3.png", "class_2")
    lines = run(capfd, vectors, image, "--data", photos)[0].splitlines()
    assert len(lines) == 5
    assert lines[0].split() == ["1.0000", "class_2/3.png"]


def test_a_folder_may_have_images_without_classes_and_broken_ones(
    vectors: Path, photos: Path, tmp_path: Path, capfd: Any
) -> None:
    image = photos / "class_2/3.png"
    flat = tmp_path / "flat"
    flat.mkdir()
    (flat / "a.png").write_bytes(image.read_bytes())
    (flat / "b.png").write_bytes(b"\x89PNG broken")
    out, err = run(capfd, vectors, image, "--data", flat, "--json")
    (found,) = json.loads(out)["results"]
    assert [(one["image"], one["label"]) for one in found["nearest"]] == [("a.png", None)]
    assert err.count("warning: skipped") == 1
    (flat / "a.png").unlink()
    assert "no image that can be read" in run(capfd, vectors, image, "--data", flat, code=2)[1]


def test_the_message_says_what_to_add_or_leave_out(vectors: Path, several: Path, photos: Path, capfd: Any) -> None:
    image = photos / "class_0/0.png"
    assert "--data FOLDER" in run(capfd, vectors, image, code=2)[1]
    assert "Leave out `--data`" in run(capfd, several, image, "--data", photos, code=2)[1]
