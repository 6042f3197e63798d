"""A page for each command, read from the Typer application."""

import inspect
import re
from collections.abc import Iterator
from typing import Any, Literal, get_args, get_origin

import typer

import edgekit.cli.commands  # noqa: F401  # registers every command
from docs.generate.markdown import code, paragraphs, plain, table
from edgekit.cli.app import app

FOLDER = "reference/commands"
OVERVIEW = f"{FOLDER}/index.md"
DEFAULT_PANEL = "Options"
EXIT_CODES = (
    ("0", "The command did its work, and every gate passed."),
    ("1", "A gate or a row failed, or was inconclusive. The other rows are in the report."),
    ("2", "An option, an argument or the input is wrong, or a package is missing. The message names what is valid."),
    ("130", "The command was interrupted. Completed work was saved; the same command resumes."),
)
"""What the application's entry point returns, whichever command it runs."""


def all_commands() -> dict[tuple[str, ...], Any]:
    """Every command and sub-command in the order of --help, by the words that are typed behind `edgekit`."""
    return dict(_walk(typer.main.get_command(app), ()))


def _walk(group: Any, words: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, command in group.commands.items():
        if command.hidden:
            continue
        if hasattr(command, "commands"):
            yield from _walk(command, (*words, name))
        else:
            yield (*words, name), command


def path_of(words: tuple[str, ...]) -> str:
    return f"{FOLDER}/{'-'.join(words)}.md"


def navigation() -> list[dict[str, str]]:
    """The entries of the navigation."""
    return [{" ".join(words): path_of(words)} for words in all_commands()]


def pages() -> dict[str, str]:
    """Markdown by path."""
    return {path_of(words): _page(words, command) for words, command in all_commands().items()}


def command_table() -> str:
    """Every command with a link to its page, as the overview beside those pages has it."""
    rows = [
        (f"[{code('edgekit ' + ' '.join(words))}]({path_of(words).rpartition('/')[2]})", _summary(command))
        for words, command in all_commands().items()
    ]
    return table(("command", "what it does"), rows)


def exit_codes() -> str:
    return table(("code", "meaning"), EXIT_CODES)


def _page(words: tuple[str, ...], command: Any) -> str:
    arguments = [each for each in command.params if each.param_type_name == "argument"]
    options = [each for each in command.params if each.param_type_name == "option" and not each.hidden]
    typed = " ".join(["edgekit", *words, *map(usage_of, arguments), *(["[OPTIONS]"] if options else [])])
    parts = [
        f"# edgekit {' '.join(words)}",
        *paragraphs(inspect.cleandoc(command.help or "")),
        f"```text\n{typed}\n```",
    ]
    if arguments:
        rows = [(code(usage_of(each)), plain(each.help or "")) for each in arguments]
        parts += ["## Arguments", table(("argument", "meaning"), rows)]
    panels: dict[str, list[Any]] = {}
    for option in options:
        panels.setdefault(_text(option.rich_help_panel) or DEFAULT_PANEL, []).append(option)
    for panel, members in panels.items():
        parts += [f"## {panel}", table(("option", "meaning", "default"), map(option_row, members))]
    if epilog := command.epilog:
        parts += ["## Examples", *_epilog(inspect.cleandoc(epilog))]
    return "\n\n".join([*parts, "## Exit codes", exit_codes()]) + "\n"


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


def _epilog(text: str) -> list[str]:
    """Examples that stand below the options in --help."""
    _, _, commands = text.partition("Examples:\n")
    return [f"```text\n{inspect.cleandoc(commands or text)}\n```"]
