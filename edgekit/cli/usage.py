"""Usage errors of Typer as errors of edgekit, with what was wrong, what is valid and the fix."""

import re
import shlex
from collections.abc import Collection, Sequence
from typing import Any

from edgekit.compat.typer import command_path, options_of, rejected_value, subcommands
from edgekit.errors import UsageError, as_sentences

MAY_BE_EMPTY = ("--model-args",)
"""Options for which an empty value means the same as leaving the option out."""
ELSEWHERE = {
    "export": "`edgekit deploy` makes the files",
    "val": "`edgekit evaluate` measures accuracy",
    "predict": "`edgekit classify` classifies images",
    "run": "`edgekit deploy` runs a job",
    "init": "`edgekit demo` needs no preparation",
    "list": "`edgekit devices list` lists devices, and `edgekit targets` runtimes and recipes",
    "version": "`edgekit --version` prints the version",
    "--format": "Choose a runtime with `--target`",
    "--int8": "Choose INT8 alone with `--precision int8`",
    "--batch": "edgekit runs one image at a time; `edgekit benchmark --streams N` runs several side by side",
    "--checkpoint": "Name the checkpoint with `--weights`",
    "--num-classes": "The checkpoint states it; for random weights, add `--model-args num_classes=N`",
    "--calib": "Name the calibration images with `--calibration-data`",
    "--verbose": "`edgekit --traceback COMMAND` shows more of an error",
    "-v": "`edgekit --traceback COMMAND` shows more of an error, and `edgekit --version` prints the version",
    "--resume": "The same command resumes without an option",
    "--model": "MODEL comes first, without an option",
    "--help-all": "`edgekit COMMAND --help-all` lists all options of a command",
}
"""What edgekit has for commands and options of other tools."""


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
    if hint := elsewhere(message, error):
        message = message.partition(" (Possible")[0]
    elif question:
        hint = f"Did you mean {nearest}"
    return UsageError(
        f"{message[:1].lower()}{message[1:]} in `{shlex.join(['edgekit', *arguments])}`",
        valid=", ".join(subcommands(error)),
        fix=as_sentences(hint, f"Run `{path} --help` for the usage"),
    )


def elsewhere(message: str, error: Any) -> str:
    """What edgekit has for an unknown command or option, if that takes no option that the command lacks."""
    unknown = re.search("such (?:command '|option: )([^' ]+)", message)
    hint = ELSEWHERE.get(unknown[1], "") if unknown else ""
    return hint if set(re.findall("`(--[a-z-]+)", hint)) <= options_of(error) else ""


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
