"""Sets whose splits train and val are for calibration and evaluation, in every layout."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from edgekit.errors import DataError
from edgekit.images.dataset import Dataset, Datasets
from tests.helpers.layouts import image_bytes, write_folder, write_parquet, write_table, write_tar, write_zip
from tests.helpers.refusals import refuses

LABELS = ["cat", "dog", "owl"]
TRAIN = {f"train/{name}/1.png": image_bytes(seed) for seed, name in enumerate(LABELS)}
VAL = {"val/cat/1.png": image_bytes(5), "val/owl/1.png": image_bytes(6)}
TEST = {"test/dog/1.png": image_bytes(7)}


def classes_of(datasets: Datasets) -> tuple[list[str], list[str]]:
    return (
        [sample.class_name for sample in datasets.calibration.samples],
        [sample.class_name for sample in datasets.evaluation.samples],
    )


def folders(place: Path) -> Path:
    return write_folder(place / "set", TRAIN | VAL)


def zipped(place: Path) -> Path:
    return write_zip(place / "set.zip", {f"photos/{name}": image for name, image in (TRAIN | VAL).items()})


def table(place: Path) -> Path:
    write_folder(place, TRAIN | VAL)
    rows = [(name, name.split("/")[1], name.split("/")[0]) for name in TRAIN | VAL]
    return write_table(place / "set.csv", [("file_name", "Class", "split"), *rows])


def parquet(place: Path) -> Path:
    pytest.importorskip("pyarrow", reason="needs the parquet extra")
    write_parquet(place / "set/data/train-00000-of-00001.parquet", [*TRAIN.values()], [0, 1, 2], LABELS)
    write_parquet(place / "set/data/val-00000-of-00001.parquet", [*VAL.values()], [0, 2], LABELS)
    return place / "set"


def tars(place: Path) -> Path:
    for split, members in (("train", TRAIN), ("val", VAL)):
        for index, (name, image) in enumerate(members.items()):
            content = {"1.png": image, "1.cls": name.split("/")[1].encode()}
            write_tar(place / f"set/{split}-{index:03}.tar", content)
    return place / "set"


@pytest.mark.parametrize("write", [folders, zipped, table, parquet, tars])
def test_train_calibrates_and_val_evaluates(write: Callable[[Path], Path], tmp_path: Path) -> None:
    place = write(tmp_path)
    datasets = Datasets.open(place, LABELS)
    assert classes_of(datasets) == (["cat", "dog", "owl"], ["cat", "owl"])
    assert [sample.label for sample in datasets.evaluation.samples] == [0, 2]
    assert datasets.origin == (
        f"'{place}' has the splits train, val: calibrating on train, evaluating on val; --calibration-data and --data "
        "choose others"
    )
    alone = Dataset.open(place, LABELS)
    assert alone.samples == datasets.evaluation.samples
    assert str(alone.origin).startswith(f"'{place}' has the splits train, val: evaluating on val; `--data {place}")
    for dataset in (datasets.calibration, datasets.evaluation):
        part = Datasets.open(dataset.path, LABELS)
        assert part.calibration is part.evaluation
        assert part.evaluation.samples == dataset.samples, "the path of a split names it alone"
        assert part.origin is None
        assert [part.evaluation.read(sample) for sample in dataset.samples] == [
            dataset.read(sample) for sample in dataset.samples
        ]


def test_a_class_that_only_train_has_keeps_its_place(tmp_path: Path) -> None:
    datasets = Datasets.open(folders(tmp_path), ["class_0", "class_1", "class_2"])
    assert [sample.label for sample in datasets.evaluation.samples] == [0, 2]
    assumption = str(datasets.evaluation.assumption)
    assert assumption.startswith(f"the folders of '{tmp_path / 'set/train'}' in alphabetical order")
    assert "0 = cat, 1 = dog, 2 = owl" in assumption
    assert datasets.evaluation.class_names == ("cat", "dog", "owl")
    extra = write_folder(tmp_path / "set", {"val/fox/1.png": image_bytes(8)})
    with refuses(DataError, 3, "val'"):
        Datasets.open(extra, ["class_0", "class_1", "class_2"])


@pytest.mark.parametrize(
    ("splits", "calibration", "evaluation"),
    [
        (["train", "test"], "train", "test"),
        (["Training", "Validation", "test"], "Training", "Validation"),
        (["train", "valid", "val"], "train", "val"),
    ],
)
def test_the_splits_that_are_chosen(tmp_path: Path, splits: list[str], calibration: str, evaluation: str) -> None:
    datasets = Datasets.open(write_folder(tmp_path, {f"{name}/cat/1.png": b"" for name in splits}), LABELS)
    assert datasets.calibration.path == tmp_path / calibration
    assert datasets.evaluation.path == tmp_path / evaluation


@pytest.mark.parametrize("other", ["unlabeled/1.png", "notes.png"])
def test_splits_beside_other_images_are_no_classes(tmp_path: Path, other: str) -> None:
    place = write_folder(tmp_path / "set", TRAIN | VAL | {other: b""})
    with refuses(DataError, "splits train, val", "--data"):
        Datasets.open(place, LABELS)
    assert len(Datasets.open(place / "val", LABELS).evaluation.samples) == 2


def test_splits_of_which_one_is_missing(tmp_path: Path) -> None:
    write_folder(tmp_path / "two", VAL | TEST)
    with refuses(DataError, "test", "val") as caught:
        Dataset.open(tmp_path / "two", LABELS)
    assert caught.value.fix == f"Choose one split, such as --data {tmp_path / 'two/val'}"
    one = Datasets.open(write_folder(tmp_path / "one", TRAIN), LABELS)
    assert one.calibration is one.evaluation
    assert len(one.evaluation.samples) == 3


def test_a_split_without_class_folders_is_refused_only_if_it_is_used(tmp_path: Path) -> None:
    place = write_folder(tmp_path, TRAIN | VAL | {"test/1.png": b"", "test/cat/2.png": b""})
    assert len(Dataset.open(place, LABELS).samples) == 2
    with refuses(DataError, 1, "'1.png'"):
        Dataset.open(place / "test", LABELS)


def test_a_split_that_does_not_exist(tmp_path: Path) -> None:
    for place, message in ((table(tmp_path), "has no split 'test'"), (tars(tmp_path), "doesn't exist")):
        with pytest.raises(DataError, match=message):
            Dataset.open(place / "test", LABELS)


def test_a_mistyped_name_does_not_list_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which may be a home, or have what can't be listed."""
    tars(tmp_path)
    monkeypatch.chdir(tmp_path)
    with refuses(DataError, "'photso' doesn't exist"):
        Dataset.open(Path("photso"), LABELS)


@pytest.mark.parametrize("write", [write_folder, write_tar])
def test_names_that_are_not_utf_8_are_texts_that_find_the_images(write: Callable[..., Path], tmp_path: Path) -> None:
    """Names differ, also where only their bytes do, and so do classes."""
    stems = [os.fsdecode(stem) for stem in (b"caf\xe8/one", b"caf\xe9/one", b"dog/caf\xe8", b"dog/caf\xe9")]
    files = {f"{stem}.png": image_bytes(index) for index, stem in enumerate(stems)}
    if write is write_tar:
        files |= {f"{stem}.cls": stem.partition("/")[0].encode(errors="backslashreplace") for stem in stems}
    dataset = Dataset.open(write(tmp_path / "data.tar", files), ["a", "b", "c"])
    names = ["caf\\xe8/one.png", "caf\\xe9/one.png", "dog/caf\\xe8.png", "dog/caf\\xe9.png"]
    assert [sample.name for sample in dataset.samples] == names
    assert [dataset.read(sample) for sample in dataset.samples] == [files[f"{stem}.png"] for stem in stems]
    assert len(dataset.class_names) == 3
