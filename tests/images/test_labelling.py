"""Sets with one label for each image, with several, and with labels in all images or in none."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from edgekit.config.runtimes import Labelling
from edgekit.errors import DataError
from edgekit.images.dataset import UNLABELLED, Dataset, Datasets
from edgekit.images.selection import missing_classes, select
from edgekit.measure.accuracy import evaluated_classes
from tests.helpers.layouts import image_bytes, write_folder, write_parquet, write_table, write_tar, write_zip
from tests.helpers.refusals import refuses

CLASSES = ["cat", "dog", "owl"]
PIXELS = np.random.default_rng(0).integers(0, 256, (4, 5, 7, 3), dtype=np.uint8)
EXPECTED = [(0, 2), (1,), (2,), (0, 1, 2)]
"""Classes of the four images in most tests."""


def in_memory(labels: Sequence[Any]) -> list[tuple[Any, Any]]:
    return list(zip(PIXELS, labels, strict=True))


def classes_of(dataset: Dataset) -> list[tuple[int, ...]]:
    return [sample.labels for sample in dataset.samples]


@pytest.mark.parametrize(
    "labels",
    [
        [["cat", "owl"], ["dog"], "owl", ("owl", "cat", "dog")],
        [[0, 2], [1], 2, [2, 1, 0, 1]],
        [np.array([0, 2]), np.array([1]), np.array([2]), np.array([0, 1, 2])],
        [[1, 0, 1], [0, 1, 0], [0, 0, 1], [1, 1, 1]],
        list(torch.tensor([[1, 0, 1], [0, 1, 0], [0, 0, 1], [1, 1, 1]]).float()),
        list(np.array([[1, 0, 1], [0, 1, 0], [0, 0, 1], [1, 1, 1]], bool)),
        ["cat|owl", "dog", "owl", "cat;dog;owl"],
        ['["cat", "owl"]', "dog", '["owl"]', '["owl","dog","cat"]'],
    ],
    ids=["names", "indices", "arrays", "multi-hot lists", "multi-hot tensors", "multi-hot bools", "texts", "JSON"],
)
def test_every_way_to_write_several_labels(labels: list[Any]) -> None:
    dataset = Dataset.open(in_memory(labels), CLASSES)
    assert dataset.labelling == "several"
    assert classes_of(dataset) == EXPECTED
    targets = dataset.targets(dataset.samples[::-1])
    assert targets.dtype == np.bool_
    assert targets.tolist() == [[1, 1, 1], [0, 0, 1], [0, 1, 0], [1, 0, 1]]


def test_lists_of_zeros_and_ones_that_are_no_vectors() -> None:
    """[0, 1] lists the first two of three classes, and is a multi-hot vector of two."""
    labels = [[0, 1], [1, 0], [0, 1], [0, 1]]
    assert classes_of(Dataset.open(in_memory(labels), CLASSES)) == [(0, 1)] * 4
    assert [sample.label for sample in Dataset.open(in_memory(labels), CLASSES[:2]).samples] == [1, 0, 1, 1]


def test_an_image_is_chosen_by_its_rarest_class() -> None:
    labels = [["cat", "dog"], ["cat", "dog", "owl"], ["cat"], ["dog", "cat"]]
    dataset = Dataset.open(in_memory(labels), CLASSES)
    assert [sample.class_name for sample in dataset.samples] == ["dog", "owl", "cat", "dog"]
    assert [sample.label for sample in dataset.samples] == [1, 2, 0, 1]
    assert {sample.class_name for sample in select(dataset, 3, 0).samples} == {*CLASSES}
    other_order = Dataset.open(in_memory(labels), CLASSES[::-1])
    assert select(other_order, None, 0).hashes == select(dataset, None, 0).hashes


def test_a_name_with_a_separator_is_one_label() -> None:
    names = ["maple; red", "maple; silver", "oak"]
    dataset = Dataset.open(in_memory([*names, "oak"]), names)
    assert dataset.labelling == "one"
    assert [sample.label for sample in dataset.samples] == [0, 1, 2, 2]
    listed = Dataset.open(in_memory([["oak", "maple; red"], *names]), names)
    assert classes_of(listed) == [(0, 2), (0,), (1,), (2,)]


@pytest.mark.parametrize("labelling", ["one", "optional"])
def test_several_labels_where_one_is_expected(labelling: Labelling) -> None:
    with refuses(DataError, "1 images", "'cat', 'owl'", "--task multi-label"):
        Dataset.open(in_memory([["cat", "owl"], "dog", "owl", "cat"]), CLASSES, labelling)


@pytest.mark.parametrize("labels", [[[1], [0], [2], [1]], [[0, 1, 0], [1, 0, 0], [0, 0, 1], [0, 1, 0]]])
@pytest.mark.parametrize("labelling", [None, "one"])
def test_lists_of_one_label(labels: list[list[int]], labelling: Labelling | None) -> None:
    """Such as the one-hot vectors of classes that exclude each other."""
    dataset = Dataset.open(in_memory(labels), CLASSES, labelling)
    assert dataset.labelling == "one"
    assert [sample.label for sample in dataset.samples] == [1, 0, 2, 1]
    assert classes_of(Dataset.open(in_memory(labels), CLASSES, "several")) == [(1,), (0,), (2,), (1,)]


def test_a_label_may_have_separators_if_its_name_means_nothing() -> None:
    """The labels of an embedding's images are compared with each other only."""
    dataset = Dataset.open(in_memory(["mug; blue", "mug; red", "mug; blue", "pen|red"]), ["0", "1"], "optional")
    assert [sample.label for sample in dataset.samples] == [0, 1, 0, 2]


