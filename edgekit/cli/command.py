"""Gives a command the options that state the fields of a job, from the declarations of the fields.

Arguments and options of its own are parameters with an `Own` as the default. `--help-all`, which every command with
advanced options has, lists those too.
"""

import copy
import functools
import inspect
from collections.abc import Callable, Container, Mapping
from typing import Annotated, Any, get_args, get_type_hints

import typer

from edgekit.cli import completion, panels
from edgekit.cli.arguments import Own
from edgekit.job import kinds
from edgekit.job.job import declarations, default_of
from edgekit.job.kinds import Option

STATED = "stated"
"""The parameter of a command that gets the values of the fields that were stated, by name."""
COMPLETIONS: Mapping[str, Callable[..., Any]] = {
    "weights": completion.weights,
    "targets": completion.runtimes,
    "precisions": completion.precisions,
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
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Give a command its own options, and those of these fields, of which `stated` gets the values that were stated.

    Args:
        names: the fields.
        defaults: defaults in words that are other ones in this command.
        helps: meanings that are other ones in this command.
        shown: the fields that `--help` lists; None for all that aren't advanced.
        hidden: the command's own options that only `--help-all` lists.
    """

    def add(command: Callable[..., Any]) -> Callable[..., Any]:
        hints = get_type_hints(command, include_extras=True)
        own = [
            _own(parameter, hints[parameter.name], parameter.name in hidden)
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
        def call(**values: Any) -> Any:
            if not options:
                return command(**values)
            given = {name: values.pop(name) for name in options}
            stated = {name: _stated(options[name], value) for name, value in given.items()}
            return command(**values, **{STATED: {name: value for name, value in stated.items() if value is not None}})

        call.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        call.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return call

    return add


def _own(parameter: inspect.Parameter, annotation: Any, hidden: bool) -> inspect.Parameter:
    """A parameter of a command's own, as Typer takes it."""
    default = parameter.default
    if isinstance(default, Own):
        typers = copy.copy(default.typers)  # which other commands share
        typers.hidden = typers.hidden or hidden
        annotation, default = Annotated[annotation, typers], default.value
    return inspect.Parameter(parameter.name, parameter.KEYWORD_ONLY, default=default, annotation=annotation)


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
        autocompletion=(lambda: kind.names) if isinstance(kind, kinds.OneOf) else COMPLETIONS.get(name),
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


def _panel_index(parameter: inspect.Parameter) -> int:
    """Where an option's panel comes in `--help`; arguments, which have none, come first."""
    titles = [getattr(part, "rich_help_panel", None) for part in get_args(parameter.annotation)]
    panel = next((title for title in titles if title in panels.OPTION_PANELS), None)
    return -1 if panel is None else panels.OPTION_PANELS.index(panel)
