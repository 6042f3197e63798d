"""Registers commands, with options that state the fields of a job, from the declarations of the fields.

A command's own arguments and options are parameters whose default is their declaration for Typer; options of `COMMON`
are parameters of their names without a default. A command returns its `Answer`, which is printed here, as JSON with
`--json`, and gives the exit code; or one line of text, which is all that it prints. A command with advanced options
has `--help-all`, which lists them too.
"""

import copy
import functools
import inspect
from collections.abc import Callable, Container, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, get_args, get_type_hints

import typer
from typer.models import ParameterInfo

from edgekit import api
from edgekit.cli import completion, panels
from edgekit.cli.app import app
from edgekit.cli.arguments import COMMON
from edgekit.cli.for_pipelines import ForPipelines
from edgekit.cli.output import Answer, clean_stdout
from edgekit.job import kinds
from edgekit.job.job import declarations, default_of
from edgekit.job.kinds import SPELLING, Option

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


def command(
    panel: str | None,
    *names: str,
    of: Callable[..., Any] | None = None,
    group: typer.Typer = app,
    defaults: Mapping[str, str] = MappingProxyType({}),
    helps: Mapping[str, str] = MappingProxyType({}),
    shown: Container[str] | None = None,
    advanced: Container[str] = (),
    judges: bool = False,
    **of_typer: Any,
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register a function as a command, with its own options and those of these fields of a job.

    Its parameter `stated`, which it has if there are fields, gets the values that were stated.

    Args:
        panel: title of the panel of `--help` that lists the command.
        names: the fields.
        of: the function of `edgekit.api` that the command calls, whose options it has beside these.
        group: the commands among which it is.
        defaults: defaults in words that are other ones in this command.
        helps: meanings that are other ones in this command.
        shown: the fields that `--help` lists; None for all that aren't advanced.
        advanced: the command's own options that only `--help-all` lists.
        judges: whether it has `--junit` and `--summary`, for its answer's verdict.
        of_typer: further arguments of Typer's decorator.
    """

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        hints = get_type_hints(function, include_extras=True)
        taken = inspect.signature(function).parameters
        added_here = {"json_"} if hints["return"] is Answer else set()
        added_here |= {"junit", "summary"} if judges else set()
        own = [
            _own(name, each.default, hints[name], name in advanced)
            for name, each in taken.items()
            if name != STATED and name not in COMMON
        ]
        own += [
            _own(name, each, bool if each.default is False else Path | None, name in advanced)
            for name, each in COMMON.items()
            if name in taken or name in added_here
        ]
        fields = {*names, *(api.fields_of(of) if of else ())}
        of_function = api.own_of(of) if of else {}
        options = {name: each.option for name, each in of_function.items()} | {
            name: option for name, option in declarations().items() if name in fields
        }
        added = [
            _parameter(name, option, defaults.get(name), helps.get(name), shown) for name, option in options.items()
        ]
        added = [
            each.replace(default=of_function[each.name].value) if each.name in of_function else each for each in added
        ]
        parameters = sorted([*own, *added], key=_panel_index)

        @functools.wraps(function)
        def call(**values: Any) -> int:
            here = {name: values[name] if name in taken else values.pop(name) for name in added_here}
            files = ForPipelines(here.get("junit"), here.get("summary"))
            spelling = SPELLING.set("flag")
            try:
                if options:
                    given = {name: _stated(option, values.pop(name)) for name, option in options.items()}
                    values[STATED] = {name: value for name, value in given.items() if value is not None}
                files.check()
                with clean_stdout() as out:
                    found = function(**values)
                    answer = found if isinstance(found, Answer) else Answer(None, [found])
                    answer.show(out, here.get("json_", False))
            finally:
                SPELLING.reset(spelling)
            if answer.error:
                raise answer.error
            files.write(answer.junit, answer.summary)
            return 0 if answer.passed else 1

        call.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        call.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        group.command(rich_help_panel=panel, **of_typer)(call)
        return call

    return register


def _own(name: str, declared: ParameterInfo, annotation: Any, hidden: bool) -> inspect.Parameter:
    """A parameter of a command's own, as Typer takes it."""
    declared = copy.copy(declared)  # which other commands share
    declared.hidden = declared.hidden or hidden
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=declared, annotation=annotation)


def _stated(option: Option, value: Any) -> Any:
    """What an option's value on the command line states; None for nothing."""
    if isinstance(option.kind, kinds.Flag):
        return None if value is None else value is not option.turns_off
    return value or None if isinstance(value, list) else value


def _parameter(
    name: str, option: Option, default: str | None, meaning: str | None, shown: Container[str] | None
) -> inspect.Parameter:
    kind, is_flag = option.kind, isinstance(option.kind, kinds.Flag)
    value = default_of(name) if name in declarations() else None
    in_words = default or option.default or (None if value is None or is_flag else str(value))
    limits: dict[str, Any] = {"min": kind.minimum, "max": kind.maximum} if isinstance(kind, kinds.Number) else {}
    flags = option.flags_of(name)
    made = typer.Option(
        *((f"{flags[0]}/{_opposite(flags[0])}",) if is_flag else flags),
        metavar=kind.metavar,
        autocompletion=(lambda: kind.names) if isinstance(kind, kinds.OneOf) else COMPLETIONS.get(name),
        show_default=in_words or False,
        rich_help_panel=option.panel,
        hidden=option.advanced if shown is None else name not in shown,
        help=meaning or option.help,
        **limits,
    )
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind.typed | None, made]
    )


def _opposite(flag: str) -> str:
    return f"--{flag.removeprefix('--no-')}" if flag.startswith("--no-") else f"--no-{flag.removeprefix('--')}"


def _panel_index(parameter: inspect.Parameter) -> int:
    """Where an option's panel comes in `--help`; arguments, which have none, come first."""
    declared = (parameter.default, *get_args(parameter.annotation))
    titles = [getattr(part, "rich_help_panel", None) for part in declared]
    panel = next((title for title in titles if title in panels.OPTION_PANELS), None)
    return -1 if panel is None else panels.OPTION_PANELS.index(panel)
