"""Data sets in folders and zips, the classes of their folders, and the choice of samples."""

import hashlib
import os
import pickle
import subprocess
import sys
import zipfile
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from io import BytesIO
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, features

from edgekit.errors import DataError, ImageError, UsageError
from edgekit.images.dataset import Dataset, LabelledCrops, LabelledImage
from edgekit.images.layout import imagenet_wnids
from edgekit.images.preprocess import Preprocessing
from edgekit.images.selection import evaluation_doubts, missing_classes, select
from edgekit.models.description import resolve_labels
from tests.helpers.refusals import refuses

LABELS = ["cat", "dog", "owl"]


def image_bytes(seed: int) -> bytes:
    buffer = BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def contents(classes: dict[str, int], prefix: str = "") -> dict[str, bytes]:
    names = [f"{prefix}{name}/{index}.png" for name, count in classes.items() for index in range(count)]
    return {name: image_bytes(seed) for seed, name in enumerate(names)}


def make(place: Path, members: dict[str, bytes]) -> Path:
    """A zip if the name ends in .zip, else a folder."""
    if place.suffix == ".zip":
        with zipfile.ZipFile(place, "w") as archive:
            for name, content in members.items():
                archive.writestr(name, content)
        return place
    for name, content in members.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_bytes(content)
    return place


