"""Typer: the base class of its usage errors, their details besides the message, and a help without types."""

from dataclasses import dataclass
from typing import Any

import typer


def usage_error() -> Any:
    """The class of a usage error, which has `show()` and `format_message()`.

    Checked with typer 0.29, which has its own copy of click in a private module. Earlier versions raise the errors of
    the installed click. edgekit needs the class to add its own text to a message.
    """
    return next(base for base in typer.BadParameter.__mro__ if base.__name__ == "ClickException")


@dataclass(frozen=True)
class RejectedValue:
    """A value on the command line that Typer could not convert."""

    option: str
    """Long name of the option, or name of the argument."""
    value: str
    """Value that was rejected."""
    valid: str
    """Values that the option takes, as a noun phrase."""


def rejected_value(error: Any) -> RejectedValue | None:
    """The rejected value of a usage error, or None if the error has another cause.

    Checked with typer 0.29: `param` of the error is the option, and its cause is pydantic's ValidationError.
    """
    option, details = getattr(error, "param", None), getattr(error.__cause__, "errors", None)
    if option is None or details is None:
        return None
    name = max(option.opts, key=len) if option.param_type_name == "option" else option.display_name_raw
    return RejectedValue(name, str(details()[0]["input"]), _valid_values(option))


def _valid_values(option: Any) -> str:
    described = option.type_descriptor
    if choices := [str(getattr(choice, "value", choice)) for choice in described.choices or ()]:
        return (" or " if len(choices) == 2 else ", ").join(choices)
    kind = {int: "a whole number", float: "a number"}.get(described.annotation)
    if kind is None:
        return "a value that its help describes"
    if option.max is not None:
        return f"{kind} from {option.min} to {option.max}"
    return kind if option.min is None else f"{kind} of at least {option.min}"


def command_path(error: Any) -> str | None:
    """The command of a usage error, such as "edgekit devices add"; None if there is none."""
    context = getattr(error, "ctx", None)
    return None if context is None else context.command_path


def subcommands(error: Any) -> tuple[str, ...]:
    """Names of the subcommands of a usage error's command, in the order of its help; empty if it has none."""
    command: Any = _command(error)
    return tuple(command.list_commands(error.ctx)) if hasattr(command, "commands") else ()


def options_of(error: Any) -> frozenset[str]:
    """The options that a usage error's command takes."""
    return frozenset(flag for option in getattr(_command(error), "params", ()) for flag in option.opts)


def _command(error: Any) -> Any:
    return getattr(getattr(error, "ctx", None), "command", None)


REQUIRED = "required"
"""Beginning of an option's `show_default` if a command needs the option although Typer does not demand it."""


def plain_help(command: Any, panel: str | None) -> None:
    """Leave types, ranges and parentheses out of a command's help, and put `--help` into a panel.

    Checked with typer 0.29, which has no setting for it: without this, a flag has the type `<bool>`, a path `<Path>`, a
    number `[x>=1]`, and a default in words stands in parentheses. The reference pages give the ranges.
    """
    for parameter in command.params:
        _plain(parameter)
    help_option_of = command.get_help_option

    def get_help_option(context: Any) -> Any:
        option = help_option_of(context)
        if option is not None:
            _plain(option)
            option.rich_help_panel = panel
        return option

    command.get_help_option = get_help_option


def _plain(parameter: Any) -> None:
    """Show a parameter's name, placeholder, choices and default, and mark it if it is required."""
    is_option = parameter.param_type_name == "option"
    placeholder = parameter.metavar if is_option and not parameter.is_flag else None
    if is_option and placeholder is None and parameter.type_descriptor.is_choice:
        placeholder = parameter.display_type(None).strip("<>")
    default_of, shown = parameter._get_default_string, parameter.show_default
    parameter.display_type_rich = lambda ctx: placeholder
    parameter._get_number_range_help_str = lambda: None
    parameter._get_default_string = lambda **given: shown if given["show_default_is_str"] else default_of(**given)
    if not is_option:
        dots = "..." if parameter.nargs != 1 else ""
        name = f"{parameter.display_name_raw}{dots}"
        parameter.get_usage_pieces = lambda ctx: [name if parameter.required else f"[{name}]"]
    elif isinstance(shown, str) and shown.startswith(REQUIRED):
        parameter.show_default = False
        parameter.help = f"{parameter.help} [dim red]\\[{shown}][/]"
