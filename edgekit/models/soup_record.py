"""The record of a soup: the document that `edgekit soup` prints and stores in the soup's file."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec
from safetensors import SafetensorError, safe_open

METADATA = "edgekit.soup"
"""Metadata key of a soup's file that stores the record as JSON."""

Method = Literal["uniform", "greedy"]


@dataclass(frozen=True, kw_only=True)
class SoupMember:
    """One of the checkpoints; its top-1 figures are on the held-out images, or None if nothing was measured."""

    file: str
    """Name of the checkpoint's file, without the folder."""
    sha256: str
    kept: bool
    """Whether its weights are in the soup."""
    held_out_top1: float | None = None
    """Top-1 of the member alone."""
    greedy_top1: float | None = None
    """Top-1 of the greedy soup when this member was tried."""


@dataclass(frozen=True)
class SoupAccuracy:
    """Top-1 of one set of weights; `final_top1` is on images that chose no member, or None without such images."""

    held_out_top1: float
    final_top1: float | None


@dataclass(frozen=True)
class SoupAccuracies:
    """Top-1 of the best member, of the mean of all members and of the greedy soup."""

    best_single: SoupAccuracy
    uniform: SoupAccuracy
    greedy: SoupAccuracy


@dataclass(frozen=True)
class HeldOut:
    """The images that chose the members. Because of that, they can't tell how accurate the soup is."""

    count: int
    sha256: str
    seed: int
    images: tuple[str, ...]
    """SHA-256 of each image."""


@dataclass(frozen=True, kw_only=True)
class SoupRecord:
    """A soup: its members, the most accurate first, and the measured figures, or None if nothing was measured."""

    schema_version: Literal[1] = 1
    edgekit: str
    method: Method
    members: tuple[SoupMember, ...]
    accuracy: SoupAccuracies | None = None
    held_out: HeldOut | None = None
    final_count: int | None = None
    """Number of images on which `final_top1` was measured."""


def read_record(path: Path) -> SoupRecord | None:
    """Read the record in a soup's file; None if the file isn't a soup."""
    if path.suffix.lower() != ".safetensors" or not path.is_file():
        return None
    try:
        with safe_open(path, "pt") as file:
            text = (file.metadata() or {}).get(METADATA)
        return msgspec.json.decode(text, type=SoupRecord) if text else None
    except (SafetensorError, msgspec.DecodeError):
        return None  # reading the weights reports the damaged file


def record_metadata(record: SoupRecord) -> dict[str, str]:
    """Metadata for the file of a soup."""
    return {"format": "pt", METADATA: json.dumps(msgspec.to_builtins(record))}


def held_out_of(weights: str | None) -> tuple[str, ...]:
    """SHA-256 of the images on which a soup's members were chosen; empty for other weights."""
    record = read_record(Path(weights)) if weights else None
    return record.held_out.images if record and record.held_out else ()
