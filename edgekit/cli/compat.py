"""Typer: parameters whose values edgekit reads itself, and the base class of its usage errors with their details."""

from typing import Any

import typer
from typer._coercion import TypeDescriptor
from typer.core import TyperArgument, TyperOption
from typer.models import OptionInfo

TEXT = TypeDescriptor(str, OptionInfo(), None)
REQUIRED = "required"
"""Beginning of an option's default in words if a command needs the option although Typer does not demand it."""


class _Plain:
    """A parameter that keeps what was typed, and whose help has no types, ranges and parentheses.

    Checked with typer 0.29, which has no setting for it. Without this, it imports pydantic to convert what was typed,
    which takes 45 ms; a flag has the type `<bool>`, a path `<Path>`, and a default in words stands in parentheses.
    """

    show_default: Any

    def get_runtime_param(self) -> Any:
        return self

    def coerce(self, value: Any, **_: Any) -> Any:
        return value

    def display_type_rich(self, ctx: Any) -> str | None:
        return None

    def _get_number_range_help_str(self) -> None:
        return None

    def _get_default_string(self, **_: Any) -> str:
        return str(self.show_default)


class Argument(_Plain, TyperArgument):
    """An argument. `nargs` is -1 for one that takes several values."""

    def __init__(self, name: str, metavar: str, help: str, offer: Any, *, required: bool, nargs: int) -> None:
        super().__init__(
            param_decls=[name],
            metavar=metavar,
            help=help,
            autocompletion=offer and (lambda context, words, typed: offer(typed)),
            required=required,
            nargs=nargs,
            show_default=False,
            type_descriptor=TEXT,
        )
        self.meaning = help

    def get_usage_pieces(self, ctx: Any) -> list[str]:
        """The argument as the usage shows it."""
        name = f"{self.metavar}{'...' if self.nargs != 1 else ''}"
        return [name if self.required else f"[{name}]"]


class PlainOption(_Plain, TyperOption):
    """An option; a flag if it has no metavar."""

    def __init__(
        self,
        name: str,
        flags: tuple[str, ...],
        metavar: str | None,
        panel: str | None,
        meaning: str,
        offer: Any = None,
        *,
        default_in_words: str = "",
        **more: Any,
    ) -> None:
        marked = default_in_words.startswith(REQUIRED)
        super().__init__(
            param_decls=[name, *flags],
            metavar=metavar,
            is_flag=metavar is None,
            rich_help_panel=panel,
            help=f"{meaning} [dim red]\\[{default_in_words}][/]" if marked else meaning,
            show_default=False if marked else default_in_words or False,
            autocompletion=offer and (lambda context, words, typed: offer(typed)),
            type_descriptor=TEXT,
            **more,
        )
        self.meaning, self.default_in_words = meaning, default_in_words

    def display_type_rich(self, ctx: Any) -> str | None:
        """The placeholder of the value."""
        return self.metavar


def usage_error() -> Any:
    """The class of a usage error, which has `show()` and `format_message()`.

    Checked with typer 0.29, which has its own copy of click in a private module. Earlier versions raise the errors of
    the installed click. edgekit needs the class to add its own text to a message.
    """
    return next(base for base in typer.BadParameter.__mro__ if base.__name__ == "ClickException")


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
