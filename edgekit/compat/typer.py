"""Typer: the base class of its usage errors."""

from typing import Any

import typer


def usage_error() -> Any:
    """The class of a usage error, which has `show()` and `format_message()`.

    Checked with typer 0.29, which has its own copy of click in a private module. Earlier versions raise the errors of
    the installed click. edgekit needs the class to add its own text to a message.
    """
    return next(base for base in typer.BadParameter.__mro__ if base.__name__ == "ClickException")
