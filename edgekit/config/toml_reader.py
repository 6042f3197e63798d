"""Read shipped or user-supplied TOML files strictly into frozen dataclasses."""

import tomllib
from collections.abc import Collection
from dataclasses import MISSING, fields
from difflib import get_close_matches
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from edgekit.errors import ProfileError

T = TypeVar("T")


def data_folder(kind: Literal["targets", "calibration"]) -> Traversable:
    """Where the shipped files are: inside an installed package, or beside it in a checkout."""
    installed = files("edgekit") / "_data" / kind
    return installed if installed.is_dir() else Path(__file__).resolve().parents[2] / kind


def shipped_names(kind: Literal["targets", "calibration"]) -> tuple[str, ...]:
    return tuple(sorted(f.name.removesuffix(".toml") for f in data_folder(kind).iterdir() if f.name.endswith(".toml")))


def unknown(name: str, choices: Collection[str], what: str = "value") -> str:
    near = get_close_matches(name, choices, n=1, cutoff=0.4)
    return f"unknown {what} '{name}': valid are {', '.join(choices)}." + (f" Did you mean '{near[0]}'?" if near else "")


def read_table(kind: Literal["targets", "calibration"], given: str | Path, what: str) -> tuple[str, dict[str, Any]]:
    """(how to call it in messages, its table) of a shipped file's name or of a path."""
    file: Traversable
    if isinstance(given, Path) or given.endswith(".toml") or "/" in given or "\\" in given:
        file = Path(given)
        where = str(given)
    elif given in shipped_names(kind):
        file, where = data_folder(kind) / f"{given}.toml", f"{kind}/{given}.toml"
    else:
        raise ProfileError(f"{unknown(given, shipped_names(kind), what)} A path to a .toml file works too.")
    try:
        return where, tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ProfileError(
            f"{what} '{where}' can't be read: {error}. Shipped: {', '.join(shipped_names(kind))}."
        ) from error
    except tomllib.TOMLDecodeError as error:
        raise ProfileError(f"{what} '{where}' is not TOML: {error}") from error


def build(cls: type[T], table: Any, where: str) -> T:
    """An instance of a dataclass from a table: its fields are the keys, their types and metadata what is valid."""
    if not isinstance(table, dict):
        raise ProfileError(f"{where} is {_show(table)}: it takes a table.")
    hints, all_fields = get_type_hints(cls), fields(cls)  # type: ignore[arg-type]
    keys = [key for f in all_fields for key in f.metadata.get("tables", (f.name,))]
    for key in table:
        if key not in keys:
            raise ProfileError(f"{where}: {unknown(key, keys, 'key')}")
    values: dict[str, Any] = {}
    for f in all_fields:
        hint, at = hints[f.name], f"{where}: {f.name}"
        if "tables" in f.metadata:
            row = get_args(hint)[1]
            values[f.name] = {
                k: build(row, table[k], f"{where}: [{k}]") if k in table else f.metadata["default"]
                for k in f.metadata["tables"]
            }
        elif "variants" in f.metadata:
            values[f.name] = _variants(cls, table, f.name, where)
        elif f.name in table:
            values[f.name] = _convert(table[f.name], hint, at, f.metadata.get("choices"))
        elif f.default is MISSING:
            raise ProfileError(f"{where}: key '{f.name}' is missing: {_describe(hint)}.")
    return cls(**values)


def _variants(cls: type[T], table: dict[str, Any], key: str, where: str) -> dict[str, T]:
    """The tables in `table[key]`, each laid over the other keys of `table`."""
    base = {name: value for name, value in table.items() if name != key}
    given = table.get(key, {})
    if not isinstance(given, dict) or not all(isinstance(each, dict) and key not in each for each in given.values()):
        raise ProfileError(f"{where}: {key} is {_show(given)}: it takes a table for each pattern of device classes.")
    return {pattern: build(cls, base | each, f"{where}.{key}.{pattern}") for pattern, each in given.items()}


def _convert(value: Any, kind: Any, where: str, choices: Collection[str] | None) -> Any:
    """`value` as `kind`: str, bool, int, float, Literal, tuple of str, or one of these and None."""
    if type(None) in get_args(kind):
        kind = get_args(kind)[0]  # TOML has no null: a key that is there isn't None
    if get_origin(kind) is tuple:
        if not isinstance(value, list) or (choices and not value):
            raise ProfileError(f"{where} is {_show(value)}: it takes {_describe(kind)}.")
        return tuple(_convert(each, get_args(kind)[0], where, choices) for each in value)
    if get_origin(kind) is Literal:
        kind, choices = str, get_args(kind)
    number = isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 1e15
    fits = {str: isinstance(value, str), bool: isinstance(value, bool), float: number}
    if not fits.get(kind, number and isinstance(value, int)):
        raise ProfileError(f"{where} is {_show(value)}: it takes {_describe(kind, choices)}.")
    if choices and value not in choices:
        raise ProfileError(f"{where}: {unknown(value, choices)}")
    return float(value) if kind is float else value


def _describe(kind: Any, choices: Collection[str] | None = None) -> str:
    if get_origin(kind) is tuple:
        return "a list of strings"
    if get_origin(kind) is Literal or choices:
        return f"one of {', '.join(choices or get_args(kind))}"
    names = {str: "a string", bool: "true or false", int: "a whole number above 0", float: "a number above 0"}
    return names[kind]


def _show(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else repr(value)
