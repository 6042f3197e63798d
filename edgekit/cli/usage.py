"""Usage errors of Typer as errors of edgekit, with what was wrong, what is valid and the fix."""

import shlex
from collections.abc import Collection, Sequence
from typing import Any

from edgekit.compat.typer import command_path, rejected_value, subcommands
from edgekit.errors import UsageError

MAY_BE_EMPTY = ("--model-args",)
"""Options for which an empty value means the same as leaving the option out."""


def usage_error_of(error: Any, arguments: Sequence[str], commands: Collection[str]) -> UsageError:
    """edgekit's error for a usage error that Typer raised on these arguments; `commands` are all names of commands."""
    path = command_path(error) or ("edgekit " + arguments[0] if arguments[0] in commands else "edgekit")
    rejected = rejected_value(error)
    if rejected is not None:
        return UsageError(
            f"{rejected.option} is '{rejected.value}'",
            valid=rejected.valid,
            fix=f"Run `{path} --help` for all options",
        )
    message, question, nearest = error.format_message().rstrip(".").partition(". Did you mean ")
    return UsageError(
        f"{message[:1].lower()}{message[1:]} in `{shlex.join(['edgekit', *arguments])}`",
        valid=", ".join(subcommands(error)),
        fix=f"{'Did you mean ' + nearest + ' ' if question else ''}Run `{path} --help` for the usage",
    )


def check_not_empty(arguments: Sequence[str]) -> None:
    """Raise UsageError for an empty argument or value, such as "" or --output=: a path would become the current folder.

    Shell variables that are not set are the usual cause.
    """
    for before, argument in zip(("", *arguments), arguments, strict=False):
        option, equals, value = argument.partition("=") if argument.startswith("--") else (before, "=", argument)
        if not equals or value or option in MAY_BE_EMPTY:
            continue
        name = option if option.startswith("-") else "an argument"
        raise UsageError(
            f"{name} is empty in `{shlex.join(['edgekit', *arguments])}`",
            valid="text that is not empty",
            fix="Check whether a shell variable is unset, or leave the option out",
        )
