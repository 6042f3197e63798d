"""What holds for a set of images in every layout."""

import hashlib
import pickle
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest

from edgekit.errors import DataError, ImageError
from edgekit.images.dataset import LAYOUTS, Dataset, LabelledImage, open_layout
from edgekit.images.selection import select, select_listed, short_hashes
from tests.helpers.layouts import WRITERS, image_bytes
from tests.helpers.refusals import refuses

CLASSES = ["cat", "dog", "owl"]
IMAGES = {name: [image_bytes(10 * label + index) for index in range(3)] for label, name in enumerate(CLASSES)}

Write = Callable[[Mapping[str, Sequence[bytes]]], Path]


@pytest.fixture(params=WRITERS)
def write(request: pytest.FixtureRequest, tmp_path: Path) -> Write:
    """Writes images in one layout."""
    if request.param == "parquet":
        pytest.importorskip("pyarrow", reason="needs the parquet extra")
    (tmp_path / "data").mkdir()
    return lambda images: WRITERS[str(request.param)](tmp_path / "data", images)


def sha256_of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def read_all(dataset: Dataset) -> list[str]:
    return [sha256_of(dataset.read(sample)) for sample in dataset.samples]


def test_the_writers_cover_every_layout(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow", reason="needs the parquet extra")
    opened = set()
    for name, write in WRITERS.items():
        (tmp_path / name).mkdir()
        opened.add(type(open_layout(write(tmp_path / name, IMAGES))))
    assert opened == set(LAYOUTS)


@pytest.mark.parametrize(
    ("labels", "indices"),
    [(CLASSES, [0, 1, 2]), (["OWL", "fox", "Cat", "dog"], [2, 3, 0]), (["class_0", "class_1", "class_2"], [0, 1, 2])],
)
def test_every_image_gets_its_class(write: Write, labels: list[str], indices: list[int]) -> None:
    dataset = Dataset.open(write(IMAGES), labels)
    read = {sha256_of(dataset.read(sample)): (sample.label, sample.class_name) for sample in dataset.samples}
    assert read == {
        sha256_of(image): (index, name) for name, index in zip(CLASSES, indices, strict=True) for image in IMAGES[name]
    }
    assert [sample.name for sample in dataset.samples] == sorted(sample.name for sample in dataset.samples)
    assert dataset.image(dataset.samples[0]).size == (8, 8)
    assert (dataset.assumption is not None) == (labels[0] == "class_0")


def test_an_assumed_order_is_stated(write: Write) -> None:
    assumption = Dataset.open(write(IMAGES), ["a", "b", "c"]).assumption
    assert assumption is not None
    assert "are taken as outputs 0 to 2 (0 = cat, 1 = dog, 2 = owl)" in assumption


def test_classes_that_the_model_lacks(write: Write) -> None:
    with refuses(DataError, "1 of the 3", "'owl'", "--labels"):
        Dataset.open(write(IMAGES), ["cat", "dog"])


def test_processes_and_threads_read_the_same(write: Write) -> None:
    dataset = Dataset.open(write(IMAGES), CLASSES)
    expected = read_all(dataset)
    assert pickle.loads(pickle.dumps(dataset)) == dataset
    with ThreadPoolExecutor(4) as threads:
        assert all(hashes == expected for hashes in threads.map(read_all, [dataset] * 8))


def test_spawned_processes_read_the_same(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow", reason="needs the parquet extra")
    datasets = []
    for name in ("csv", "parquet", "tar"):
        (tmp_path / name).mkdir()
        datasets.append(Dataset.open(WRITERS[name](tmp_path / name, IMAGES), CLASSES))
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as processes:
        assert list(processes.map(read_all, datasets)) == [read_all(dataset) for dataset in datasets]


def test_broken_images_are_skipped_and_counted(write: Write, tmp_path: Path) -> None:
    broken = [IMAGES["cat"][0], IMAGES["cat"][1][:60], b""]
    dataset = Dataset.open(write(IMAGES | {"cat": broken}), CLASSES)
    chosen = select(dataset, 0, 0)
    assert len(chosen.samples) == 7
    assert len(chosen.unreadable) == 2
    for name, reason in chosen.unreadable:
        assert f"'{name}'" in reason
        assert str(tmp_path) not in reason, "reports, which are shared, contain the reason"
    with refuses(DataError, "7 of the 8", 9, 2):
        select(dataset, 8, 0)
    with refuses(ImageError, 999):
        dataset.read(LabelledImage("999", 0, "cat"))


def test_a_selection_is_repeatable_and_found_again(write: Write) -> None:
    dataset = Dataset.open(write(IMAGES), CLASSES)
    chosen = select(dataset, 4, 0)
    listed = dict(zip((sample.name for sample in chosen.samples), chosen.hashes, strict=True))
    again = select_listed(Dataset.open(dataset.path, CLASSES), listed, Path("calibration.json"))
    assert (again.sha256, again.hashes) == (chosen.sha256, chosen.hashes)
    rest = select(dataset, 0, 0, exclude=chosen)
    assert len(rest.samples) == 5
    assert not {*rest.hashes} & {*chosen.hashes}
    assert len(select(dataset, 0, 0).members(short_hashes(chosen.hashes))) == 4


def test_an_empty_set(write: Write) -> None:
    with pytest.raises(DataError, match="contains no images") as caught:
        Dataset.open(write({}), CLASSES)
    for description in ("a folder or a zip", "CSV", "Parquet", "tar"):
        assert description in caught.value.valid
