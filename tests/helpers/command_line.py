"""The commands of the Typer application, for tests that walk through all of them."""

from collections.abc import Iterator
from typing import Any

import typer

from edgekit.cli.commands import app


def all_commands() -> Iterator[tuple[str, Any]]:
    """Every command that does something, after the words that call it, such as "devices add"."""
    for name, command in typer.main.get_command(app).commands.items():  # type: ignore[attr-defined]
        for sub_name, sub_command in getattr(command, "commands", {"": command}).items():
            yield f"{name} {sub_name}".strip(), sub_command
