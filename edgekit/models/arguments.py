"""Parses `--model-args KEY=VALUE,…` into a dict."""

import ast
from typing import Any

from edgekit.errors import UsageError
from edgekit.models.options import ModelArgs

_EXAMPLE = "num_classes=10,dims=(32,64,128,288),conv_mlp=False"


def parse_model_args(text: str) -> ModelArgs:
    """Parse `patch_size=2,dims=(32,64),conv_mlp=False`: each value is a Python literal, so strings need quotes.

    Empty text gives an empty dict. Raises UsageError for any other syntax, naming the key if there is one. Nothing is
    evaluated: the text is parsed as the keywords of a call, which splits at the commas outside brackets and quotes.
    """
    try:
        call = ast.parse(f"dict({text.strip()})", mode="eval").body
    # Besides SyntaxError, ast raises ValueError on a null byte and the others on thousands of nested brackets.
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise _not_arguments(text) from None
    # Text such as "a=1)(b=2" also parses, but into a call of a call.
    plain = isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and not call.args
    if not isinstance(call, ast.Call) or not plain:
        raise _not_arguments(text)
    values: ModelArgs = {}
    for keyword in call.keywords:
        if keyword.arg is None:
            raise _not_arguments(text)
        if keyword.arg in values:
            raise UsageError(f"--model-args sets '{keyword.arg}' twice", fix=f"Set '{keyword.arg}' once")
        values[keyword.arg] = _literal(keyword.arg, keyword.value)
    return values


def _literal(key: str, node: ast.expr) -> Any:
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, MemoryError, RecursionError):
        raise UsageError(
            f"--model-args sets '{key}' to {ast.unparse(node)}, which is not a literal",
            valid="a number, True, False, None, a string in quotes, or a tuple, list or dict of these",
            fix=f"Put a string in quotes, as in {key}='…'",
        ) from None


def _not_arguments(text: str) -> UsageError:
    return UsageError(
        f"--model-args is '{text[:100]}'", valid="KEY=VALUE,KEY=VALUE", fix=f"Write it like `--model-args {_EXAMPLE}`"
    )
