"""Lists of rewrites that say what differs from another list, written out in full."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edgekit.config.toml_reader import build
from edgekit.errors import ProfileError, as_sentences, did_you_mean


@dataclass(frozen=True)
class Change:
    """The difference of a list of rewrites from the list that it extends."""

    add: tuple[str, ...] = ()
    """Rewrites that the other list doesn't have."""
    drop: tuple[str, ...] = ()
    """Rewrites that only the other list has."""


def with_full_lists(table: Mapping[str, Any], where: str) -> dict[str, Any]:
    """A runtime's table, as TOML holds it, with full lists in place of tables with `add` and `drop`.

    `int8_rewrites` extends `rewrites`. Under `on`, `rewrites` extends the runtime's `rewrites`, and the runtime's
    `int8_rewrites` applies unless the variant has its own. Values of other types stay for the reader to refuse. Raises
    ProfileError for a change that doesn't fit its list.
    """
    rewrites = table.get("rewrites")
    if isinstance(rewrites, Mapping):
        raise ProfileError(
            f"{where}: rewrites has add and drop, but extends no list",
            valid="a list of strings; add and drop belong in int8_rewrites, or in a table under `on`",
        )
    full = {**table, **_int8_list(table, rewrites, where)}
    variants = table.get("on")
    if isinstance(variants, Mapping):
        full["on"] = {
            pattern: _variant(table, keys, f"{where}.on.{pattern}") if isinstance(keys, Mapping) else keys
            for pattern, keys in variants.items()
        }
    return full


def _variant(table: Mapping[str, Any], keys: Mapping[str, Any], where: str) -> dict[str, Any]:
    full = {**keys}
    rewrites = table.get("rewrites")
    if "rewrites" in keys:
        full["rewrites"] = rewrites = _changed(rewrites, keys["rewrites"], f"{where}: rewrites")
    return {**full, **_int8_list({**table, **keys}, rewrites, where)}


def _int8_list(table: Mapping[str, Any], rewrites: Any, where: str) -> dict[str, Any]:
    if "int8_rewrites" not in table:
        return {}
    return {"int8_rewrites": _changed(rewrites, table["int8_rewrites"], f"{where}: int8_rewrites")}


def _changed(base: Any, value: Any, where: str) -> Any:
    """`base` with a change applied; a value that is no change replaces the list."""
    if not isinstance(value, Mapping) or not isinstance(base, list):
        return value
    change, names = build(Change, value, where), list(base)
    for name in change.drop:
        if name not in names:
            fix = as_sentences(did_you_mean(name, names), "Remove it from `drop`")
            raise ProfileError(f"{where} drops '{name}', which isn't in the list", valid=", ".join(names), fix=fix)
        names.remove(name)
    for name in change.add:
        if name in names:
            raise ProfileError(f"{where} adds '{name}', which is in the list already", fix="Remove it from `add`")
        names.append(name)
    return names
