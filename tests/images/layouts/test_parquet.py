"""Parquet files as data-set hubs write them."""

import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from edgekit.errors import DataError, MissingExtraError
from edgekit.images import shards
from edgekit.images.dataset import Dataset, open_layout
from edgekit.images.selection import select
from tests.helpers.layouts import image_bytes, write_parquet
from tests.helpers.refusals import refuses

pyarrow = pytest.importorskip("pyarrow", reason="needs the parquet extra")

LABELS = ["cat", "dog", "owl"]
IMAGES = [image_bytes(seed) for seed in range(6)]
NUMBERS = [1, 0, 2, 2, 1, 0]


def write_columns(place: Path, **columns: Any) -> Path:
    from pyarrow.parquet import write_table

    write_table(pyarrow.table(columns), place)
    return place


@pytest.mark.parametrize("plain", [False, True])
def test_both_forms_of_images(tmp_path: Path, plain: bool) -> None:
    dataset = Dataset.open(write_parquet(tmp_path / "set.parquet", IMAGES, NUMBERS, plain=plain), LABELS)
    assert [(sample.name, sample.label) for sample in dataset.samples] == [(str(i), n) for i, n in enumerate(NUMBERS)]
    assert [dataset.read(sample) for sample in dataset.samples] == IMAGES
    assert dataset.assumption is None, "indices tell the outputs"


@pytest.mark.parametrize(
    ("labels", "classes", "model", "indices"),
    [
        (NUMBERS, LABELS, ["owl", "cat", "dog"], [2, 1, 0, 0, 2, 1]),
        (NUMBERS, ["tench, Tinca", "shark, Carcharodon", "hen"], ["tench", "shark", "hen"], NUMBERS),
        (NUMBERS, [], ["owl", "cat", "dog"], NUMBERS),
        (["dog", "cat", "owl", "owl", "dog", "cat"], [], LABELS, NUMBERS),
    ],
)
def test_class_names(
    tmp_path: Path, labels: list[int | str], classes: list[str], model: list[str], indices: list[int]
) -> None:
    dataset = Dataset.open(write_parquet(tmp_path / "set.parquet", IMAGES, labels, classes), model)
    assert [sample.label for sample in dataset.samples] == indices
    assert dataset.assumption is None


def test_an_order_of_classes_that_contradicts_the_model(tmp_path: Path) -> None:
    place = write_parquet(tmp_path / "set.parquet", IMAGES, NUMBERS, ["hen", "a", "b"])
    with refuses(DataError, "2 of the 3", "'a', 'b'"):
        Dataset.open(place, ["tench", "shark", "hen"])


def test_the_order_that_the_set_gives_is_stated(tmp_path: Path) -> None:
    place = write_parquet(tmp_path / "set.parquet", IMAGES, NUMBERS, ["owl", "dog", "cat"])
    assumption = str(Dataset.open(place, ["class_0", "class_1", "class_2"]).assumption)
    assert "classes of" in assumption
    assert "in its own order are taken as outputs 0 to 2 (0 = owl, 1 = dog, 2 = cat)" in assumption


def test_columns_with_other_names(tmp_path: Path) -> None:
    place = write_columns(tmp_path / "set.parquet", id=[1, 2], Pixels=IMAGES[:2], category=["cat", "owl"])
    assert [sample.label for sample in Dataset.open(place, LABELS).samples] == [0, 2]
    dictionary = pyarrow.array(["cat", "owl"]).dictionary_encode()
    place = write_columns(tmp_path / "dictionary.parquet", photo=IMAGES[:2], label=dictionary)
    assert [sample.label for sample in Dataset.open(place, LABELS).samples] == [0, 2]


def test_one_row_group_is_read_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = Dataset.open(write_parquet(tmp_path / "set.parquet", IMAGES, NUMBERS, group=2), LABELS)
    groups = []
    read = shards._images.__wrapped__

    def images(file: Path, group: int, column: str) -> Any:
        content = read(file, group, column)
        groups.append((group, len(content), column))
        return content

    monkeypatch.setattr(shards, "_images", images)
    assert dataset.read(dataset.samples[3]) == IMAGES[3]
    assert dataset.read(dataset.samples[5]) == IMAGES[5]
    assert groups == [(1, 2, "image.bytes"), (2, 2, "image.bytes")]


