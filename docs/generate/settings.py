"""The TOML files that users write: keys of recipes and device classes, and those that edgekit ships."""

import inspect
from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Any, Literal, get_args, get_origin, get_type_hints

from docs.generate.fields import fields_of
from docs.generate.markdown import code, plain, table
from edgekit.compiler.rewrites import REWRITES
from edgekit.config.recipes import Recipe, TargetRecipe, list_recipes
from edgekit.config.runtimes import RUNTIMES, DeviceClass
from edgekit.runtime.backend import load_lowering

TYPES = {str: "string", bool: "true or false", int: "integer above 0", float: "number above 0"}


def shipped_recipes() -> str:
    recipes = map(Recipe.load, list_recipes())
    rows = [(code(each.name), plain(each.description), ", ".join(map(code, each.architectures))) for each in recipes]
    return table(("recipe", "for", "patterns of model names"), rows) + "\n"


def recipe_keys() -> str:
    return _keys(Recipe)


def runtime_keys() -> str:
    """The keys of a runtime's table, without those that replace the recipe's."""
    return _keys(TargetRecipe, except_for=frozenset(each.name for each in fields(Recipe)))


def rewrites() -> str:
    rows = [(code(name), _first_sentence(rewrite.__doc__ or "")) for name, rewrite in REWRITES.items()]
    return table(("rewrite", "what it does"), rows) + "\n"


def lowerings() -> str:
    rows = [
        (code(runtime.name), code(name), plain(lowering.description))
        for runtime in RUNTIMES.values()
        for name, lowering in load_lowering(runtime.name).named.items()
    ]
    return table(("runtime", "lowering", "what it does"), rows) + "\n"


def shipped_device_classes() -> str:
    rows = [
        (
            code(each.name),
            plain(each.description),
            plain(each.processor),
            f"{each.cores} at {each.clock_ghz:g} GHz",
            f"{each.fp32_macs_per_cycle} / {each.int8_macs_per_cycle}",
        )
        for each in map(DeviceClass.load, DeviceClass.listed())
    ]
    return table(("class", "machines", "processor", "cores", "f32 / int8 MAC per cycle and core"), rows) + "\n"


def device_class_keys() -> str:
    return _keys(DeviceClass)


def _keys(cls: type[Any], except_for: frozenset[str] = frozenset()) -> str:
    """A table of the keys that a dataclass reads, the required ones first as in the class."""
    hints = get_type_hints(cls)
    metadata = {each.name: each.metadata for each in fields(cls)}
    rows = [
        (
            code(field.name),
            _valid(hints[field.name], metadata[field.name].get("choices")),
            _default(field.default),
            plain(field.description),
        )
        for field in fields_of(cls)
        if "tables" not in metadata[field.name] and field.name not in except_for
    ]
    return table(("key", "takes", "default", "meaning"), rows) + "\n"


def _valid(hint: Any, choices: Iterable[str] | None) -> str:
    """What a key takes, such as "list of strings"."""
    if type(None) in get_args(hint):
        hint = next(each for each in get_args(hint) if each is not type(None))
    if get_origin(hint) is tuple:
        return "list of " + (", ".join(map(code, choices)) if choices else "strings")
    if get_origin(hint) is Literal:
        return ", ".join(code(str(each)) for each in get_args(hint))
    if get_origin(hint) is Mapping and get_origin(get_args(hint)[1]) is Literal:
        return f"{_valid(get_args(hint)[1], None)} by pattern of names"
    return TYPES.get(hint, "tables by pattern of device class")


def _default(source: str | None) -> str:
    """A default as TOML spells it: a dash for a key that is optional and has no value by default."""
    if source is None:
        return "required"
    if source in ("None", "()") or source.startswith("field("):
        return "–"  # noqa: RUF001
    return code({"True": "true", "False": "false"}.get(source, source.replace("'", '"')))


def _first_sentence(docstring: str) -> str:
    """The first line of a docstring without what the function returns."""
    line = " ".join(inspect.cleandoc(docstring).split("\n\n")[0].split())
    return plain(line.partition(" Count of ")[0].replace("``", "`"))