def test_one_label_for_each_image_of_a_set_with_several() -> None:
    dataset = Dataset.open(in_memory(["cat", "dog", "owl", "cat"]), CLASSES, "several")
    assert dataset.targets(dataset.samples).tolist() == np.eye(3, dtype=bool)[[0, 1, 2, 0]].tolist()


NAMED = [["cat", "owl"], ["dog"], ["owl"]]


@pytest.mark.parametrize("empty", [[], "", "[]", np.array([], np.int64), [0, 0, 0]], ids=str)
def test_an_image_that_has_none_of_several_labels_is_a_negative(empty: Any) -> None:
    others = [[1, 0, 1], [0, 1, 0], [0, 0, 1]] if len(empty) == 3 else NAMED
    dataset = Dataset.open(in_memory([*others, empty]), CLASSES)
    assert classes_of(dataset) == [(0, 2), (1,), (2,), ()]
    assert dataset.targets(dataset.samples).tolist()[3] == [False] * 3
    assert dataset.classes_of(dataset.samples) == {0, 1, 2}
    everything = select(dataset, None, 0)
    assert len(everything.samples) == 4
    assert missing_classes(dataset, everything) is None
    counted = evaluated_classes(everything.samples, CLASSES)
    assert counted
    assert [each.images for each in counted] == [1, 1, 2]


def test_an_image_about_whose_labels_nothing_is_known_is_refused() -> None:
    with refuses(DataError, "1 images", "'3'", "a list of labels") as caught:
        Dataset.open(in_memory([*NAMED, None]), CLASSES)
    assert "emove" not in str(caught.value)
    assert "eave" not in str(caught.value)


@pytest.mark.parametrize("labels", [[[], [], [], []], ["", "", "", ""], [[0, 0, 0]] * 4])
def test_a_set_that_states_no_label_at_all_is_unlabelled(labels: list[Any]) -> None:
    with refuses(DataError, "4 images", "without a label"):
        Dataset.open(in_memory(labels), CLASSES, "several")
    calibration = Dataset.for_calibration(in_memory(labels), CLASSES, "several")
    one = Dataset.open(in_memory(labels), CLASSES)
    for dataset in (calibration, one):
        assert {sample.label for sample in dataset.samples} == {UNLABELLED}
        assert not dataset.is_labelled
    assert [*one.class_names] == CLASSES
    assert missing_classes(one, select(one, 2, 0)) is None


def unlabelled(place: Path) -> dict[str, Any]:
    """Sets of four images without labels, in all layouts."""
    images = {f"{index}.png": image_bytes(index) for index in range(4)}
    names = [(name,) for name in sorted(images)]
    return {
        "folder": write_folder(place / "folder", images),
        "splits": write_folder(place / "splits", {f"{split}/{name}": each for split in ("train", "val")
                                                  for name, each in images.items()}),
        "CSV": write_table(write_folder(place / "csv", images) / "set.csv", [("path",), *names]),
        "tar": write_tar(place / "set.tar", images),
        "memory": [Image.open(BytesIO(each)) for each in images.values()],
    }  # fmt: skip


@pytest.mark.parametrize("layout", ["folder", "splits", "CSV", "tar", "memory"])
def test_every_layout_may_state_no_label(tmp_path: Path, layout: str) -> None:
    datasets = Datasets.open(unlabelled(tmp_path)[layout], CLASSES)
    assert datasets.evaluation.targets(datasets.evaluation.samples).tolist() == [UNLABELLED] * 4
    assert len(select(datasets.calibration, 2, 0, order="turns").samples) == 2
    assert (datasets.calibration is datasets.evaluation) == (layout != "splits")


