"""Strict parsers of JSON values: each returns a value, or raises BundleError that names its key."""

import json
import math
import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NoReturn, TypeAlias

from edgekit.errors import BundleError

_BIDI = frozenset(("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"))
"""Bidirectional classes of the characters that embed, override and isolate text."""


def check_printable(source: str, text: str) -> None:
    """Refuse control characters, because a label from a stranger must not control the terminal that prints it.

    Those of bidirectional text count too, because they make a terminal show characters in another order.
    """
    if any(unicodedata.category(each) in ("Cc", "Cs") or unicodedata.bidirectional(each) in _BIDI for each in text):
        raise BundleError(f"{source} contains a control character in {text[:40]!r}")


def refuse(key: str, value: object, valid: str, fix: str = "") -> NoReturn:
    """Raise the BundleError of a wrong value."""
    text = repr(value)
    raise BundleError(f"key '{key}' is {text[:80]}{'…' if len(text) > 80 else ''}", valid=valid, fix=fix)


def check_keys(parent: str, values: Mapping[str, object], keys: Sequence[str]) -> None:
    """Raise BundleError unless an object has exactly these keys."""
    for key in keys:
        if key not in values:
            raise BundleError(f"{parent}: key '{key}' is missing")
    for key in values:
        if key not in keys:
            raise BundleError(f"{parent}: key {key!r} is unknown", valid=", ".join(keys))


Parser: TypeAlias = Callable[[str, object], Any]
"""Takes the key and the value, and returns the value."""


def parser(fits: Callable[[Any], bool], valid: str) -> Parser:
    """Parser of the values that fit; `valid` describes them."""

    def parse(key: str, value: object) -> Any:
        if not fits(value):
            refuse(key, value, valid)
        return value

    return parse


parse_object = parser(lambda value: isinstance(value, dict), "an object")
parse_boolean = parser(lambda value: isinstance(value, bool), "true or false")


def parse_text(key: str, value: object) -> str:
    """A string without control characters."""
    if not isinstance(value, str):
        refuse(key, value, "a string")
    check_printable(f"key '{key}'", value)
    return value


def choice(*choices: str) -> Parser:
    """Parser of one of these strings."""
    return parser(lambda value: isinstance(value, str) and value in choices, f"one of {', '.join(choices)}")


def whole(low: int, high: int) -> Parser:
    """Parser of a whole number in this range."""
    return parser(lambda value: type(value) is int and low <= value <= high, f"a whole number from {low} to {high}")


def matching(pattern: str, valid: str) -> Parser:
    """Parser of a string that matches the whole pattern; `valid` describes it."""
    return parser(lambda value: isinstance(value, str) and re.fullmatch(pattern, value) is not None, valid)


def record(optional: Mapping[str, Parser] = MappingProxyType({}), **parsers: Parser) -> Parser:
    """Parser of an object with exactly these keys, and maybe the optional ones."""

    def parse(key: str, value: object) -> dict[str, object]:
        values = parse_object(key, value)
        known = {**parsers, **{name: optional[name] for name in optional if name in values}}
        check_keys(key, values, tuple(known))
        return {name: parse(f"{key}.{name}", values[name]) for name, parse in known.items()}

    return parse


def load_strict(text: str) -> object:
    """Parse JSON text.

    Raises ValueError for a repeated key or a number that is not finite, and BundleError for a control character.
    """
    values: object = json.loads(text, object_pairs_hook=_unique_keys, parse_constant=_no_constant, parse_float=_finite)
    for key, string in _strings("manifest", values):
        check_printable(f"key '{key}'", string.replace("\n", " ").replace("\t", " "))
    return values


def _unique_keys(pairs: list[tuple[str, object]]) -> dict[str, object]:
    values = dict(pairs)
    if len(values) < len(pairs):
        raise ValueError(f"a key occurs twice among {', '.join(repr(key) for key, _ in pairs[:9])}")
    return values


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def _finite(text: str) -> float:
    value = float(text)
    return value if math.isfinite(value) else _no_constant(text)


def _strings(key: str, value: object) -> Iterator[tuple[str, str]]:
    """Every string in a JSON value, including keys, with the key that contains it."""
    if isinstance(value, str):
        yield key, value
    elif isinstance(value, dict):
        for name, item in value.items():
            yield key, name
            yield from _strings(name, item)
    elif isinstance(value, list):
        for item in value:
            yield from _strings(key, item)
