"""Read TOML files, shipped or the user's, strictly into frozen dataclasses."""

import tomllib
from collections.abc import Collection
from dataclasses import MISSING, fields
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from edgekit.errors import ProfileError, as_sentences, did_you_mean

T = TypeVar("T")


def data_folder(kind: Literal["targets", "calibration"]) -> Traversable:
    """Folder of the shipped files: inside an installed package, or next to the package in a checkout."""
    installed = files("edgekit") / "_data" / kind
    return installed if installed.is_dir() else Path(__file__).resolve().parents[2] / kind


def shipped_names(kind: Literal["targets", "calibration"]) -> tuple[str, ...]:
    """Names of the shipped files, sorted."""
    return tuple(sorted(f.name.removesuffix(".toml") for f in data_folder(kind).iterdir() if f.name.endswith(".toml")))


def unknown(name: str, choices: Collection[str], kind: str = "value", where: str = "", fix: str = "") -> ProfileError:
    """The error for a name that is not one of `choices`. `where` is the place in a file, if it comes from one."""
    place = f"{where}: " if where else ""
    fix = as_sentences(did_you_mean(name, choices), fix)
    return ProfileError(f"{place}unknown {kind} '{name}'", valid=", ".join(choices) or "none", fix=fix)


def read_table(kind: Literal["targets", "calibration"], source: str | Path, noun: str) -> tuple[str, dict[str, Any]]:
    """Read the shipped file of this name or the file at this path. Returns its name for messages, and its table."""
    file: Traversable
    if isinstance(source, Path) or source.endswith(".toml") or "/" in source or "\\" in source:
        file = Path(source)
        where = str(source)
    elif source in shipped_names(kind):
        file, where = data_folder(kind) / f"{source}.toml", f"{kind}/{source}.toml"
    else:
        raise unknown(source, shipped_names(kind), noun, fix="Use one of these names or the path of a .toml file")
    try:
        return where, tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        valid = f"a TOML file, or one of the shipped names {', '.join(shipped_names(kind))}"
        raise ProfileError(f"{noun} '{where}' can't be read: {error}", valid=valid) from error
    except tomllib.TOMLDecodeError as error:
        raise ProfileError(f"{noun} '{where}' is not valid TOML: {error}") from error


def build(cls: type[T], table: Any, where: str) -> T:
    """Build a dataclass from a table. Its fields are the keys; their types and metadata tell which values are valid."""
    if not isinstance(table, dict):
        raise ProfileError(f"{where} is {_show(table)}", valid="a table")
    hints, all_fields = get_type_hints(cls), fields(cls)  # type: ignore[arg-type]
    keys = [key for f in all_fields for key in f.metadata.get("tables", (f.name,))]
    for key in table:
        if key not in keys:
            raise unknown(key, keys, "key", where)
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
            raise ProfileError(f"{where}: key '{f.name}' is missing", valid=_describe(hint))
    return cls(**values)


def _variants(cls: type[T], table: dict[str, Any], key: str, where: str) -> dict[str, T]:
    """The tables in `table[key]`. Each overrides some of the other keys of `table`."""
    base = {name: value for name, value in table.items() if name != key}
    overrides = table.get(key, {})
    if not isinstance(overrides, dict) or not all(isinstance(o, dict) and key not in o for o in overrides.values()):
        raise ProfileError(f"{where}: {key} is {_show(overrides)}", valid="a table for each pattern of device classes")
    return {pattern: build(cls, base | keys, f"{where}.{key}.{pattern}") for pattern, keys in overrides.items()}


def _convert(value: Any, kind: Any, where: str, choices: Collection[str] | None) -> Any:
    """Convert `value` to `kind`: str, bool, int, float, Literal, a tuple of str, or one of these or None."""
    if type(None) in get_args(kind):
        kind = get_args(kind)[0]  # TOML has no null, so a key that is present isn't None
    if get_origin(kind) is tuple:
        if not isinstance(value, list) or (choices and not value):
            raise ProfileError(f"{where} is {_show(value)}", valid=_describe(kind))
        return tuple(_convert(item, get_args(kind)[0], where, choices) for item in value)
    if get_origin(kind) is Literal:
        kind, choices = str, get_args(kind)
    number = isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 1e15
    fits = {str: isinstance(value, str), bool: isinstance(value, bool), float: number}
    if not fits.get(kind, number and isinstance(value, int)):
        raise ProfileError(f"{where} is {_show(value)}", valid=_describe(kind, choices))
    if choices and value not in choices:
        raise unknown(value, choices, where=where)
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
