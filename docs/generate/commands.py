"""The pages of the commands, read from the Typer application."""

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

from docs.generate import options
from docs.generate.markdown import anchor, code, paragraphs, plain, table
from edgekit.cli.frame import MODELS
from edgekit.cli.main import application

Words = tuple[str, ...]
"""What is typed behind `edgekit` to call a command."""
EXIT_CODES = (
    ("0", "The command did its work, and every gate passed."),
    ("1", "A gate failed or was inconclusive, or a bundle could not be measured. The report has the others."),
    ("2", "An option, an argument or the input is wrong, or a package is missing. The message names what is valid."),
    ("70", "A bug in edgekit ended the command. A bug that costs one bundle ends with 1."),
    ("130", "Ctrl-C, SIGTERM or SIGHUP ended the command. Completed work was saved; the same command resumes."),
)
"""What the application's entry point returns, whichever command it runs."""


def all_commands() -> dict[Words, Any]:
    """Every command, group and sub-command in the order of --help."""
    return dict(_walk(application(), ()))


def _walk(group: Any, words: Words) -> Iterator[tuple[Words, Any]]:
    for name in group.list_commands(None):
        command = group.commands[name]
        if not command.hidden:
            yield (*words, name), command
            if hasattr(command, "commands"):
                yield from _walk(command, (*words, name))


def page_of(words: Words) -> str:
    """The name of the page in docs/reference/commands that has a command; a group's page has its sub-commands too."""
    return f"{words[0]}.md"


def command(name: str) -> str:
    """What the page of a command or a group has below its heading."""
    every = all_commands()
    shared = _shared(every)
    members = [words for words in every if words[0] == name]
    return "\n\n".join(part for words in members for part in _section(words, every[words], shared)) + "\n"


def command_sections() -> str:
    """The panels of --help, each with a table of its commands."""
    every = all_commands()
    panels: dict[str, dict[Words, Any]] = {}
    for words, command in every.items():
        panel = every[words[:1]].rich_help_panel
        panels.setdefault(panel, {})[words] = command
    return (
        "\n\n".join(part for panel, members in panels.items() for part in (f"## {panel}", _command_table(members)))
        + "\n"
    )


def common_options() -> str:
    """The options that several commands have."""
    return options.shared_tables(_shared(all_commands()))


def _command_table(members: Mapping[Words, Any]) -> str:
    rows = [(_link(words), paragraphs(inspect.cleandoc(command.help))[0]) for words, command in members.items()]
    return table(("command", "what it does"), rows)


def _link(words: Words) -> str:
    """A link to a command's page, or to a sub-command's section."""
    section = f"#{anchor(_heading(words))}" if len(words) > 1 else ""
    return f"[{code(' '.join(words))}]({page_of(words)}{section})"


def _heading(words: Words) -> str:
    return f"edgekit {' '.join(words)}"


def exit_codes() -> str:
    return table(("code", "meaning"), EXIT_CODES) + "\n"


def _shared(every: Mapping[Words, Any]) -> options.Shared:
    """The options of several commands. Their usual default is that of `deploy`, if it has the option."""
    return options.shared_options(sorted(every.values(), key=lambda command: command.name != "deploy"))


def _section(words: Words, command: Any, shared: options.Shared) -> Iterator[str]:
    """The paragraphs about a command. A sub-command begins with a heading; the page has that of its first command."""
    level = "#" * (len(words) + 1)
    if len(words) > 1:
        yield f"## {_heading(words)}"
    yield from paragraphs(inspect.cleandoc(command.help))
    arguments = [each for each in command.params if each.param_type_name == "argument"]
    every = options.options_of(command)
    typed = [*map(usage_of, arguments), *(["COMMAND"] * hasattr(command, "commands")), *(["[OPTIONS]"] * bool(every))]
    yield _block(" ".join((_heading(words), *typed)))
    if arguments:
        rows = [
            (code(usage_of(each)), plain(each.help or "") if words == ("deploy",) else _meaning(each.help or ""))
            for each in arguments
        ]
        yield f"{level} Arguments"
        yield table(("argument", "meaning"), rows)
    if own := [option for option in every if option.key not in shared]:
        yield f"{level} Options"
        yield options.option_table(own)
    if common := [option for option in every if option.key in shared]:
        yield f"{level} [Common options]({options.PAGE})"
        yield options.shared_list(common, shared)
    if command.epilog:
        yield f"{level} Examples"
        yield _block(_examples(command.epilog))


def _meaning(help: str) -> str:
    """What an argument means. What stands for a model is explained in one place, except on the page of `deploy`."""
    return plain(help).replace(plain(MODELS), "[model](deploy.md#arguments)")


def _examples(epilog: str) -> str:
    """The examples that --help prints below the options, without their title."""
    _, _, commands = epilog.partition("Examples:\n")
    return inspect.cleandoc(commands or epilog)


def _block(text: str) -> str:
    """A block that the tests of the documentation don't run: those of the command line check every example."""
    return f"```shell\n{text}\n```"


def usage_of(argument: Any) -> str:
    """An argument as --help's usage shows it."""
    return " ".join(argument.get_usage_pieces(None))
