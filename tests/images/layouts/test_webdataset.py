"""Tar shards of WebDataset."""

import json
import tarfile
from pathlib import Path

import pytest

from edgekit.errors import DataError
from edgekit.images import shards
from edgekit.images.dataset import Dataset
from edgekit.images.selection import select
from tests.helpers.layouts import image_bytes, write_tar
from tests.helpers.refusals import refuses

LABELS = ["cat", "dog", "owl"]
IMAGES = [image_bytes(seed) for seed in range(4)]


@pytest.mark.parametrize(
    ("suffix", "contents", "indices"),
    [
        ("cls", [b"1", b"0\n", b"2"], [1, 0, 2]),
        ("cls", [b"dog", b"cat\n", b"owl"], [1, 0, 2]),
        ("json", [b'{"label": 1}', b'{"label": 0, "width": 8}', b'{"label": 2}'], [1, 0, 2]),
        ("json", [b'{"class_name": "dog"}', b'{"class_name": "cat"}', b'{"class_name": "owl"}'], [1, 0, 2]),
    ],
)
def test_forms_of_labels(tmp_path: Path, suffix: str, contents: list[bytes], indices: list[int]) -> None:
    members: dict[str, bytes] = {}
    for index, content in enumerate(contents):
        members |= {f"./some/{index:04}.v2.PNG": IMAGES[index], f"./some/{index:04}.{suffix}": content}
    members |= {"some/.hidden.png": b"", "some/0000.txt": b"a caption"}
    dataset = Dataset.open(write_tar(tmp_path / "set.tar", members), LABELS)
    assert [(sample.name, sample.label) for sample in dataset.samples] == [
        (f"some/{position:04}.v2.PNG", index) for position, index in enumerate(indices)
    ]
    assert [dataset.read(sample) for sample in dataset.samples] == IMAGES[:3]


def test_cls_counts_before_json(tmp_path: Path) -> None:
    members = {"a.json": json.dumps({"label": "cat"}).encode(), "a.cls": b"owl", "a.png": IMAGES[0]}
    assert Dataset.open(write_tar(tmp_path / "set.tar", members), LABELS).samples[0].label == 2


def test_parts_of_another_kind_are_no_images_of_their_own(tmp_path: Path) -> None:
    members = {
        "some/1.seg.png": IMAGES[3], "some/1.jpg": IMAGES[0], "some/1.cls": b"cat", "some/1.aux.cls": b"owl",
        "2.png": IMAGES[1], "2.depth.v2.png": IMAGES[3], "2.json": b'{"label": "dog"}', "2.seg.json": b'{"label": 2}',
        "3.rgb.png": IMAGES[2], "3.cls": b"owl",
    }  # fmt: skip
    dataset = Dataset.open(write_tar(tmp_path / "set.tar", members), LABELS)
    assert {sample.name: sample.label for sample in dataset.samples} == {"some/1.jpg": 0, "2.png": 1, "3.rgb.png": 2}


def test_shards_by_pattern_and_by_folder(tmp_path: Path) -> None:
    for shard, label in enumerate(LABELS):
        write_tar(tmp_path / f"set/photos-{shard + 8:03}.tar", {"1.png": IMAGES[shard], "1.cls": label.encode()})
    expected = [("photos-008.tar/1.png", 0), ("photos-009.tar/1.png", 1), ("photos-010.tar/1.png", 2)]
    for place in (tmp_path / "set", tmp_path / "set/photos-{008..010}.tar"):
        dataset = Dataset.open(place, LABELS)
        assert [(sample.name, sample.label) for sample in dataset.samples] == expected
        assert [dataset.read(sample) for sample in dataset.samples] == IMAGES[:3]
    with refuses(DataError, "1 of", "4", "photos-011.tar'"):
        Dataset.open(tmp_path / "set/photos-{008..011}.tar", LABELS)
    with refuses(DataError, 1_000_001):
        Dataset.open(tmp_path / "set/photos-{0..1000000}.tar", LABELS)


def test_members_are_read_at_their_offsets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    members = {name: content for i in range(3) for name, content in ((f"{i}.png", IMAGES[i]), (f"{i}.cls", b"cat"))}
    dataset = Dataset.open(write_tar(tmp_path / "set.tar", members), LABELS)
    sizes = []
    read = shards._read

    def reading(file: Path, offset: int, size: int) -> bytes:
        sizes.append(size)
        return read(file, offset, size)

    monkeypatch.setattr(shards, "_read", reading)
    assert dataset.read(dataset.samples[2]) == IMAGES[2]
    assert sizes == [len(IMAGES[2])]


@pytest.mark.parametrize(
    "beside",
    [{}, {"b.cls": b""}, {"b.cls": b"\xff"}, {"b.json": b"[1]"}, {"b.json": b"{"}, {"b.json": b'{"label": 0.5}'}],
)
def test_images_without_a_label(tmp_path: Path, beside: dict[str, bytes]) -> None:
    place = write_tar(tmp_path / "set.tar", {"a.png": IMAGES[0], "a.cls": b"cat", "b.png": IMAGES[1]} | beside)
    with refuses(DataError, "'b.png'") as caught:
        Dataset.open(place, LABELS)
    assert "KEY.cls" in caught.value.fix


def test_a_tar_of_class_folders_is_not_webdataset(tmp_path: Path) -> None:
    place = write_tar(tmp_path / "set.tar", {"cat/1.png": IMAGES[0], "owl/1.png": IMAGES[1]})
    with refuses(DataError, "2 images"):
        Dataset.open(place, LABELS)


def test_a_truncated_image_is_skipped_and_counted(tmp_path: Path) -> None:
    members = {"a.png": IMAGES[0], "a.cls": b"cat", "b.png": IMAGES[1][:60], "b.cls": b"owl"}
    chosen = select(Dataset.open(write_tar(tmp_path / "set.tar", members), LABELS), 0, 0)
    assert [sample.name for sample in chosen.samples] == ["a.png"]
    assert [name for name, _ in chosen.unreadable] == ["b.png"]


def test_damaged_tars(tmp_path: Path) -> None:
    (tmp_path / "empty.tar").write_bytes(b"")
    with refuses(DataError, "empty.tar'"):
        Dataset.open(tmp_path / "empty.tar", LABELS)
    with tarfile.open(tmp_path / "zipped.tar", "w:gz") as archive:
        archive.add(tmp_path / "empty.tar")
    with refuses(DataError, "zipped.tar'") as caught:
        Dataset.open(tmp_path / "zipped.tar", LABELS)
    assert "gunzip" in caught.value.fix
    place = write_tar(tmp_path / "cut.tar", {"a.png": IMAGES[0], "a.cls": b"cat", "b.png": bytes(4000)})
    place.write_bytes(place.read_bytes()[:3000])
    with refuses(DataError, "cut.tar'"):
        Dataset.open(place, LABELS)


def test_a_member_that_is_there_twice(tmp_path: Path) -> None:
    place = write_tar(tmp_path / "set.tar", {"a.png": IMAGES[0], "./a.png": IMAGES[1], "a.cls": b"cat"})
    with refuses(DataError, "'a.png'"):
        Dataset.open(place, LABELS)
