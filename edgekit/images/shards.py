"""Sets in Parquet files and in tar shards.

Parquet is read as data-set hubs write it: a column of image bytes and one of labels. It needs pyarrow, an extra. Tar
shards are those of WebDataset: `key.jpg` beside `key.cls` or `key.json`. Other images of the same key, such as
`key.seg.png`, are left out.
"""

import json
import re
import shlex
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, ClassVar, Self

from edgekit.errors import DataError
from edgekit.images.folders import ShardFile, Shards, find_shards
from edgekit.images.layout import (
    IMAGE_COLUMNS,
    LABEL_COLUMNS,
    LONGEST_LABEL,
    MAX_IMAGE_BYTES,
    Contents,
    Labels,
    ListedImage,
    Terms,
    as_text,
    file_in,
    find_column,
    is_image,
    is_visible,
    label_in_json,
    read_label,
)
from edgekit.support.libraries import import_needed

if TYPE_CHECKING:
    from pyarrow import DataType, Schema
    from pyarrow.parquet import FileMetaData, ParquetFile

EXTRA = "parquet"
PARQUET_TERMS = Terms("label", "without a label", "Write their labels, or choose a split that has labels")
LARGEST_GROUP = 256 << 20
"""Most bytes of images in a row group, which is read as a whole. Hubs write groups of 100 images."""


@dataclass(frozen=True)
class Parquet:
    """A Parquet file, or a folder or pattern of them, whose names may tell the split."""

    shards: Shards
    image: str
    """Path of the column with the bytes, such as "image.bytes"."""
    label: str | None
    """The column of labels; None without any column that could be one."""
    classes: tuple[str, ...]
    """Names of the classes in the order of the labels, if the schema has them."""
    description: ClassVar[str] = "Parquet with the columns image and label"

    @classmethod
    def open(cls, place: Path, inner: str) -> Self | None:
        """The set of files with the suffix .parquet. Raises DataError unless the first has the columns."""
        shards = find_shards(place, ".parquet", inner)
        if shards is None:
            return None
        first = shards.files[0].file
        schema = _open(first).schema_arrow
        names = _class_names(schema)
        image, label = _image_column(schema, first), _label_column(schema, first, names)
        return cls(shards, image, label, names.get(label or "", ()))

    def contents(self) -> Contents:
        """Read the labels of all rows. Raises DataError for a damaged file, or row groups that are too large."""
        store = ParquetStore(self.shards.root, self.image)
        return self.shards.contents(self._rows, store, PARQUET_TERMS, *self.classes)

    def _rows(self, shard: ShardFile) -> list[ListedImage]:
        with _open(shard.file) as file:
            self._check_columns(file.schema_arrow, shard.file)
            _check_groups(shard.file, file.metadata, self.image)
            if self.label is None:
                return [ListedImage(shard.within(str(row)), None) for row in range(file.metadata.num_rows)]
            try:
                column = file.read(columns=[self.label], use_threads=False).column(0)
                labels = [() if value is None else read_label(value) for value in column.to_pylist()]
            except (OSError, ValueError) as error:
                raise DataError(
                    f"can't read the column '{self.label}' of '{shard.file}': {error}", fix="Write the file again"
                ) from error
        return [ListedImage(shard.within(str(row)), label) for row, label in enumerate(labels)]

    def _check_columns(self, schema: "Schema", file: Path) -> None:
        """Raise DataError unless a file has the columns of the first one, and its classes in the same order."""
        names = _class_names(schema)
        columns = _image_column(schema, file), _label_column(schema, file, names)
        if (*columns, names.get(self.label or "", ())) != (self.image, self.label, self.classes):
            raise DataError(
                f"'{file}' has other columns or classes than '{self.shards.files[0].file}'",
                valid=f"'{self.image}' and {repr(self.label) if self.label else 'none of labels'}, with the same names "
                "of classes",
                fix="Move the files of other sets away",
            )


@dataclass(frozen=True)
class ParquetStore:
    """Reads images from row groups. The name of an image is the file's, if there are several, and the row."""

    root: Path
    """Folder that the files' names are relative to; for a single file, that file."""
    column: str

    def read(self, name: str) -> bytes:
        """The bytes of an image. Reads its row group, unless that is one of the last two."""
        shard, _, row = name.rpartition("/")
        file, index = file_in(self.root, shard) if shard else self.root, int(row)
        metadata = _metadata(file)
        for group in range(metadata.num_row_groups):
            count = metadata.row_group(group).num_rows
            if index < count:
                content = _images(file, group, self.column)[index].as_py()
                break
            index -= count
        else:
            raise KeyError(f"row {row}")
        while isinstance(content, Mapping):
            content = content["bytes"]
        if content is None:
            raise ValueError("the row has no bytes")
        if len(content) > MAX_IMAGE_BYTES:
            raise OSError(f"its size exceeds {MAX_IMAGE_BYTES} bytes")
        return bytes(content)


@cache
def _parquet() -> Any:
    """The module, imported once, because the import silences both streams of the process, which threads share."""
    return import_needed("pyarrow.parquet", EXTRA)


def _open(file: Path) -> "ParquetFile":
    parquet = _parquet()
    try:
        return parquet.ParquetFile(file)
    except (OSError, ValueError) as error:
        raise DataError(
            f"'{file}' is not a Parquet file: {getattr(error, 'strerror', None) or error}",
            fix="Download or write the file again",
        ) from error


@lru_cache(maxsize=64)
def _metadata(file: Path) -> "FileMetaData":
    return _parquet().read_metadata(file)


