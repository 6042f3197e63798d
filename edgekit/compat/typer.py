"""Typer: the base of its usage errors."""

from typing import Any

import typer


def usage_error() -> Any:
    """The class of a usage error, which has `show()` and `format_message()`.

    Checked with typer 0.29, which carries its own copy of click in a private module; earlier versions raise the errors
    of the click that is installed beside them. edgekit needs the class to put its own words around a message.
    """
    return next(base for base in typer.BadParameter.__mro__ if base.__name__ == "ClickException")
