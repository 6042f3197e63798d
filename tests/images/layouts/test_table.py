"""CSV and TSV files of paths and labels."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from edgekit.errors import DataError, ImageError
from edgekit.images.dataset import Dataset
from edgekit.images.selection import select
from tests.helpers.layouts import image_bytes, write_folder, write_table
from tests.helpers.refusals import refuses

LABELS = ["cat", "dog", "owl"]
NAMES = ["a.png", "b c.png", "in/c.png"]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with three images."""
    return write_folder(tmp_path / "set", {name: image_bytes(seed) for seed, name in enumerate(NAMES)})


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("header", [("path", "label"), ("Category", "File_Name"), ("id", "image", "target")])
def test_delimiters_and_names_of_columns(place: Path, delimiter: str, header: tuple[str, ...]) -> None:
    cells = [("1", name, label) for name, label in zip(NAMES, ["dog", "cat", "owl"], strict=True)]
    if header[0] == "Category":
        rows: list[tuple[str, ...]] = [(label, name) for _, name, label in cells]
    else:
        rows = [row[3 - len(header) :] for row in cells]
    dataset = Dataset.open(write_table(place / "set.csv", [header, *rows], delimiter), LABELS)
    assert [(sample.name, sample.label) for sample in dataset.samples] == [
        ("a.png", 1),
        ("b c.png", 0),
        ("in/c.png", 2),
    ]
    assert [dataset.read(sample) for sample in dataset.samples] == [image_bytes(seed) for seed in range(3)]


@pytest.mark.parametrize("column", ["id", "image_id", "name"])
def test_identifiers_name_files_below(tmp_path: Path, column: str) -> None:
    names = ["train/a1.png", "train/b2.png", "c3.png", "train/d4.png", "test/d4.png"]
    place = write_folder(tmp_path / "set", {name: image_bytes(seed) for seed, name in enumerate(names)})
    rows = [("a1", "dog"), ("b2.png", "cat"), ("c3", "owl")]
    dataset = Dataset.open(write_table(place / "train.csv", [(column, "label"), *rows]), LABELS)
    assert [(sample.name, sample.label) for sample in dataset.samples] == [
        ("c3.png", 2),
        ("train/a1.png", 1),
        ("train/b2.png", 0),
    ]
    dataset = Dataset.open(write_table(place / "two.csv", [(column, "label"), *rows, ("d4", "cat")]), LABELS)
    assert [name for name, _ in select(dataset, 3, 0).unreadable] in ([], ["d4"])
    with refuses(ImageError, "d4"):
        dataset.image(next(sample for sample in dataset.samples if "d4" in sample.name))


@pytest.mark.parametrize(
    ("labels", "model", "indices"),
    [
        (["0", "2", "1"], LABELS, [0, 2, 1]),
        (["1", "0", "1"], ["1", "0", "owl"], [0, 1, 0]),  # names of classes, not indices
        (["cat", "cat", "owl"], LABELS, [0, 0, 2]),
    ],
)
def test_labels_are_names_or_indices(place: Path, labels: list[str], model: list[str], indices: list[int]) -> None:
    rows = [("path", "label"), *zip(NAMES, labels, strict=True)]
    dataset = Dataset.open(write_table(place / "set.csv", rows), model)
    assert [sample.label for sample in dataset.samples] == indices
    assert dataset.assumption is None


def test_an_index_out_of_range(place: Path) -> None:
    table = write_table(place / "set.csv", [("path", "label"), *zip(NAMES, "123", strict=True)])
    with refuses(DataError, "label 3", "3 classes") as caught:
        Dataset.open(table, LABELS)
    assert "from 0 to 2" in caught.value.valid


def test_a_missing_file_is_skipped_and_counted(place: Path, tmp_path: Path) -> None:
    rows = [("path", "label"), (NAMES[0], "cat"), ("gone.png", "dog"), ("", ""), (NAMES[2], "owl")]
    dataset = Dataset.open(write_table(place / "set.csv", rows), LABELS)
    chosen = select(dataset, 0, 0)
    assert sorted(sample.name for sample in chosen.samples) == ["a.png", "in/c.png"]
    ((name, reason),) = chosen.unreadable
    assert name == "gone.png"
    assert reason == "can't read image 'gone.png': No such file or directory"
    assert str(tmp_path) not in reason
    with pytest.raises(ImageError, match=r"set\.csv/gone\.png"):
        dataset.image(dataset.samples[1])


def test_paths_that_start_elsewhere(place: Path) -> None:
    (place / "tables").mkdir()
    table = write_table(place / "tables/set.csv", [("path", "label"), *((name, "cat") for name in NAMES)])
    with refuses(DataError, 3, "'a.png'") as caught:
        Dataset.open(table, LABELS)
    assert f"'{place / 'tables'}'" in caught.value.fix


@pytest.mark.parametrize("prefix", ["..", "absolute"])
def test_images_outside_the_folder_of_the_csv(place: Path, prefix: str) -> None:
    (place / "tables").mkdir()
    start = str(place) if prefix == "absolute" else prefix
    rows = [("path", "label"), *((f"{start}/{name}", "cat") for name in NAMES)]
    dataset = Dataset.open(write_table(place / "tables/set.csv", rows), LABELS)
    assert [sample.name for sample in dataset.samples] == NAMES, "no local folder, because reports contain names"
    assert dataset.read(dataset.samples[0]) == image_bytes(0)


