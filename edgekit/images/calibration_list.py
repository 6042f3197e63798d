"""calibration.json: every image that was calibrated on and the recipe. The same list gives the same bundles again."""

import json
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgekit.config.recipes import Recipe, parse_recipe
from edgekit.errors import InputError
from edgekit.images.selection import Selection
from edgekit.support.files import write_json

FEWEST = 32
"""Of fewer images, ranges depend on which they are."""


@dataclass(frozen=True)
class CalibrationList:
    """What a calibration.json says: sha256 by image name, in the order of calibration, and the recipe."""

    path: Path
    images: Mapping[str, str]
    recipe: Recipe


def write_list(path: Path, chosen: Selection, recipe: Recipe, seed: int) -> None:
    """calibration.json: every image used, with its sha256, the seed and the recipe."""
    write_json(
        path,
        {
            "schema_version": 1,
            "seed": seed,
            "sha256": chosen.sha256,
            "data": chosen.source.name,
            "recipe": asdict(recipe),
            "images": [
                {"name": sample.name, "sha256": digest, "label": sample.label}
                for sample, digest in zip(chosen.samples, chosen.hashes, strict=True)
            ],
            "unreadable": [{"name": name, "reason": reason} for name, reason in chosen.unreadable],
        },
    )


def read_list(path: Path, rewrites: Collection[str] | None = None) -> CalibrationList:
    """A calibration.json; InputError if it isn't one, ProfileError if its recipe isn't valid for this edgekit."""
    try:
        found = json.loads(path.read_text("utf-8"))
        if found["schema_version"] != 1:
            raise ValueError(f"schema_version is {found['schema_version']}, 1 is valid")
        images = {each["name"]: each["sha256"] for each in found["images"]}
        recipe = dict(found["recipe"])
        table = recipe | recipe.pop("targets")
    except OSError as error:
        raise InputError(
            f"calibration list '{path}' can't be read: {error.strerror or error}. Give the calibration.json of a run."
        ) from error
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        what = f"key {error} is missing" if isinstance(error, KeyError) else str(error)
        raise InputError(f"'{path}' is not a calibration.json: {what}. Give the one of a run folder.") from error
    if not images or not all(isinstance(text, str) for pair in images.items() for text in pair):
        raise InputError(f"'{path}' is not a calibration.json: it lists no images. Give the one of a run folder.")
    return CalibrationList(path, images, parse_recipe(_without_nulls(table), str(path), rewrites))


def _without_nulls(table: Any) -> Any:
    """As TOML would have it, which has no null: a key that isn't set isn't there."""
    if not isinstance(table, dict):
        return table
    return {key: _without_nulls(value) for key, value in table.items() if value is not None}


def doubts(chosen: Selection, classes: int) -> list[str]:
    """Why this set of images may give ranges that don't fit others: too few, or few of the model's classes."""
    count, found = len(chosen.samples), Counter(sample.label for sample in chosen.samples)
    said = []
    if count < FEWEST:
        said.append(f"{count} calibration images are few: ranges depend on which they are; {FEWEST} or more are better")
    if len(found) < min(count, classes) / 2:
        said.append(
            f"the calibration images are one-sided: of {len(found)} of the model's {classes} classes, where {count} "
            f"images could be of {min(count, classes)}; give images of every class"
        )
    elif count >= FEWEST and (most := max(found.values())) > max(4 * count / len(found), 4):
        said.append(f"the calibration images are one-sided: {most} of {count} are of one class of {len(found)}")
    return said
