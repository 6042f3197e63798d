"""Tar shards of WebDataset: `key.jpg` beside `key.cls` or `key.json`.

Other images of the same key, such as `key.seg.png`, are left out.
"""

import re
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import ClassVar, Self

from edgekit.errors import DataError
from edgekit.images.layouts.folder import Shard, Shards, find_shards
from edgekit.images.layouts.layout import (
    LONGEST_LABEL,
    MAX_IMAGE_BYTES,
    Contents,
    Labels,
    ListedImage,
    Part,
    Terms,
    as_text,
    file_in,
    is_image,
    is_visible,
    label_in_json,
)

_IN_SHARD = re.compile(r"(.+?\.tar)/(.+)", re.IGNORECASE)
TERMS = Terms("label", "without a label", "Add a member KEY.cls, or KEY.json with the key label, for each KEY.jpg")


@dataclass(frozen=True)
class WebDataset:
    """A tar, or a folder or pattern of them, whose names may tell the split."""

    shards: Shards
    split: str
    """The only split to list; empty for all."""
    description: ClassVar[str] = "tar shards of WebDataset"

    @classmethod
    def open(cls, place: Path, inner: str) -> Self | None:
        """The set of files with the suffix .tar. Raises DataError unless the first is a tar without compression."""
        shards = find_shards(place, ".tar", inner)
        if shards is None:
            return None
        first = shards.files[0].file
        try:
            tarfile.open(first, "r:").close()
        except (OSError, tarfile.TarError) as error:
            raise _damaged(first, error) from error
        return cls(shards, inner)

    def contents(self) -> Contents:
        """List the members by their headers, and read the labels. Raises DataError for a damaged tar."""
        parts = []
        for split, path, shards in self.shards.parts(self.split):
            images = tuple(image for shard in shards for image in _labelled(shard))
            parts.append(Part(split, path, images, TarStore(self.shards.root)))
        return Contents(tuple(parts), TERMS)


@dataclass(frozen=True)
class TarStore:
    """Reads members at their offsets. The name of an image is the shard's, if there are several, and the member's."""

    root: Path
    """Folder that the shards' names are relative to; for a single shard, that file."""

    def read(self, name: str) -> bytes:
        """The bytes of a member."""
        file, member = self.root, name
        if self.root.is_dir():
            match = _IN_SHARD.fullmatch(name)
            if match is None:
                raise KeyError(name)
            file, member = file_in(self.root, match[1]), match[2]
        offset, size = _members(file)[member]
        if size > MAX_IMAGE_BYTES:
            raise OSError(f"its size exceeds {MAX_IMAGE_BYTES} bytes")
        return _read(file, offset, size)


@lru_cache(maxsize=256)
def _members(file: Path) -> Mapping[str, tuple[int, int]]:
    """(offset, size) of the content of each file in a tar, by name. Reads the headers only. Raises OSError."""
    members: dict[str, tuple[int, int]] = {}
    try:
        with tarfile.open(file, "r:") as archive:
            for member in archive:
                name = as_text(member.name.removeprefix("./"))
                if not member.isreg() or not is_visible(name):
                    continue
                if name in members:
                    raise OSError(f"it has the member '{name}' twice")
                members[name] = member.offset_data, member.size
    except tarfile.TarError as error:
        raise OSError(f"{error}") from error
    return members


def _read(file: Path, offset: int, size: int) -> bytes:
    with file.open("rb") as opened:
        opened.seek(offset)
        return opened.read(size)


def _damaged(file: Path, error: Exception) -> DataError:
    return DataError(
        f"can't read the tar '{file}': {getattr(error, 'strerror', None) or error}",
        valid="a complete tar without compression, whose members can be read at their offsets",
        fix="Download the file again. If it is compressed, unpack it with gunzip, unzstd or unxz",
    )


def _labelled(shard: Shard) -> list[ListedImage]:
    """The images of a shard, each with the label beside it."""
    try:
        members = _members(shard.file)
    except OSError as error:
        raise _damaged(shard.file, error) from error
    order = [(plain, suffix) for plain in (False, True) for suffix in (".json", ".cls")]
    beside = {
        _key(name): name
        for plain, suffix in order
        for name in members
        if _is_plain(name) == plain and name.lower().endswith(suffix)
    }
    names = list(filter(is_image, members))
    pictured = {_key(name) for name in names if _is_plain(name)}
    images = []
    for name in names:
        if not _is_plain(name) and _key(name) in pictured:
            continue  # such as the mask KEY.seg.png beside KEY.jpg
        label = _read_label(shard.file, other, *members[other]) if (other := beside.get(_key(name))) else None
        images.append(ListedImage(shard.within(name), label))
    return images


def _key(name: str) -> str:
    """WebDataset's key of a member: its path up to the first dot of the file's name."""
    path = PurePosixPath(name)
    return str(path.with_name(path.name.partition(".")[0]))


def _is_plain(name: str) -> bool:
    """Whether a member is its sample's own, such as KEY.jpg, and not a part of another kind, such as KEY.seg.png."""
    return PurePosixPath(name).name.count(".") == 1


def _read_label(file: Path, name: str, offset: int, size: int) -> Labels:
    """The label in a member: a .cls is a name or an index, or one in each line; a .json has it under a usual key."""
    if size > LONGEST_LABEL:
        return None
    content = _read(file, offset, size)
    if name.lower().endswith(".json"):
        return label_in_json(content)
    try:
        lines = [line.strip() for line in content.decode("utf-8-sig").split("\n") if line.strip()]
    except UnicodeDecodeError:
        return None
    return lines[0] if len(lines) == 1 else tuple(lines)