def test_parquet_may_state_no_label(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="needs the parquet extra")
    parquet = pytest.importorskip("pyarrow.parquet")
    table = pyarrow.table({"image": [image_bytes(index) for index in range(4)]})
    parquet.write_table(table, tmp_path / "set.parquet")
    assert not Dataset.open(tmp_path / "set.parquet", CLASSES).is_labelled


def test_a_train_split_without_labels_calibrates_what_val_judges(tmp_path: Path) -> None:
    images = {"train/0.png": image_bytes(0), "train/1.png": image_bytes(1)}
    place = write_folder(
        tmp_path, {**images, **{f"val/{name}/0.png": image_bytes(2 + i) for i, name in enumerate("abc")}}
    )
    datasets = Datasets.open(place, ["0", "1", "2"])
    assert not datasets.calibration.is_labelled
    assert datasets.evaluation.class_names == ("a", "b", "c")


def test_an_empty_label_of_a_set_with_one_for_each_image_is_missing() -> None:
    with refuses(DataError, "1 images", "'3'", "or for none", "--task multi-label"):
        Dataset.open(in_memory(["cat", "dog", "owl", ""]), CLASSES)


def empty_rows(place: Path) -> dict[str, Path]:
    """Sets in several layouts whose last image has none of the labels."""
    images = {f"{index}.png": image_bytes(index) for index in range(4)}
    write_folder(place, images)
    table = [("path", "label"), ("0.png", "cat|owl"), ("1.png", "dog"), ("2.png", "owl"), ("3.png", "")]
    bits = [("path", *CLASSES), ("0.png", 1, 0, 1), ("1.png", 0, 1, 0), ("2.png", 0, 0, 1), ("3.png", 0, 0, 0)]
    return {
        "CSV": write_table(place / "set.csv", table),
        "bits": write_table(place / "bits.csv", bits),
        "JSON": write_folder(place / "json", in_files("{}.json", [*JSONS[:3], '{"labels": []}'])),
        "lines": write_tar(place / "set.tar", in_files("{}.cls", ["cat\nowl", "dog", "owl", "\n"])),
    }


@pytest.mark.parametrize("layout", ["CSV", "bits", "JSON", "lines"])
def test_an_empty_row_of_a_set_with_several_labels_is_a_negative(tmp_path: Path, layout: str) -> None:
    assert classes_of(Dataset.open(empty_rows(tmp_path)[layout], CLASSES)) == [(0, 2), (1,), (2,), ()]


@pytest.mark.parametrize("empty", [[], None])
def test_an_empty_row_in_parquet_is_a_negative(tmp_path: Path, empty: Any) -> None:
    pytest.importorskip("pyarrow", reason="needs the parquet extra")
    dataset = Dataset.open(as_parquet([["cat", "owl"], ["dog"], ["owl"], empty])(tmp_path), CLASSES)
    assert classes_of(dataset) == [(0, 2), (1,), (2,), ()]


def test_labels_that_are_no_known_class() -> None:
    with refuses(DataError, "1 of the 4", "'fox'", "3 classes"):
        Dataset.open(in_memory([["cat", "fox"], ["dog"], ["owl"], ["cat"]]), CLASSES)
    with refuses(DataError, "label 3", "from 0 to 2"):
        Dataset.open(in_memory([[0, 3], [1], [2], [0]]), CLASSES)
    with refuses(DataError, "4 zeros and ones", "3 classes"):
        Dataset.open(in_memory([[0, 0, 0, 1], [1, 0, 0, 0], [0, 1, 1, 0], [1, 1, 1, 1]]), CLASSES)


def test_a_class_without_an_evaluation_image_is_named() -> None:
    dataset = Dataset.open(in_memory([["cat", "owl"], ["cat", "dog"], ["cat"], ["cat", "dog"]]), CLASSES)
    everything = select(dataset, None, 0)
    assert missing_classes(dataset, everything) is None
    without = replace(everything, images=tuple(each for each in everything.images if each.sample.name != "0"))
    warning = missing_classes(dataset, without)
    assert warning is not None
    assert warning.startswith(f"1 of the 3 classes of '{dataset.path}' have no evaluation image, such as 'owl': ")


def test_the_classes_of_an_optional_labelling_are_those_of_the_set(tmp_path: Path) -> None:
    place = write_folder(tmp_path / "set", {f"{name}/{i}.png": image_bytes(i) for i, name in enumerate("cab")})
    dataset = Dataset.open(place, [str(index) for index in range(384)], "optional")
    assert [(sample.label, sample.class_name) for sample in dataset.samples] == [(0, "a"), (1, "b"), (2, "c")]
    assert dataset.class_names == ("a", "b", "c")
    assert dataset.assumption is None
    assert dataset.targets(dataset.samples).tolist() == [0, 1, 2]
    numbers = Dataset.open(in_memory([700, 9, 10, 9]), ["0", "1"], "optional")
    assert [sample.label for sample in numbers.samples] == [2, 0, 1, 0]


