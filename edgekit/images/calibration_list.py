"""calibration.json: the images and the recipe of a calibration. The same list reproduces the same bundles."""

import json
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgekit.config.recipes import Recipe, parse_recipe
from edgekit.errors import InputError
from edgekit.images.selection import Selection
from edgekit.support.files import write_json

FIX = "Use the calibration.json of a run folder"


@dataclass(frozen=True)
class CalibrationList:
    """Contents of a calibration.json."""

    path: Path
    images: Mapping[str, str]
    """SHA-256 by image name, in the order of calibration."""
    recipe: Recipe


def write_list(path: Path, chosen: Selection, recipe: Recipe, seed: int) -> None:
    """Write calibration.json: every image used with its sha256, the seed and the recipe."""
    write_json(
        path,
        {
            "schema_version": 1,
            "seed": seed,
            "sha256": chosen.sha256,
            "data": chosen.source.name,
            "recipe": asdict(recipe),
            "images": [
                {
                    "name": image.sample.name,
                    "sha256": image.sha256,
                    "label": image.sample.labels or image.sample.label,
                }
                for image in chosen.images
            ],
            "unreadable": [{"name": name, "reason": reason} for name, reason in chosen.unreadable],
        },
    )


def read_list(path: Path, rewrites: Collection[str] | None = None) -> CalibrationList:
    """Read a calibration.json. Raises InputError if it is not valid, or ProfileError if its recipe is not."""
    try:
        document = json.loads(path.read_text("utf-8"))
        if document["schema_version"] != 1:
            raise ValueError(f"schema_version is {document['schema_version']} instead of 1")
        images = {image["name"]: image["sha256"] for image in document["images"]}
        recipe = dict(document["recipe"])
        targets = recipe.pop("targets")
        table = recipe | targets
    except OSError as error:
        raise InputError(f"calibration list '{path}' can't be read: {error.strerror or error}", fix=FIX) from error
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        reason = f"key {error} is missing" if isinstance(error, KeyError) else str(error)
        raise InputError(f"'{path}' is not a calibration.json: {reason}", fix=FIX) from error
    if not images or not all(isinstance(text, str) for pair in images.items() for text in pair):
        raise InputError(f"'{path}' is not a calibration.json: it lists no images", fix=FIX)
    return CalibrationList(path, images, parse_recipe(_without_nulls(table), str(path), rewrites))


def listed_hashes(path: Path, sha256: str) -> tuple[str, ...] | None:
    """SHA-256 of the images that a calibration.json lists; None unless it is one, and of the set with this hash."""
    try:
        document = json.loads(path.read_text("utf-8"))
        return tuple(str(image["sha256"]) for image in document["images"]) if document["sha256"] == sha256 else None
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _without_nulls(table: Any) -> Any:
    """The table without keys that are null, because TOML, which recipes are written in, has no null."""
    if not isinstance(table, dict):
        return table
    return {key: _without_nulls(value) for key, value in table.items() if value is not None}
