"""Images in memory: torch's data sets, rows of Hugging Face, lists and generators, with and without labels."""

import hashlib
import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import DataLoader, Subset, TensorDataset
from torchvision.datasets import ImageFolder
from torchvision.transforms import Compose, Normalize, ToTensor

from edgekit.errors import DataError, ImageError
from edgekit.images.dataset import Dataset, Datasets, transform_of
from edgekit.images.selection import select
from tests.helpers.refusals import refuses

CLASSES = ["cat", "dog", "owl"]
PIXELS = np.random.default_rng(0).integers(0, 256, (6, 5, 7, 3), dtype=np.uint8)
LABELS = [0, 1, 2, 0, 1, 2]


def pixels_of(dataset: Dataset) -> NDArray[np.uint8]:
    return np.stack([np.asarray(dataset.image(sample)) for sample in dataset.samples])


def tensors() -> torch.Tensor:
    return torch.from_numpy(PIXELS).permute(0, 3, 1, 2).contiguous()


@pytest.mark.parametrize(
    "images",
    [
        [*PIXELS],
        [Image.fromarray(image) for image in PIXELS],
        [*tensors()],
        [*(tensors() / 255)],
        [image.astype(np.float32) / 255 for image in PIXELS],
    ],
    ids=["arrays", "PIL", "uint8 tensors", "float tensors", "float arrays"],
)
def test_every_kind_of_image_keeps_its_pixels(images: list[Any]) -> None:
    dataset = Dataset.open(list(zip(images, LABELS, strict=True)), CLASSES)
    assert np.array_equal(pixels_of(dataset), PIXELS)
    assert [sample.label for sample in dataset.samples] == LABELS
    hashes = select(dataset, None, 0).hashes
    assert set(hashes) == {hashlib.sha256(b"P6\n7 5\n255\n" + image.tobytes()).hexdigest() for image in PIXELS}


@pytest.mark.parametrize(
    "data",
    [
        ((image, torch.tensor(label)) for image, label in zip(PIXELS, LABELS, strict=True)),
        TensorDataset(tensors(), torch.tensor(LABELS)),
        DataLoader(TensorDataset(tensors(), torch.tensor(LABELS)), batch_size=4),
        [{"img": image, "label": CLASSES[label]} for image, label in zip(PIXELS, LABELS, strict=True)],
        tuple([image, np.int64(label)] for image, label in zip(PIXELS, LABELS, strict=True)),
    ],
    ids=["generator", "TensorDataset", "DataLoader", "rows", "tuple"],
)
def test_every_kind_of_collection(data: Any) -> None:
    dataset = Dataset.open(data, CLASSES)
    assert np.array_equal(pixels_of(dataset), PIXELS)
    assert [sample.label for sample in dataset.samples] == LABELS


