"""The standard metadata of a .tflite file, by which MediaPipe and the TFLite Task Library configure themselves.

The packages that can write it bring a whole framework, so its few tables are written here. Each field is at its place
in the schema "M001". The names of classes are a text file, in a zip archive after the flatbuffer.
"""

import zipfile
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np

from edgekit.runtime.metadata import Metadata

LABELS_FILE = "labels.txt"
IMAGE_PROPERTIES, NORMALIZATION = 2, 1
"""Types of a tensor's content and of a step of its preparation."""
RGB, GRAYSCALE = 1, 2
AXIS_LABELS = 2
"""Type of a file with a name for each place of a tensor's last axis."""
PARSER = "1.0.0"
"""Oldest version of the parsers that know these tables."""


def standard(metadata: Metadata) -> bytes:
    """The metadata as the flatbuffer that is stored in a model under the name TFLITE_METADATA."""
    builder = flatbuffers.Builder(1024)
    image = _table(
        builder,
        _text(builder, "image"),
        None,
        None,
        _content(builder, GRAYSCALE if metadata.preprocessing.channels == 1 else RGB),
        _vector(builder, _normalization(builder, metadata)),
    )
    files = _vector(builder, _table(builder, _text(builder, LABELS_FILE), None, np.int8(AXIS_LABELS)))
    logits = _table(builder, _text(builder, "logits"), *[None] * 5, files if metadata.classes else None)
    graph = _table(builder, None, None, _vector(builder, image), _vector(builder, logits))
    name = _text(builder, metadata.model or "edgekit")
    root = _table(builder, name, None, None, _vector(builder, graph), *[None] * 3, _text(builder, PARSER))
    builder.Finish(root, b"M001")
    return bytes(builder.Output())


def append_labels(model_file: Path, metadata: Metadata) -> None:
    """Append the archive with the names of classes, uncompressed as its readers need it, to a model file."""
    if not metadata.classes:
        return
    entry = zipfile.ZipInfo(LABELS_FILE)  # of a fixed time
    entry.create_system = 3  # on every system
    with zipfile.ZipFile(model_file, "a") as archive:
        archive.writestr(entry, "\n".join(metadata.classes) + "\n")


def _table(builder: Any, *fields: Any) -> int:
    """Write a table whose fields are offsets (int), numbers of one byte (np.int8) or missing (None)."""
    builder.StartObject(len(fields))
    for place, value in enumerate(fields):
        if isinstance(value, np.int8):
            builder.PrependInt8Slot(place, int(value), 0)
        elif value is not None:
            builder.PrependUOffsetTRelativeSlot(place, value, 0)
    offset: int = builder.EndObject()
    return offset


def _text(builder: Any, text: str) -> int:
    offset: int = builder.CreateString(text)
    return offset


def _vector(builder: Any, table: int) -> int:
    """Write a vector of one table."""
    builder.StartVector(4, 1, 4)
    builder.PrependUOffsetTRelative(table)
    offset: int = builder.EndVector()
    return offset


def _content(builder: Any, colors: int) -> int:
    return _table(builder, np.int8(IMAGE_PROPERTIES), _table(builder, np.int8(colors)))


def _normalization(builder: Any, metadata: Metadata) -> int:
    """(pixel - mean) / std, with a value for each channel, or one where all are equal, which more programs read."""
    mean, std = metadata.normalization
    if len({*mean}) == len({*std}) == 1:
        mean, std = mean[:1], std[:1]
    options = (builder.CreateNumpyVector(np.asarray(values, np.float32)) for values in (mean, std))
    return _table(builder, np.int8(NORMALIZATION), _table(builder, *options))