def test_images_may_all_be_without_a_label_if_labels_are_optional(tmp_path: Path) -> None:
    place = write_folder(tmp_path / "set", {f"{index}.png": image_bytes(index) for index in range(4)})
    datasets = Datasets.open(place, ["0", "1"], "optional")
    assert {sample.label for sample in datasets.evaluation.samples} == {UNLABELLED}
    assert datasets.evaluation.class_names == ()
    assert missing_classes(datasets.evaluation, select(datasets.evaluation, 2, 0)) is None
    write_folder(place, {"cat/4.png": image_bytes(4)})
    with refuses(DataError, "4 images", "'0.png'", "or for none"):
        Dataset.open(place, ["0", "1"], "optional")


def test_calibration_images_of_a_set_with_several_labels_need_none(tmp_path: Path) -> None:
    dataset = Dataset.for_calibration(list(PIXELS), CLASSES, "several")
    assert dataset.labelling == "several"
    assert not dataset.targets(dataset.samples).any()


def in_files(name_of: str, labels: Sequence[str]) -> dict[str, bytes]:
    """Four images by the name of their file, and beside each a file with these contents."""
    return {
        name: content
        for index, text in enumerate(labels)
        for name, content in ((f"{index}.png", image_bytes(index)), (name_of.format(index), text.encode()))
    }


JSONS = ['{"labels": ["cat", "owl"]}', '{"label": "dog"}', '{"Category": "owl", "id": 1}', '{"class": "cat|dog|owl"}']


def as_parquet(labels: Sequence[Any], classes: Sequence[str] = ()) -> Callable[[Path], Path]:
    return lambda place: write_parquet(place / "set.parquet", [*map(image_bytes, range(4))], labels, classes)


LAYOUTS: dict[str, Callable[[Path], Path]] = {
    "JSON beside, in a folder": lambda place: write_folder(place / "set", in_files("{}.json", JSONS)),
    "JSON beside, in a zip": lambda place: write_zip(place / "set.zip", in_files("{}.json", JSONS)),
    "JSON in a tar": lambda place: write_tar(place / "set.tar", in_files("{}.json", JSONS)),
    "lines in a tar": lambda place: write_tar(
        place / "set.tar", in_files("{}.cls", ["cat\nowl\n", "dog", "owl\n", "owl\r\ndog\r\ncat"])
    ),
    "names in Parquet": as_parquet([["cat", "owl"], ["dog"], ["owl"], ["cat", "dog", "owl"]]),
    "indices in Parquet": as_parquet([[0, 2], [1], [2], [0, 1, 2]]),
    "classes in Parquet": as_parquet([[2, 0], [1], [0], [2, 1, 0]], ["owl", "dog", "cat"]),
    "vectors in Parquet": as_parquet([[1.0, 0.0, 1.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [1.0, 1.0, 1.0]]),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_several_labels_in_every_layout(tmp_path: Path, layout: str) -> None:
    if "Parquet" in layout:
        pytest.importorskip("pyarrow", reason="needs the parquet extra")
    dataset = Dataset.open(LAYOUTS[layout](tmp_path), CLASSES)
    assert dataset.labelling == "several"
    assert classes_of(dataset) == EXPECTED
    assert dataset.assumption is None
    assert [dataset.read(sample) for sample in dataset.samples] == [image_bytes(index) for index in range(4)]


def test_splits_of_images_with_a_json_beside_each(tmp_path: Path) -> None:
    members = {
        f"set/{split}/{name}": content
        for split, names in (("train", JSONS[:3]), ("val", JSONS[1:]))
        for name, content in in_files("{}.json", names).items()
    }
    datasets = Datasets.open(write_zip(tmp_path / "set.zip", members), CLASSES)
    assert classes_of(datasets.calibration) == EXPECTED[:3]
    assert classes_of(datasets.evaluation) == EXPECTED[1:]


def test_a_json_that_has_no_label(tmp_path: Path) -> None:
    """Such as the metadata of photos, which doesn't replace the folder of their class."""
    files = in_files("{}.json", ['{"exposure": 1}', "[1", "", '{"label": {"cat": 1}}'])
    place = write_folder(tmp_path / "set", {f"cat/{name}": content for name, content in files.items()})
    assert {sample.class_name for sample in Dataset.open(place, CLASSES).samples} == {"cat"}
    write_folder(place, {"cat/0.json": b'{"label": "dog"}'})
    with refuses(DataError, "3 images", "JSON", "'cat/1.png'"):
        Dataset.open(place, CLASSES)
