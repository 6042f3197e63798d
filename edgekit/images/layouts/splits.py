"""Sorts images and shards by their split."""

import shlex
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

from edgekit.errors import DataError
from edgekit.images.layouts.layout import SPLITS

T = TypeVar("T")


def by_split(
    items: Iterable[T], split_of: Callable[[T], str], place: Path, inner: str
) -> list[tuple[str, Path, list[T]]]:
    """(split, path that names it, its items) of each split in the order of its name, or of the split `inner` alone.

    Items that all have the same split, or none, are one set without splits. Raises DataError if there is no split
    `inner`, or if only some items have a split.
    """
    groups: dict[str, list[T]] = {}
    for item in items:
        groups.setdefault(split_of(item), []).append(item)
    named = sorted(filter(None, groups))
    if inner:
        if inner not in groups:
            raise DataError(
                f"'{place}' has no split '{inner}'",
                valid=", ".join(named) or "the whole set, because it has no splits",
                fix=f"Run with `--data {shlex.quote(str(place / named[0] if named else place))}`",
            )
        return [("", place / inner, groups[inner])]
    if len(groups) <= 1:
        return [("", place, [item for group in groups.values() for item in group])]
    if unknown := sorted(name for name in groups if name.casefold() not in SPLITS):
        has = f"have the split '{unknown[0]}'" if unknown[0] else "have no split"
        raise DataError(
            f"{len(groups[unknown[0]])} entries of '{place}' {has}, and others have '{named[-1]}'",
            valid=", ".join(SPLITS),
            fix="Name the split of every entry",
        )
    return [(split, place / split, groups[split]) for split in sorted(groups)]
