"""Writes the same labelled images in each layout that edgekit reads."""

import csv
import json
import tarfile
import zipfile
from collections.abc import Callable, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


def image_bytes(seed: int) -> bytes:
    """A PNG of 8x8 random pixels."""
    buffer = BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def write_folder(place: Path, members: Mapping[str, bytes]) -> Path:
    """A folder with these files."""
    place.mkdir(parents=True, exist_ok=True)
    for name, content in members.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_bytes(content)
    return place


def write_zip(place: Path, members: Mapping[str, bytes]) -> Path:
    """A zip with these members."""
    with zipfile.ZipFile(place, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return place


def write_tar(place: Path, members: Mapping[str, bytes]) -> Path:
    """A tar with these members."""
    place.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(place, "w") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, BytesIO(content))
    return place


def write_table(place: Path, rows: Sequence[Sequence[object]], delimiter: str = ",") -> Path:
    """A CSV with these rows, of which the first is the header."""
    with place.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, delimiter=delimiter).writerows(rows)
    return place


def write_parquet(
    place: Path,
    images: Sequence[bytes | None],
    labels: Sequence[Any],
    classes: Sequence[str] = (),
    plain: bool = False,
    group: int = 2,
) -> Path:
    """Parquet as Hugging Face's datasets writes it, in row groups of `group` images; `plain` without a struct."""
    import pyarrow
    from pyarrow import parquet

    place.parent.mkdir(parents=True, exist_ok=True)
    column: Any = [*images]
    if not plain:
        struct = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
        column = pyarrow.array([{"bytes": image, "path": None} for image in images], struct)
    table = pyarrow.table({"image": column, "label": [*labels]})
    if classes:
        feature: Any = {"names": [*classes], "_type": "ClassLabel"}
        if isinstance(labels[0], list):
            feature = {"feature": feature, "_type": "List"}
        features = {"image": {"_type": "Image"}, "label": feature}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    parquet.write_table(table, place, row_group_size=group)
    return place


Images = Mapping[str, Sequence[bytes]]
"""Images by the name of their class."""


def _files(images: Images) -> dict[str, bytes]:
    return {f"{name}/{index}.png": image for name, members in images.items() for index, image in enumerate(members)}


def _pairs(images: Images) -> list[tuple[bytes, str]]:
    return [(image, name) for name, members in images.items() for image in members]


def as_folder(place: Path, images: Images) -> Path:
    """A folder of class folders."""
    return write_folder(place / "set", _files(images))


def as_zip(place: Path, images: Images) -> Path:
    """A zip of class folders."""
    return write_zip(place / "set.zip", _files(images))


def as_json(place: Path, images: Images) -> Path:
    """A folder of images with a JSON file beside each."""
    files: dict[str, bytes] = {}
    for index, (image, name) in enumerate(_pairs(images)):
        files |= {f"{index}.png": image, f"{index}.json": json.dumps({"label": name}).encode()}
    return write_folder(place / "json", files)


def as_csv(place: Path, images: Images) -> Path:
    """A CSV beside a folder with the images."""
    files = _files(images)
    write_folder(place / "images", files)
    rows = [(f"images/{name}", name.partition("/")[0]) for name in files]
    return write_table(place / "set.csv", [("path", "label"), *rows])


def as_parquet(place: Path, images: Images) -> Path:
    """One Parquet file with the names of the classes in its schema."""
    pairs, classes = _pairs(images), sorted(images)
    return write_parquet(
        place / "set.parquet",
        [image for image, _ in pairs],
        [classes.index(name) for _, name in pairs],
        classes,
    )


def as_tar(place: Path, images: Images) -> Path:
    """A folder with two shards of WebDataset."""
    pairs = _pairs(images)
    for shard in (0, 1):
        members: dict[str, bytes] = {}
        for index, (image, name) in enumerate(pairs[shard::2]):
            members |= {f"{index:04}.png": image, f"{index:04}.cls": name.encode()}
        write_tar(place / "shards" / f"set-{shard:03}.tar", members)
    return place / "shards"


WRITERS: dict[str, Callable[[Path, Images], Path]] = {
    "folder": as_folder,
    "zip": as_zip,
    "json": as_json,
    "csv": as_csv,
    "parquet": as_parquet,
    "tar": as_tar,
}
