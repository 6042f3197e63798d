"""Shows Typer the fields of groups of options as a command's own options."""

import functools
import inspect
from collections.abc import Callable
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, get_args, get_type_hints

from edgekit.cli import panels


def flat(command: Callable[..., int]) -> Callable[..., int]:
    """Show Typer the fields of the groups that a command takes as options of the command, ordered by their panels."""
    hints = get_type_hints(command, include_extras=True)
    groups = {name: hint for name, hint in hints.items() if isinstance(hint, type) and is_dataclass(hint)}
    parameters: list[inspect.Parameter] = []
    for parameter in inspect.signature(command).parameters.values():
        if parameter.name in groups:
            parameters += _parameters(groups[parameter.name])
        else:
            parameters.append(parameter.replace(annotation=hints[parameter.name], kind=parameter.KEYWORD_ONLY))
    parameters.sort(key=_panel_index)

    @functools.wraps(command)
    def call(**values: Any) -> int:
        made = {name: group(**{f.name: values.pop(f.name) for f in fields(group)}) for name, group in groups.items()}
        return command(**values, **made)

    call.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    call.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return call


def _parameters(group: Any) -> list[inspect.Parameter]:
    hints = get_type_hints(group, include_extras=True)
    assert all(field.default is not MISSING for field in fields(group))  # required values are arguments, not options
    return [
        inspect.Parameter(
            field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=hints[field.name]
        )
        for field in fields(group)
    ]


def _panel_index(parameter: inspect.Parameter) -> int:
    """Where an option's panel comes in `--help`; arguments, which have none, come first."""
    titles = [getattr(part, "rich_help_panel", None) for part in get_args(parameter.annotation)]
    panel = next((title for title in titles if title in panels.OPTION_PANELS), None)
    return -1 if panel is None else panels.OPTION_PANELS.index(panel)
