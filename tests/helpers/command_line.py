"""The commands of the Typer application, for tests that walk through all of them or parse a command line."""

from collections.abc import Iterator, Sequence
from typing import Any

from edgekit.cli.main import application


def all_commands() -> Iterator[tuple[str, Any]]:
    """Every command that does something, after the words that call it, such as "devices add"."""
    for name, command in application().commands.items():
        for sub_name, sub_command in getattr(command, "commands", {"": command}).items():
            yield f"{name} {sub_name}".strip(), sub_command


def context_of(words: Sequence[str]) -> Any:
    """The context of a parsed command line, as commands get it; raises what the command line itself would raise."""
    top = application().make_context("edgekit", list(words), obj=tuple(words))
    name, *rest = words
    command: Any = application().commands[name]
    if hasattr(command, "commands"):
        name, *rest = rest
        command = command.commands[name]
    return command.make_context(name, rest, parent=top, obj=tuple(words))
