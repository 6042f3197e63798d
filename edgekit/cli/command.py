"""Gives a command the options that state the fields of a job, from the declarations of the fields.

A command also has options of other kinds, as parameters that Typer reads. `--help-all`, which every command with
advanced options has, lists those too.
"""

import copy
import functools
import inspect
from collections.abc import Callable, Container, Mapping
from typing import Annotated, Any, get_args, get_type_hints

import typer

from edgekit.cli import completion, panels
from edgekit.job import kinds
from edgekit.job.job import declarations, default_of
from edgekit.job.kinds import Option

STATED = "stated"
"""The parameter of a command that gets the values of the fields that were stated, by name."""
COMPLETIONS: Mapping[str, Callable[..., Any]] = {
    "weights": completion.weights,
    "interpolation": completion.interpolations,
    "targets": completion.runtimes,
    "precisions": completion.precisions,
    "scheme": completion.schemes,
    "task": completion.tasks,
    "recipe": completion.recipes,
    "device_class": completion.device_classes,
    "devices": completion.measuring_devices,
}
FIELDS = tuple(declarations())


def states(
    *names: str,
    defaults: Mapping[str, str] | None = None,
    helps: Mapping[str, str] | None = None,
    shown: Container[str] | None = None,
    hidden: Container[str] = (),
) -> Callable[[Callable[..., int]], Callable[..., int]]:
    """Give a command the options of these fields; its parameter `stated` gets the values that were stated.

    Args:
        names: the fields.
        defaults: defaults in words that are other ones in this command.
        helps: meanings that are other ones in this command.
        shown: the fields that `--help` lists; None for all that aren't advanced.
        hidden: the command's own options that only `--help-all` lists.
    """

    def add(command: Callable[..., int]) -> Callable[..., int]:
        hints = get_type_hints(command, include_extras=True)
        own = [
            parameter.replace(
                annotation=_hidden(hints[parameter.name]) if parameter.name in hidden else hints[parameter.name],
                kind=parameter.KEYWORD_ONLY,
            )
            for parameter in inspect.signature(command).parameters.values()
            if parameter.name != STATED
        ]
        options = {name: option for name, option in declarations().items() if name in names}
        added = [
            _parameter(name, option, (defaults or {}).get(name), (helps or {}).get(name), shown)
            for name, option in options.items()
        ]
        parameters = sorted([*own, *added], key=_panel_index)

        @functools.wraps(command)
        def call(**values: Any) -> int:
            given = {name: values.pop(name) for name in options}
            stated = {name: _stated(options[name], value) for name, value in given.items()}
            return command(**values, **{STATED: {name: value for name, value in stated.items() if value is not None}})

        call.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        call.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return call

    return add


def _stated(option: Option, value: Any) -> Any:
    """What an option's value on the command line states; None for nothing."""
    if isinstance(option.kind, kinds.Flag):
        return not option.turns_off if value else None
    return value or None if isinstance(value, list) else value


def _parameter(
    name: str, option: Option, default: str | None, meaning: str | None, shown: Container[str] | None
) -> inspect.Parameter:
    kind, is_flag = option.kind, isinstance(option.kind, kinds.Flag)
    value = default_of(name)
    in_words = default or option.default or (None if value is None or is_flag else str(value))
    limits: dict[str, Any] = {"min": kind.minimum, "max": kind.maximum} if isinstance(kind, kinds.Number) else {}
    made = typer.Option(
        *option.flags_of(name),
        metavar=kind.metavar,
        autocompletion=COMPLETIONS.get(name),
        show_default=in_words or False,
        rich_help_panel=option.panel,
        hidden=option.advanced if shown is None else name not in shown,
        help=meaning or option.help,
        **limits,
    )
    annotation: Any = Annotated[bool, made] if is_flag else Annotated[kind.typed | None, made]
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=False if is_flag else None, annotation=annotation
    )


def _hidden(annotation: Any) -> Any:
    """The annotation of an option that only `--help-all` lists."""
    kind, option = get_args(annotation)
    option = copy.copy(option)  # which other commands share
    option.hidden = True
    return Annotated[kind, option]


def _panel_index(parameter: inspect.Parameter) -> int:
    """Where an option's panel comes in `--help`; arguments, which have none, come first."""
    titles = [getattr(part, "rich_help_panel", None) for part in get_args(parameter.annotation)]
    panel = next((title for title in titles if title in panels.OPTION_PANELS), None)
    return -1 if panel is None else panels.OPTION_PANELS.index(panel)