def test_rows_without_a_label(place: Path) -> None:
    table = write_table(place / "set.csv", [("path", "label"), ("a.png", "cat"), ("b c.png", ""), ("in/c.png",)])
    with refuses(DataError, 2, "'b c.png'") as caught:
        Dataset.open(table, LABELS)
    assert "Write their labels" in caught.value.fix


def test_a_row_twice_and_an_image_with_two_labels(place: Path) -> None:
    rows = [("path", "label"), ("a.png", "cat"), ("./a.png", "cat"), ("in/c.png", "owl")]
    assert len(Dataset.open(write_table(place / "set.csv", rows), LABELS).samples) == 2
    table = write_table(place / "set.csv", [*rows, ("a.png", "dog")])
    with refuses(DataError, "'a.png'", "'cat', 'dog'", "--task multi-label"):
        Dataset.open(table, LABELS, "one")
    assert [sample.labels for sample in Dataset.open(table, LABELS).samples] == [(0, 1), (2,)]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "its first line has nothing"),
        (b"key,label\n1,cat\n", "no column with the paths of images: its first line has 'key', 'label'"),
        (b"path,text\na.png,cat\n", "no column with the labels of images: its first line has 'path', 'text'"),
        (b"a.png,cat\nin/c.png,owl\n", "no column with the paths"),
        (b"path,label\n", "contains no images"),
        (b"path,label\n,cat\n", "line 2 of .* has no path"),
        (b"path,label\na.png,\xff\xfe\n", "can't decode byte"),
        (b"path,label,split\na.png,cat,train\nin/c.png,owl,fold1\n", "1 entries of .* have the split 'fold1', and"),
        (
            b"path,label,split\na.png,cat,train\nin/c.png,owl,\n",
            "1 entries of .* have no split, and others have 'train'",
        ),
    ],
)
def test_tables_that_can_not_be_used(place: Path, content: bytes, problem: str) -> None:
    (place / "set.csv").write_bytes(content)
    with pytest.raises(DataError, match=problem) as caught:
        Dataset.open(place / "set.csv", LABELS)
    assert caught.value.valid or caught.value.fix


def test_a_byte_order_mark_and_another_suffix(place: Path) -> None:
    (place / "set.TSV").write_bytes(b"\xef\xbb\xbfpath\tlabel\r\na.png\tcat\r\n")
    assert len(Dataset.open(place / "set.TSV", LABELS).samples) == 1


SEVERAL = [(0, 1), (1,), (0, 1, 2)]


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("form", ["list", "JSON", "rows", "columns"])
def test_several_labels_for_each_image(place: Path, form: str, delimiter: str) -> None:
    names = [[LABELS[index] for index in indices] for indices in SEVERAL]
    separator = "|" if delimiter == ";" else ";"
    rows: dict[str, list[Sequence[object]]] = {
        "list": [["path", "label"], *([path, separator.join(each)] for path, each in zip(NAMES, names, strict=True))],
        "JSON": [["path", "labels"], *([path, json.dumps(each)] for path, each in zip(NAMES, names, strict=True))],
        "rows": [["path", "label"], *([path, name] for path, each in zip(NAMES, names, strict=True) for name in each)],
        "columns": [
            ["", "image", *LABELS],
            *([7, path, *(int(name in each) for name in LABELS)] for path, each in zip(NAMES, names, strict=True)),
        ],
    }
    dataset = Dataset.open(write_table(place / "set.csv", rows[form], delimiter), LABELS)
    assert dataset.labelling == "several"
    assert [sample.labels for sample in dataset.samples] == SEVERAL
    assert dataset.assumption is None
    assert [dataset.read(sample) for sample in dataset.samples] == [image_bytes(seed) for seed in range(3)]


def test_columns_of_classes_in_another_order_than_the_outputs(place: Path) -> None:
    rows = [("path", "Owl", "split", "cat", "dog"), ("a.png", 0, "val", 1.0, "True"), ("b c.png", 1, "val", 0.0, "0")]
    dataset = Dataset.open(write_table(place / "set.csv", rows), LABELS)
    assert [sample.labels for sample in dataset.samples] == [(0, 1), (2,)]
    unnamed = Dataset.open(place / "set.csv", ["class_0", "class_1", "class_2"])
    assert [sample.labels for sample in unnamed.samples] == [(1, 2), (0,)]
    assert unnamed.class_names == ("Owl", "cat", "dog")
    assert "0 = Owl, 1 = cat, 2 = dog" in str(unnamed.assumption)


@pytest.mark.parametrize(
    ("rows", "facts"),
    [
        ([("path", "cat", "dog", "width"), ("a.png", 1, 0, 640)], ["'width'", "'640'", "line 2"]),
        ([("path", "cat", "dog"), ("a.png", 1, 0), ("b c.png", 1)], ["'dog'", "line 3"]),
        ([("path", "cat", "fox"), ("a.png", 1, 1)], ["'fox'", "3 classes"]),
        ([("path", "label"), ("a.png", "cat|fox")], ["'fox'", "3 classes"]),
    ],
)
def test_several_labels_that_can_not_be_used(place: Path, rows: list[tuple[object, ...]], facts: list[str]) -> None:
    with refuses(DataError, *facts):
        Dataset.open(write_table(place / "set.csv", rows), LABELS)


def test_rows_of_zeros_and_ones_for_the_same_image_are_joined(place: Path) -> None:
    rows = [("path", *LABELS), ("a.png", 1, 0, 0), ("a.png", 0, 0, 1), ("in/c.png", 0, 1, 0)]
    dataset = Dataset.open(write_table(place / "set.csv", rows), LABELS)
    assert [sample.labels for sample in dataset.samples] == [(0, 2), (1,)]