def test_row_groups_that_are_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = write_parquet(tmp_path / "my set.parquet", IMAGES, NUMBERS, LABELS, group=6)
    monkeypatch.setattr(shards, "LARGEST_GROUP", 300)
    with refuses(DataError, "my set.parquet") as caught:
        Dataset.open(place, LABELS)
    monkeypatch.undo()
    command = shlex.split(caught.value.fix.removeprefix("Write it in smaller groups: "))
    assert command[0] == "python"
    subprocess.run([sys.executable, *command[1:]], check=True)
    written = Dataset.open(tmp_path / "my set-groups.parquet", ["owl", "dog", "cat"])
    assert [sample.label for sample in written.samples] == [1, 2, 0, 0, 1, 2], "with the names of the classes"
    assert [written.read(sample) for sample in written.samples] == IMAGES


def test_a_row_without_an_image_is_skipped_and_counted(tmp_path: Path) -> None:
    images = [None, IMAGES[1][:60], *IMAGES[2:]]
    dataset = Dataset.open(write_parquet(tmp_path / "set.parquet", images, NUMBERS), LABELS)
    chosen = select(dataset, 0, 0)
    reasons = dict(chosen.unreadable)
    assert sorted(reasons) == ["0", "1"]
    assert reasons["0"] == "can't read image '0': the row has no bytes"


@pytest.mark.parametrize("missing", [None, -1])
def test_rows_without_a_label(tmp_path: Path, missing: int | None) -> None:
    place = write_parquet(tmp_path / "set.parquet", IMAGES, [*NUMBERS[:4], missing, missing], LABELS)
    with refuses(DataError, 2, "'4'"):
        Dataset.open(place, LABELS)


def test_wrong_columns(tmp_path: Path) -> None:
    with refuses(DataError, "'image'", "string", "'label'"):
        Dataset.open(write_columns(tmp_path / "a.parquet", image=["a.png"], label=[1]), LABELS)
    with refuses(DataError, "'image'", "binary", "'caption'"):
        Dataset.open(write_columns(tmp_path / "b.parquet", image=IMAGES[:1], caption=["a cat"]), LABELS)
    write_parquet(tmp_path / "set/1.parquet", IMAGES, NUMBERS)
    write_columns(tmp_path / "set/2.parquet", image=IMAGES[:1], text=["cat"])
    with refuses(DataError, "2.parquet'", "'text'"):
        Dataset.open(tmp_path / "set", LABELS)


def test_shards_whose_labels_mean_other_classes(tmp_path: Path) -> None:
    write_parquet(tmp_path / "set/1.parquet", IMAGES, NUMBERS, LABELS)
    write_parquet(tmp_path / "set/2.parquet", IMAGES, NUMBERS, LABELS[::-1])
    with refuses(DataError, "2.parquet'", "1.parquet'"):
        Dataset.open(tmp_path / "set", LABELS)


@pytest.mark.parametrize("content", [b"", b"PAR1 but nothing else"])
def test_files_that_are_not_parquet(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "set.parquet").write_bytes(content)
    with refuses(DataError, "set.parquet'", "Parquet"):
        Dataset.open(tmp_path / "set.parquet", LABELS)


def test_a_truncated_file(tmp_path: Path) -> None:
    place = write_parquet(tmp_path / "set.parquet", IMAGES, NUMBERS)
    place.write_bytes(place.read_bytes()[:-40])
    with refuses(DataError, "set.parquet'", "Parquet"):
        Dataset.open(place, LABELS)


def test_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = write_parquet(tmp_path / "set.parquet", IMAGES, NUMBERS)
    shards._parquet.cache_clear()
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with refuses(MissingExtraError, "'pyarrow'") as caught:
        open_layout(place)
    assert "[parquet]" in caught.value.fix


def test_pyarrow_is_imported_only_for_parquet(tmp_path: Path) -> None:
    code = "import sys; from edgekit.images.dataset import Dataset; assert 'pyarrow' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