@pytest.fixture(params=["set", "set.zip"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return tmp_path / str(request.param)


@pytest.mark.parametrize("prefix", ["", "top/", "top/train/"])
def test_images_are_found_and_read(place: Path, prefix: str) -> None:
    members = contents({"owl": 2, "cat": 1, "dog": 3}, prefix)
    extra = {
        ".hidden/cat/1.png": b"",
        "__MACOSX/cat/1.png": b"",
        f"{prefix}cat/.1.png": b"",
        f"{prefix}cat/notes.txt": b"",
    }
    dataset = Dataset.open(make(place, members | extra), LABELS)
    assert [sample.name for sample in dataset.samples] == sorted(members)
    assert dataset.samples[0] == LabelledImage(f"{prefix}cat/0.png", 0, "cat")
    assert dataset.samples[-1] == LabelledImage(f"{prefix}owl/1.png", 2, "owl")
    for sample in dataset.samples:
        assert dataset.read(sample) == members[sample.name]
        assert dataset.image(sample).size == (8, 8)


def test_images_deeper_than_their_class(place: Path) -> None:
    members = {"cat/a/1.png": image_bytes(0), "cat/b/2.JPEG": image_bytes(1), "dog/3.png": image_bytes(2)}
    samples = Dataset.open(make(place, members), LABELS).samples
    assert [(sample.name, sample.class_name) for sample in samples] == [
        ("cat/a/1.png", "cat"),
        ("cat/b/2.JPEG", "cat"),
        ("dog/3.png", "dog"),
    ]


def test_a_folder_inside_a_zip(tmp_path: Path) -> None:
    members = contents({"cat": 1, "dog": 2}, "set/train/") | contents({"cat": 2, "owl": 1}, "set/val/")
    place = make(tmp_path / "set.zip", members)
    dataset = Dataset.open(place / "set/val", LABELS)
    assert [sample.name for sample in dataset.samples] == ["cat/0.png", "cat/1.png", "owl/0.png"]
    assert dataset.read(dataset.samples[0]) == members["set/val/cat/0.png"]
    with pytest.raises(DataError):
        Dataset.open(place / "elsewhere", LABELS)


@pytest.mark.parametrize(
    ("folders", "labels", "indices"),
    [
        (["cat", "owl"], LABELS, [0, 2]),
        (["CAT", "Great_White"], ["great white", "cat"], [1, 0]),
        (["a", "b", "c"], LABELS, [0, 1, 2]),
        (["10", "2"], ["two", "ten"], [0, 1]),
        (["n01440764", "n15075141"], [f"class {index}" for index in range(1000)], [0, 999]),
    ],
)
def test_folders_become_class_indices(place: Path, folders: list[str], labels: list[str], indices: list[int]) -> None:
    dataset = Dataset.open(make(place, contents(dict.fromkeys(folders, 1))), labels)
    assert [sample.label for sample in dataset.samples] == indices


def test_an_order_that_is_only_assumed_is_stated(place: Path) -> None:
    dataset = Dataset.open(make(place, contents(dict.fromkeys(["10", "a", "9", "b", "c"], 1))), [*"vwxyz"])
    assert dataset.assumption == (
        f"the folders of '{place}' in alphabetical order are taken as outputs 0 to 4 (0 = 10, 1 = 9, 2 = a, 3 = b, …). "
        "If the network was trained with another order, list its classes with `--labels FILE`"
    )
    for labels in (["c", "b", "a", "9", "10"], ["B", "A", "C", "9", "10"]):
        assert Dataset.open(place, labels).assumption is None


@pytest.mark.parametrize(
    ("folders", "labels", "message"),
    [
        (["cat", "dgo"], LABELS, r"1 of the 2 .*3 classes: 'dgo'\. Did you mean 'dog'\? .*--labels"),
        (["cat", "dgo", "owl"], LABELS, "1 of the 3 .*'dgo'"),  # as many folders as classes, but some are class names
        (["a", "b"], LABELS, "2 of the 2 .*'a', 'b'"),
        (["a", "b", "c", "d"], LABELS, "4 of the 4"),
        (["crane", "tench"], ["tench", "crane", "crane"], "1 of the 2 .*'crane'"),
        (["n01440764", "n00000000"], ["x"] * 1000, "2 of the 2"),
    ],
)
def test_folders_that_do_not_fit_are_listed(place: Path, folders: list[str], labels: list[str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        Dataset.open(make(place, contents(dict.fromkeys(folders, 1))), labels)


def test_paths_that_are_not_data_sets(tmp_path: Path) -> None:
    with refuses(DataError, tmp_path / "nothing") as caught:
        Dataset.open(tmp_path / "nothing", LABELS)
    assert "folder" in caught.value.valid
    (tmp_path / "empty").mkdir()
    with refuses(DataError, tmp_path / "empty") as caught:
        Dataset.open(tmp_path / "empty", LABELS)
    assert "folder" in caught.value.valid
    (tmp_path / "text.zip").write_text("no zip")
    with refuses(DataError, tmp_path / "text.zip"):
        Dataset.open(tmp_path / "text.zip", LABELS)
    loose = make(tmp_path / "loose", {"1.png": b"", "cat/2.png": b""})
    with refuses(DataError, 1, "'1.png'"):
        Dataset.open(loose, LABELS)


@pytest.mark.skipif(not features.check("avif"), reason="this build of Pillow has no AVIF")
def test_photos_of_phones_and_browsers_are_no_less_images(place: Path) -> None:
    """Those that Pillow can't decode are named instead of being passed over."""
    members = {}
    for suffix, form in (("jfif", "JPEG"), ("AVIF", "AVIF")):
        buffer = BytesIO()
        Image.new("RGB", (8, 6), (200, 30, 30)).save(buffer, form)
        members[f"cat/1.{suffix}"] = buffer.getvalue()
    members |= {"cat/2.heic": b"\0\0\0\x18ftypheic", "cat/3.HEIF": b"\0\0\0\x18ftypheif", "cat/notes.txt": b""}
    dataset = Dataset.open(make(place, members), LABELS)
    assert len(dataset.samples) == 4
    chosen = select(dataset, None, 0)
    assert sorted(sample.name for sample in chosen.samples) == ["cat/1.AVIF", "cat/1.jfif"]
    assert [dataset.image(sample).size for sample in chosen.samples] == [(8, 6)] * 2
    unreadable = dict(chosen.unreadable)
    assert sorted(unreadable) == ["cat/2.heic", "cat/3.HEIF"]
    assert all("not an image of a known format" in reason and "Convert it" in reason for reason in unreadable.values())


def test_zip_members_that_point_elsewhere_are_left_out(tmp_path: Path) -> None:
    members = contents({"cat": 1}) | {"../dog/1.png": b"", "/owl/1.png": b"", "cat/../../2.png": b""}
    dataset = Dataset.open(make(tmp_path / "set.zip", members), LABELS)
    assert [sample.name for sample in dataset.samples] == ["cat/0.png"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["set.zip"]


def test_links_to_folders_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    elsewhere = make(tmp_path / "elsewhere", {"1.png": image_bytes(0)})
    place = make(tmp_path / "set", contents({"cat": 1}))
    (place / "dog").symlink_to(elsewhere)
    (place / "cat/again").symlink_to(place)
    names = [sample.name for sample in Dataset.open(place, LABELS).samples]
    assert names == ["cat/0.png", "dog/1.png"]


def read_all(dataset: Dataset) -> list[str]:
    return [hashlib.sha256(dataset.read(sample)).hexdigest() for sample in dataset.samples]


def test_processes_and_threads_read_the_same(place: Path) -> None:
    dataset = Dataset.open(make(place, contents({"cat": 20, "dog": 20})), LABELS)
    expected = read_all(dataset)
    with ThreadPoolExecutor(4) as threads:
        assert all(hashes == expected for hashes in threads.map(read_all, [dataset] * 8))
    assert pickle.loads(pickle.dumps(dataset)) == dataset
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as processes:
        files = list(processes.map(dataset.read, dataset.samples))
    assert [hashlib.sha256(file).hexdigest() for file in files] == expected


def test_forked_processes_read_the_same(place: Path) -> None:
    make(place, contents({"cat": 50, "dog": 50}))
    # Run in a separate process, because forking this one, in which torch and JAX may run threads, could deadlock.
    code = f"""
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from edgekit.images.dataset import Dataset
dataset = Dataset.open({str(place)!r}, ["cat", "dog"])
expected = [dataset.read(sample) for sample in dataset.samples]
with ProcessPoolExecutor(4, mp_context=get_context("fork")) as processes:
    assert list(processes.map(dataset.read, dataset.samples)) == expected
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_errors_name_data_set_and_sample(place: Path) -> None:
    members = contents({"cat": 2}) | {"cat/1.png": image_bytes(1)[:60]}
    dataset = Dataset.open(make(place, members), LABELS)
    with refuses(ImageError, f"{place.name}/cat/1.png"):
        dataset.image(dataset.samples[1])
    with refuses(ImageError, f"{place.name}/cat/9.png"):
        dataset.read(LabelledImage("cat/9.png", 0, "cat"))


def test_a_damaged_zip_member_is_an_image_error(tmp_path: Path) -> None:
    place = make(tmp_path / "set.zip", contents({"cat": 1}))
    content = bytearray(place.read_bytes())
    content[80] ^= 255
    place.write_bytes(content)
    dataset = Dataset.open(place, LABELS)
    with pytest.raises(ImageError, match=r"cat/0\.png.*CRC"):
        dataset.read(dataset.samples[0])


def test_a_pipe_is_not_read(tmp_path: Path) -> None:
    place = make(tmp_path / "set", contents({"cat": 1}))
    os.mkfifo(place / "cat/pipe.png")
    dataset = Dataset.open(place, LABELS)
    with refuses(ImageError, "cat/pipe.png"):
        dataset.read(dataset.samples[1])


def test_selection_is_balanced_repeatable_and_a_prefix_of_a_larger_one(place: Path) -> None:
    dataset = Dataset.open(make(place, contents({"cat": 9, "dog": 5, "owl": 2})), LABELS)
    calls: list[None] = []
    chosen = select(dataset, 9, 0, on_image=lambda: calls.append(None))
    assert len(calls) == 9
    counts = [sum(sample.label == label for sample in chosen.samples) for label in range(3)]
    assert counts[2] == 2
    assert sorted(counts[:2]) == [3, 4]
    assert select(dataset, 9, 0) == chosen
    assert select(dataset, 12, 0).samples[:9] == chosen.samples
    assert select(dataset, 9, 1).samples != chosen.samples
    assert chosen.hashes == tuple(hashlib.sha256(dataset.read(sample)).hexdigest() for sample in chosen.samples)
    lines = sorted(f"{sample.name} {digest}\n" for sample, digest in zip(chosen.samples, chosen.hashes, strict=True))
    assert chosen.sha256 == hashlib.sha256("".join(lines).encode()).hexdigest()
    assert len(select(dataset, 0, 0).samples) == len(select(dataset, None, 0).samples) == 16


def shares(samples: Sequence[LabelledImage]) -> dict[str, int]:
    return dict(sorted(Counter(sample.class_name for sample in samples).items()))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_part_has_the_classes_in_proportion(seed: int, tmp_path: Path) -> None:
    sizes = {"cat": 60, "dog": 30, "owl": 10}
    dataset = Dataset.open(make(tmp_path / "set.zip", contents(sizes)), LABELS)
    for count in (10, 20, 50):
        chosen = select(dataset, count, seed, order="shares")
        assert shares(chosen.samples) == {name: size * count // 100 for name, size in sizes.items()}
    assert select(dataset, 50, seed, order="shares").samples[:20] == select(dataset, 20, seed, order="shares").samples
    taken = select(dataset, 12, seed)
    assert shares(taken.samples) == dict.fromkeys(sizes, 4)
    rest = select(dataset, 10, seed, exclude=taken, order="shares")
    assert shares(rest.samples) == {"cat": 6, "dog": 3, "owl": 1}, "in proportion to the whole set"
    assert not set(rest.samples) & set(taken.samples)
    everything = select(dataset, None, seed, exclude=taken, order="shares")
    assert shares(everything.samples) == {"cat": 56, "dog": 26, "owl": 6}


def test_classes_of_the_same_size_take_turns(place: Path) -> None:
    dataset = Dataset.open(make(place, contents(dict.fromkeys(LABELS, 8))), LABELS)
    calibration = select(dataset, 7, 0)
    assert select(dataset, 7, 0, order="turns for half") == calibration
    for exclude in (None, calibration):
        in_turns = select(dataset, 11, 0, exclude=exclude)
        assert select(dataset, 11, 0, exclude=exclude, order="shares") == in_turns


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (6, {"cat": 2, "dog": 2, "owl": 2}),
        (16, {"cat": 9, "dog": 5, "owl": 2}),
        (20, {"cat": 11, "dog": 6, "owl": 3}),
        (24, {"cat": 13, "dog": 8, "owl": 3}),
        (31, {"cat": 19, "dog": 9, "owl": 3}),
        (34, {"cat": 20, "dog": 10, "owl": 4}),
    ],
)
def test_half_of_each_class_comes_last_and_one_image_at_the_end(
    count: int, expected: dict[str, int], tmp_path: Path
) -> None:
    dataset = Dataset.open(make(tmp_path / "set.zip", contents({"cat": 20, "dog": 10, "owl": 4})), LABELS)
    chosen = select(dataset, count, 0, order="turns for half")
    assert shares(chosen.samples) == expected
    warning = missing_classes(dataset, select(dataset, 0, 0, exclude=chosen, exact=False, order="shares"))
    assert warning is None


def test_classes_without_an_image_are_named(place: Path) -> None:
    dataset = Dataset.open(make(place, contents({"cat": 9, "dog": 2, "owl": 1})), LABELS)
    chosen = select(dataset, 6, 0)
    warning = missing_classes(dataset, select(dataset, 0, 0, exclude=chosen))
    assert warning is not None
    assert warning.startswith(f"2 of the 3 classes of '{place}' have no evaluation image, such as 'dog': ")
    assert missing_classes(dataset, select(dataset, 2, 0)) is None, "two images can't have three classes"
    assert missing_classes(dataset, chosen) is None


def test_the_order_of_the_labels_has_no_influence_on_the_choice(place: Path) -> None:
    make(place, contents({"cat": 9, "dog": 5, "owl": 2}))
    chosen, other = (select(Dataset.open(place, labels), 9, 0) for labels in (LABELS, LABELS[::-1]))
    assert [sample.label for sample in chosen.samples] != [sample.label for sample in other.samples]
    assert (chosen.hashes, chosen.sha256) == (other.hashes, other.sha256)


def test_nothing_excluded_is_chosen_again(place: Path) -> None:
    members = contents({"cat": 6, "dog": 6})
    members["cat/copy.png"] = members["cat/0.png"]
    dataset = Dataset.open(make(place, members), LABELS)
    first = select(dataset, 6, 0)
    rest = select(dataset, 0, 0, exclude=first)
    assert not set(first.hashes) & set(rest.hashes)
    names = {sample.name for sample in first.samples}
    both_copies = len(names & {"cat/copy.png", "cat/0.png"}) == 1
    assert len(rest.samples) == 13 - 6 - both_copies
    with refuses(DataError, f"{len(rest.samples)} of the 9", 13, 0):
        select(dataset, 9, 0, exclude=first)
    assert select(dataset, 9, 0, exclude=first, exact=False).samples == rest.samples


def test_equal_names_in_another_data_set_are_not_excluded(tmp_path: Path) -> None:
    train = Dataset.open(make(tmp_path / "train", {"cat/1.png": image_bytes(1)}), LABELS)
    val = Dataset.open(make(tmp_path / "val", {"cat/1.png": image_bytes(2), "cat/2.png": image_bytes(1)}), LABELS)
    chosen = select(val, 0, 0, exclude=select(train, 0, 0))
    assert [sample.name for sample in chosen.samples] == ["cat/1.png"]


def test_no_class_is_suggested_that_is_not_similar(tmp_path: Path) -> None:
    folder = make(tmp_path / "set", {"cat/1.png": image_bytes(1)})
    with pytest.raises(DataError) as caught:
        Dataset.open(folder, [f"class_{index}" for index in range(10)])
    assert "Did you mean" not in caught.value.fix


def test_unreadable_images_are_listed_and_replaced(place: Path) -> None:
    members = contents({"cat": 4, "dog": 4}) | {"cat/1.png": b"broken", "dog/2.png": image_bytes(0)[:70]}
    dataset = Dataset.open(make(place, members), LABELS)
    chosen = select(dataset, 6, 0)
    assert len(chosen.samples) == 6
    everything = select(dataset, 0, 0)
    assert sorted(name for name, _ in everything.unreadable) == ["cat/1.png", "dog/2.png"]
    for name, reason in everything.unreadable:
        assert f"'{name}'" in reason, "only the path within the data set"
    with refuses(DataError, "6 of the 7", 8, 2, 0):
        select(dataset, 7, 0)
    assert len(select(dataset, 7, 0, exact=False).samples) == 6


def test_nothing_readable_and_wrong_counts(place: Path) -> None:
    dataset = Dataset.open(make(place, {"cat/1.png": b"broken"}), LABELS)
    with refuses(DataError, "0 of the 1"):
        select(dataset, None, 0)
    assert select(dataset, None, 0, exact=False).samples == ()
    with refuses(UsageError, -1):
        select(dataset, -1, 0)


def test_imagenet_classes() -> None:
    from timm.data.imagenet_info import ImageNetInfo

    assert imagenet_wnids() == tuple(ImageNetInfo().label_names())  # type: ignore[no-untyped-call]


def test_the_real_sets(shared_data: Path) -> None:
    dataset = Dataset.open(shared_data / "imagenet-500.zip", resolve_labels(None, 1000))
    assert len(dataset.samples) == 500
    assert dataset.samples[1].label == 1
    assert dataset.samples[1].name.endswith("n01443537_goldfish.JPEG")
    assert len(select(dataset, 20, 0).samples) == 20
    labels = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    val = Dataset.open(shared_data / "cifar10-val-5k.zip", labels)
    assert [sum(sample.label == label for sample in val.samples) for label in range(10)] == [500] * 10


PREPROCESSING = Preprocessing(8, 12, "bicubic", 1.0, "center", (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    """Three images of two classes, each in a single shade."""
    for name, shade in (("a/1.png", 10), ("a/2.png", 20), ("b/1.png", 30)):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (30, 20), (shade, shade, shade)).save(tmp_path / name)
    return Dataset.open(tmp_path, ["a", "b"])


def test_samples_are_cropped_in_their_order(dataset: Dataset) -> None:
    cropped = []
    crops = dataset.crop(dataset.samples[::-1], PREPROCESSING, on_image=lambda: cropped.append(1))
    assert crops.pixels.shape == (3, 8, 12, 3)
    assert crops.pixels[:, 0, 0, 0].tolist() == [30, 20, 10]
    assert crops.labels.tolist() == [1, 0, 0]
    assert len(crops) == len(cropped) == 3
    one_by_one = list(dataset.crop_each(dataset.samples[::-1], PREPROCESSING))
    np.testing.assert_array_equal(crops.pixels, one_by_one)


def test_crops_go_into_a_given_array(dataset: Dataset) -> None:
    pixels = np.zeros((3, 8, 12, 3), np.uint8)
    assert dataset.crop(dataset.samples, PREPROCESSING, pixels).pixels is pixels
    assert pixels[:, 0, 0, 0].tolist() == [10, 20, 30]


def test_no_samples_give_no_crops(dataset: Dataset) -> None:
    crops = dataset.crop((), PREPROCESSING)
    assert (crops.pixels.shape, crops.labels.shape) == ((0, 8, 12, 3), (0,))
    assert list(crops.normalized(PREPROCESSING)) == []


def test_images_are_normalized_one_by_one() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 8, 12, 3), np.uint8)
    crops = LabelledCrops(pixels, np.array([4, 2]))
    images = list(crops.normalized(PREPROCESSING))
    np.testing.assert_array_equal(np.concatenate(images), PREPROCESSING.normalize(pixels))


def test_an_image_that_cannot_be_read_is_named(dataset: Dataset) -> None:
    (dataset.path / "a/2.png").write_bytes(b"damaged")
    with refuses(ImageError, "a/2.png"):
        dataset.crop(dataset.samples, PREPROCESSING)


def test_an_image_is_evaluated_once_and_conflicting_labels_are_named(tmp_path: Path) -> None:
    photos = {f"{name}/{index}.png": image_bytes(index) for name in ("cat", "dog") for index in range(3)}
    photos |= {f"cat/again_{index}.png": image_bytes(0) for index in range(4)} | {"owl/9.png": image_bytes(9)}
    dataset = Dataset.open(make(tmp_path / "set", photos), LABELS)
    chosen = select(dataset, None, 0, order="shares")
    assert len(chosen.samples) == len({*chosen.hashes}) == 4
    left_out, conflicts = evaluation_doubts(dataset, chosen)[-2:]
    assert left_out.startswith("7 images are copies of other evaluation images and were left out")
    number = int(conflicts.split()[0])
    assert 3 <= number <= 7
    assert "labels" in conflicts
    assert "'cat/" in conflicts
    assert "'dog/" in conflicts
    assert len(select(dataset, 11, 0).samples) == 11, "a calibration may repeat an image"