def test_grey_images_and_digits() -> None:
    digits = TensorDataset(torch.arange(12, dtype=torch.uint8).reshape(3, 1, 2, 2), torch.tensor([0, 1, 2]))
    dataset = Dataset.open(digits, CLASSES)
    assert pixels_of(dataset)[2, :, :, 1].tolist() == [[8, 9], [10, 11]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for label, image in zip(LABELS, PIXELS, strict=True):
        (tmp_path / CLASSES[label]).mkdir(exist_ok=True)
        Image.fromarray(image).save(tmp_path / CLASSES[label] / f"{image.sum()}.png")
    return tmp_path


def test_a_data_set_of_torchvision_loses_its_transform_and_keeps_its_classes(folder: Path) -> None:
    transform = Compose([ToTensor(), Normalize(0.5, 0.5)])
    data = ImageFolder(str(folder), transform=transform)
    dataset = Dataset.open(data, ["class_0", "class_1", "class_2"])
    assert pixels_of(dataset).sum() == PIXELS.sum()
    assert dataset.class_names == ("cat", "dog", "owl")
    assert dataset.path.name.startswith("ImageFolder in memory")
    assert data[0][0].dtype is torch.float32
    assert transform_of(data) is transform_of(Subset(data, [1])) is transform
    chosen = Dataset.open(Subset(data, [5, 0]), CLASSES)
    assert [(sample.label, sample.class_name) for sample in chosen.samples] == [(2, "owl"), (0, "cat")]
    relabelled = ImageFolder(str(folder), transform=transform, target_transform=lambda label: 2 - label)
    assert [sample.label for sample in Dataset.open(relabelled, CLASSES).samples] == [2, 2, 1, 1, 0, 0]


@pytest.mark.parametrize("names", [["dog", "owl", "cat"], ["cat", "dog", "owl"]])
def test_rows_of_hugging_face_with_lists_of_labels_have_its_classes(names: list[str]) -> None:
    class Rows(list[Any]):
        features: Any

    rows = Rows({"image": image, "labels": [0, 2] if index else [1]} for index, image in enumerate(PIXELS))
    rows.features = {"image": None, "labels": SimpleNamespace(feature=SimpleNamespace(names=names))}
    expected = tuple(sorted(CLASSES.index(names[label]) for label in (0, 2)))
    assert [sample.labels for sample in Dataset.open(rows, CLASSES).samples][1:] == [expected] * 5


def test_a_set_of_labels_gives_the_same_path_in_every_process() -> None:
    paths = {Dataset.open([(PIXELS[0], labels)], CLASSES).path for labels in ({"owl", "cat"}, ["cat", "owl"])}
    assert len(paths) == 1


def test_images_are_read_when_they_are_needed() -> None:
    read = []

    class Lazy:
        targets = LABELS

        def __len__(self) -> int:
            return len(LABELS)

        def __getitem__(self, index: int) -> tuple[NDArray[np.uint8], int]:
            read.append(index)
            return PIXELS[index], LABELS[index]

    dataset = Dataset.open(Lazy(), CLASSES)
    assert read == [0, 0, 0, 5, 5, 5]
    dataset.read(dataset.samples[3])
    assert read[6:] == [3]


def test_a_set_that_augments_is_refused() -> None:
    random = np.random.default_rng(0)

    class Noisy:
        def __len__(self) -> int:
            return len(LABELS)

        def __getitem__(self, index: int) -> tuple[NDArray[np.uint8], int]:
            return random.permutation(PIXELS[index]), LABELS[index]

    with refuses(DataError, "Noisy", "augmentation", "transform"):
        Dataset.open(Noisy(), CLASSES)


def test_a_mapping_has_a_set_for_each_split(folder: Path) -> None:
    train, test = list(zip(PIXELS[:4], LABELS[:4], strict=True)), ImageFolder(str(folder), transform=ToTensor())
    splits = {"train": train, "unsupervised": [*PIXELS], "test": test}
    datasets = Datasets.open(splits, CLASSES)
    assert [len(each.samples) for each in (datasets.calibration, datasets.evaluation)] == [4, 6]
    assert datasets.evaluation.class_names == ("cat", "dog", "owl")
    assert datasets.calibration.path != datasets.evaluation.path
    assert "train, unsupervised, test: calibrating on train, evaluating on test" in str(datasets.origin)
    assert transform_of(splits) is test.transform
    alone = Datasets.open({"train": train}, CLASSES)
    assert alone.calibration is alone.evaluation
    with refuses(DataError, "images, labels", "train and val"):
        Datasets.open({"images": PIXELS, "labels": LABELS}, CLASSES)


@pytest.mark.parametrize(
    "data",
    [
        (PIXELS, np.array(LABELS)),
        (PIXELS, np.array(LABELS)[:, None]),
        (tensors(), torch.tensor(LABELS)),
        [PIXELS, [CLASSES[label] for label in LABELS]],
    ],
    ids=["arrays", "column", "tensors", "names"],
)
def test_an_array_of_images_and_their_labels(data: Any) -> None:
    dataset = Dataset.open(data, CLASSES)
    assert np.array_equal(pixels_of(dataset), PIXELS)
    assert [sample.label for sample in dataset.samples] == LABELS


def test_two_images_are_no_array_of_images_and_labels() -> None:
    assert len(Dataset.for_calibration((PIXELS[0], PIXELS[1]), CLASSES).samples) == 2


def test_equal_sets_have_equal_paths_and_different_ones_do_not() -> None:
    pairs = list(zip(PIXELS, LABELS, strict=True))
    whole, again, rest = (Dataset.open(part, CLASSES) for part in (pairs, list(pairs), pairs[::-1]))
    assert whole.path == again.path != rest.path
    assert not select(again, None, 0, exclude=select(whole, None, 0), exact=False).samples
    assert pickle.loads(pickle.dumps(whole)).path == whole.path
    both = Datasets.open(pairs, CLASSES)
    assert both.calibration is both.evaluation


def test_images_without_labels_can_calibrate() -> None:
    dataset = Dataset.for_calibration(list(PIXELS), CLASSES)
    chosen = select(dataset, 4, 0)
    assert {sample.label for sample in chosen.samples} == {-1}
    (doubt,) = chosen.doubts(3)
    assert "4 calibration images are few" in doubt


def test_a_folder_without_labels_can_calibrate(tmp_path: Path) -> None:
    for index, image in enumerate(PIXELS):
        Image.fromarray(image).save(tmp_path / f"{index}.png")
    assert len(Dataset.for_calibration(tmp_path, CLASSES).samples) == 6
    (tmp_path / "cat").mkdir()
    (tmp_path / "0.png").rename(tmp_path / "cat" / "0.png")
    with refuses(DataError, "5 images", "outside a class folder", "or for none"):
        Dataset.open(tmp_path, CLASSES)


@pytest.mark.parametrize(
    ("data", "facts"),
    [
        (5, ["int"]),
        ([], ["no images"]),
        ([(PIXELS[0], 0, 1)], ["3 parts"]),
        ([(PIXELS[0], 0.5)], ["0.5"]),
        ([(PIXELS[0], torch.full((3,), 0.3))], ["0.3", "index"]),
        ([(PIXELS[0], [0, 1])], ["1 images", ": 0, 1", "--task multi-label"]),
        ([(torch.randn(3, 4, 4), 0)], ["normalized", "transform"]),
        ([{"pixels_of_it": PIXELS[0]}], ["pixels_of_it"]),
        ([(PIXELS[0], 7)], ["label 7", "3 classes"]),
    ],
)
def test_refusals(data: Any, facts: list[str]) -> None:
    with refuses(DataError, *facts):
        Dataset.open(data, CLASSES, "one")


def test_an_image_that_cannot_be_decoded_is_skipped() -> None:
    pairs = [(image, label) for image, label in zip(PIXELS, LABELS, strict=True)]
    pairs[0] = (PIXELS[0].astype(np.int64), 0)
    dataset = Dataset.open(pairs, CLASSES)
    with refuses(ImageError, "image 0", "int64"):
        dataset.read(dataset.samples[0])
    assert select(dataset, 5, 0).unreadable[0][0] == "0"
