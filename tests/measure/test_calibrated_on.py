"""Images that a bundle was calibrated on, recognized by the bundle's manifest or the calibration.json next to it."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from edgekit.config.recipes import Recipe
from edgekit.images.dataset import Dataset
from edgekit.images.selection import DIGITS, Selection, select, short_hashes, write_list
from edgekit.measure.evaluation import calibrated_on, calibration_images
from edgekit.runtime.bundle import Bundle, read_bundle
from tests.helpers.tiny import MakeBundle


@pytest.fixture(scope="module")
def chosen(photos: Path) -> Selection:
    return select(Dataset.open(photos, [f"class_{index}" for index in range(10)]), None, 0)


@pytest.fixture
def calibration(photos: Path) -> Selection:
    return select(Dataset.open(photos, [f"class_{index}" for index in range(10)]), 3, 1)


def names(selection: Selection) -> set[str]:
    return {sample.name for sample in selection.samples}


def bundle(make: MakeBundle, provenance: Mapping[str, object], precision: str = "int8") -> Bundle:
    return read_bundle(make("onnx", precision=precision, provenance=provenance))


def test_the_manifest_tells(make_bundle: MakeBundle, chosen: Selection, calibration: Selection) -> None:
    stored = short_hashes(calibration.hashes)
    assert all(len(digest) == DIGITS for digest in stored)
    record = {"calibration_images": stored, "calibration_sha256": calibration.sha256}
    assert set(calibrated_on(chosen, [bundle(make_bundle, record)]) or ()) == names(calibration)


def test_the_list_beside_the_bundle_tells(
    make_bundle: MakeBundle, chosen: Selection, calibration: Selection, tmp_path: Path
) -> None:
    made = bundle(make_bundle, {"calibration_sha256": calibration.sha256})
    assert calibration_images(made) is calibrated_on(chosen, [made]) is None
    write_list(tmp_path / "calibration.json", chosen, Recipe.load("default"), 0)
    assert calibration_images(made) is None, "the list of another calibration says nothing about this bundle"
    write_list(tmp_path / "calibration.json", calibration, Recipe.load("default"), 0)
    assert set(calibrated_on(chosen, [made]) or ()) == names(calibration)
    for damaged in ("{", "[]", '{"sha256": 3, "images": []}'):
        (tmp_path / "calibration.json").write_text(damaged)
        assert calibration_images(made) is None


def test_float_bundles_have_no_calibration(make_bundle: MakeBundle, chosen: Selection) -> None:
    records: list[dict[str, object]] = [{}, {"calibration_images": [], "calibration_sha256": None}]
    for provenance in records:
        assert calibrated_on(chosen, [bundle(make_bundle, provenance, "float")]) == ()
