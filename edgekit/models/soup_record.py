"""What `edgekit soup` did: the document that it prints, which is in the soup's file too."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec
from safetensors import SafetensorError, safe_open

METADATA = "edgekit.soup"
"""Key of the record, as JSON, in the metadata of a soup's file."""

Method = Literal["uniform", "greedy"]


@dataclass(frozen=True, kw_only=True)
class SoupMember:
    """One checkpoint that was given; top-1 is on the held-out images, None where nothing was measured."""

    file: str
    """Name without its folder."""
    sha256: str
    kept: bool
    """Whether its weights are in the soup."""
    held_out_top1: float | None = None
    """Of the member alone."""
    greedy_top1: float | None = None
    """Of the greedy soup when this member was tried."""


@dataclass(frozen=True)
class SoupAccuracy:
    """Top-1 of one set of weights; `final_top1` is on images that chose nothing, None where there are none."""

    held_out_top1: float
    final_top1: float | None


@dataclass(frozen=True)
class SoupAccuracies:
    """The best member beside the mean of all and the greedy choice."""

    best_single: SoupAccuracy
    uniform: SoupAccuracy
    greedy: SoupAccuracy


@dataclass(frozen=True)
class HeldOut:
    """The images that chose the members. They can't tell how good the soup is."""

    count: int
    sha256: str
    seed: int
    images: tuple[str, ...]
    """SHA-256 of each."""


@dataclass(frozen=True, kw_only=True)
class SoupRecord:
    """A soup: its members, the most accurate first, and what was measured; None where nothing was."""

    schema_version: Literal[1] = 1
    edgekit: str
    method: Method
    members: tuple[SoupMember, ...]
    accuracy: SoupAccuracies | None = None
    held_out: HeldOut | None = None
    final_count: int | None = None
    """Images of the final figures."""


def read_record(path: Path) -> SoupRecord | None:
    """What a file says of how it was made, or None if it isn't a soup."""
    if path.suffix.lower() != ".safetensors" or not path.is_file():
        return None
    try:
        with safe_open(path, "pt") as file:
            text = (file.metadata() or {}).get(METADATA)
        return msgspec.json.decode(text, type=SoupRecord) if text else None
    except (SafetensorError, msgspec.DecodeError):
        return None  # a damaged file is told where its weights are read


def record_metadata(record: SoupRecord) -> dict[str, str]:
    """The metadata of a soup's file."""
    return {"format": "pt", METADATA: json.dumps(msgspec.to_builtins(record))}


def held_out_of(weights: str | None) -> tuple[str, ...]:
    """SHA-256 of the images that a soup's members were chosen on; empty for other weights."""
    record = read_record(Path(weights)) if weights else None
    return record.held_out.images if record and record.held_out else ()