@lru_cache(maxsize=2)
def _images(file: Path, group: int, column: str) -> Any:
    """The column of a row group. Each call opens the file, so that threads and forked processes share no position."""
    with _parquet().ParquetFile(file, metadata=_metadata(file)) as opened:
        return opened.read_row_group(group, columns=[column], use_threads=False).column(0)


def _image_column(schema: "Schema", file: Path) -> str:
    """Path of the column with image bytes: binary, or `bytes` in a struct. The usual names come first."""
    paths = {field.name: path for field in schema if (path := _bytes_in(field.name, field.type))}
    name = find_column([*paths], IMAGE_COLUMNS) or (next(iter(paths)) if len(paths) == 1 else None)
    if name is None:
        raise _wrong_columns(schema, file, "image bytes", "a binary column, or a struct with the binary field bytes")
    return paths[name]


def _bytes_in(name: str, kind: "DataType") -> str:
    types = import_needed("pyarrow.types", EXTRA)
    if types.is_struct(kind):
        index = kind.get_field_index("bytes")
        return f"{name}.bytes" if index >= 0 and _bytes_in("bytes", kind.field(index).type) else ""
    return name if types.is_binary(kind) or types.is_large_binary(kind) or types.is_binary_view(kind) else ""


def _label_column(schema: "Schema", file: Path, names: Mapping[str, Sequence[str]]) -> str | None:
    """The column with a usual name, or else the only one whose classes the schema names; None if none could be one."""
    types = import_needed("pyarrow.types", EXTRA)

    def is_label(kind: "DataType") -> bool:
        if types.is_dictionary(kind):
            return is_label(kind.value_type)
        return any(
            is_kind(kind) for is_kind in (types.is_null, types.is_integer, types.is_string, types.is_large_string)
        )

    def is_list(kind: "DataType") -> bool:
        if not any(is_kind(kind) for is_kind in (types.is_list, types.is_large_list, types.is_fixed_size_list)):
            return False
        entry = kind.value_type
        return is_label(entry) or types.is_boolean(entry) or types.is_floating(entry)

    columns = [field.name for field in schema if is_label(field.type) or is_list(field.type)]
    if not columns:
        return None
    name = find_column(columns, LABEL_COLUMNS) or (next(iter(names)) if len(names) == 1 else None)
    if name is None or name not in columns:
        raise _wrong_columns(
            schema, file, "labels", f"integers, texts or lists of them, called {', '.join(LABEL_COLUMNS)}"
        )
    return name


def _wrong_columns(schema: "Schema", file: Path, what: str, valid: str) -> DataError:
    columns = ", ".join(f"'{field.name}' ({field.type})" for field in schema)
    return DataError(
        f"'{file}' has no column with {what}: its columns are {columns}",
        valid=valid,
        fix="Rename or add the column",
    )


def _class_names(schema: "Schema") -> dict[str, tuple[str, ...]]:
    """Names of the classes by column: the `ClassLabel` features in the metadata that Hugging Face's datasets writes.

    A column of lists has the feature of its entries in another one, or in a list.
    """
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        entries = {
            name: each[0] if isinstance(each, list) else each.get("feature", each) for name, each in features.items()
        }
        return {
            column: tuple(map(str, feature["names"]))
            for column, feature in entries.items()
            if isinstance(feature, dict) and feature.get("_type") == "ClassLabel" and feature.get("names")
        }
    except (LookupError, ValueError, TypeError, AttributeError):
        return {}


def _check_groups(file: Path, metadata: "FileMetaData", column: str) -> None:
    """Raise DataError for a file whose row groups are too large to read one for each image."""
    largest = 0
    for group in range(metadata.num_row_groups):
        chunks = (metadata.row_group(group).column(index) for index in range(metadata.num_columns))
        largest = max(
            largest, *(chunk.total_uncompressed_size for chunk in chunks if chunk.path_in_schema == column), 0
        )
    if largest <= LARGEST_GROUP:
        return
    target = file.with_stem(f"{file.stem}-groups")
    code = (
        "import pyarrow.parquet as p; "
        f"f = p.ParquetFile({str(file)!r}); w = p.ParquetWriter({str(target)!r}, f.schema_arrow); "
        "[w.write_batch(b) for b in f.iter_batches(100)]; w.close()"
    )
    raise DataError(
        f"a row group of '{file}' has {largest >> 20} MiB of images, and is read as a whole",
        valid=f"at most {LARGEST_GROUP >> 20} MiB",
        fix=f"Write it in smaller groups: python -c {shlex.quote(code)}",
    )


_IN_SHARD = re.compile(r"(.+?\.tar)/(.+)", re.IGNORECASE)
TAR_TERMS = Terms("label", "without a label", "Add a member KEY.cls, or KEY.json with the key label, for each KEY.jpg")


@dataclass(frozen=True)
class WebDataset:
    """A tar, or a folder or pattern of them, whose names may tell the split."""

    shards: Shards
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
        return cls(shards)

    def contents(self) -> Contents:
        """List the members by their headers, and read the labels. Raises DataError for a damaged tar."""
        return self.shards.contents(_labelled, TarStore(self.shards.root), TAR_TERMS)


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


def _labelled(shard: ShardFile) -> list[ListedImage]:
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
    folders = {PurePosixPath(name).parent for name in names}
    if len(folders) > 1 and all(image.label is None for image in images):
        raise DataError(
            f"'{shard.file}' has {len(images)} images in {len(folders)} folders, and no label beside any",
            valid="a label beside each image, or images without labels in one folder",
            fix=f"{TAR_TERMS.fix}. If the folders are classes, unpack the tar or use a zip",
        )
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
