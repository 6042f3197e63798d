"""The pages of the commands, read from the Typer application."""

import inspect
import re
from collections.abc import Iterator, Mapping
from typing import Any, Literal, get_args, get_origin

import typer

import edgekit.cli.commands  # noqa: F401  # registers every command
from docs.generate.markdown import code, paragraphs, plain, table
from edgekit.cli.app import app

DEFAULT_PANEL = "Options"
Words = tuple[str, ...]
"""What is typed behind `edgekit` to call a command."""
EXIT_CODES = (
    ("0", "The command did its work, and every gate passed."),
    ("1", "A gate or a row failed, or was inconclusive, or edgekit has a bug. The other rows are in the report."),
    ("2", "An option, an argument or the input is wrong, or a package is missing. The message names what is valid."),
    ("130", "Ctrl-C, SIGTERM or SIGHUP ended the command. Completed work was saved; the same command resumes."),
)
"""What the application's entry point returns, whichever command it runs."""


def all_commands() -> dict[Words, Any]:
    """Every command, group and sub-command in the order of --help."""
    return dict(_walk(typer.main.get_command(app), ()))


def _walk(group: Any, words: Words) -> Iterator[tuple[Words, Any]]:
    for name in group.list_commands(None):
        command = group.commands[name]
        if not command.hidden:
            yield (*words, name), command
            if hasattr(command, "commands"):
                yield from _walk(command, (*words, name))


def page_of(words: Words) -> str:
    """The name of a command's page in docs/reference/commands, which has its heading and what `command` returns."""
    return f"{'-'.join(words)}.md"


def command(typed: str) -> str:
    """What the page of a command, such as "devices add", has below its heading."""
    every, words = all_commands(), tuple(typed.split())
    return _page(words, every[words], _below(every, words))


def command_sections() -> str:
    """The panels of --help, each with a table of its commands."""
    every = all_commands()
    panels: dict[str, dict[Words, Any]] = {}
    for words, command in every.items():
        panel = _text(every[words[:1]].rich_help_panel) or DEFAULT_PANEL
        panels.setdefault(panel, {})[words] = command
    return (
        "\n\n".join(part for panel, members in panels.items() for part in (f"## {panel}", _command_table(members)))
        + "\n"
    )


def _command_table(members: Mapping[Words, Any]) -> str:
    rows = [
        (f"[{code('edgekit ' + ' '.join(words))}]({page_of(words)})", _summary(command))
        for words, command in members.items()
    ]
    return table(("command", "what it does"), rows)


def _below(every: Mapping[Words, Any], words: Words) -> dict[Words, Any]:
    """The sub-commands of a group."""
    return {each: command for each, command in every.items() if each[:-1] == words}


def exit_codes() -> str:
    return table(("code", "meaning"), EXIT_CODES) + "\n"


def _page(words: Words, command: Any, below: Mapping[Words, Any]) -> str:
    arguments = [each for each in command.params if each.param_type_name == "argument"]
    options = [each for each in command.params if each.param_type_name == "option" and not each.hidden]
    typed = [
        "edgekit",
        *words,
        *map(usage_of, arguments),
        *(["COMMAND"] if below else []),
        *(["[OPTIONS]"] * bool(options)),
    ]
    parts = [*paragraphs(inspect.cleandoc(command.help or "")), _block(" ".join(typed))]
    if below:
        parts += ["## Commands", _command_table(below)]
    if arguments:
        rows = [(code(usage_of(each)), plain(each.help or "")) for each in arguments]
        parts += ["## Arguments", table(("argument", "meaning"), rows)]
    panels: dict[str, list[Any]] = {}
    for option in options:
        panels.setdefault(_text(option.rich_help_panel) or DEFAULT_PANEL, []).append(option)
    for panel, members in panels.items():
        parts += [f"## {panel}", table(("option", "meaning", "default"), map(option_row, members))]
    if command.epilog:
        parts += ["## Examples", _block(_examples(command.epilog))]
    return "\n\n".join([*parts, "The [exit codes](index.md#exit-codes) are those of every command."]) + "\n"


def _examples(epilog: str) -> str:
    """The examples that --help prints below the options, without their title."""
    _, _, commands = epilog.partition("Examples:\n")
    return inspect.cleandoc(commands or epilog)


def _block(text: str) -> str:
    """A block that the tests of the documentation don't run: those of the command line check every example."""
    return f"```shell\n{text}\n```"


def _summary(command: Any) -> str:
    return paragraphs(inspect.cleandoc(command.help or ""))[0]


def _text(value: Any) -> str | None:
    """A setting of Typer that may be a placeholder for its default."""
    return value if isinstance(value, str) else None


def usage_of(argument: Any) -> str:
    """An argument as --help's usage shows it."""
    name = argument.metavar or argument.name.upper()
    text = f"{name}..." if argument.nargs == -1 else str(name)
    return text if argument.required else f"[{text}]"


def option_row(option: Any) -> tuple[str, str, str]:
    switches = ", ".join(code(switch) for switch in (*option.opts, *option.secondary_opts))
    value = "" if option.is_flag else f" {code(_value(option))}"
    help_text, default = _help_and_default(option)
    return f'<a id="{option.opts[0]}"></a>{switches}{value}', help_text, default


def _value(option: Any) -> str:
    """What an option takes, in capitals, or the choices."""
    if option.metavar:
        return str(option.metavar)
    annotation = option.type_descriptor.annotation
    if get_origin(annotation) is list:
        (annotation,) = get_args(annotation)
    if get_origin(annotation) is Literal:
        return "|".join(map(str, get_args(annotation)))
    names: dict[str, str] = {"str": "TEXT", "int": "INTEGER", "float": "NUMBER", "Path": "PATH"}
    return names.get(getattr(annotation, "__name__", ""), "VALUE")


def _help_and_default(option: Any) -> tuple[str, str]:
    """The help, and the default: the value, or what the help gives for an option that has none by itself."""
    text, described = str(option.help or ""), ""
    if found := re.fullmatch(r"(.*?)\s*\[default: (.*)\]", text, re.DOTALL):
        text, described = found.groups()
    limits = [f"at least {option.min}"] if option.min is not None else []
    limits += [f"at most {option.max}"] if option.max is not None else []
    sentence = plain(text)
    if option.multiple:
        sentence += " Repeatable." if "epeatable" not in sentence else ""
    if limits:
        sentence += f" Takes {' and '.join(limits)}."
    if described:
        return sentence, plain(described)
    if _text(option.show_default):
        return sentence, plain(option.show_default)
    if option.is_flag or option.default is None:
        return sentence, "required" if option.required else ""
    return sentence, code(str(option.default))
