"""The options of the commands, read from the Typer application: those of several commands, and those of one."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from docs.generate.markdown import anchor, code, plain, table
from edgekit.cli.frame import OPTION_PANELS

PAGE = "options.md"
"""Describes the options that several commands share; next to the pages of the commands."""
REQUIRED = "required"
UNLISTED = ("version", "help", "help_all")
"""Options of every command that no page of a command lists."""


@dataclass(frozen=True)
class Option:
    """What the reference says of an option of one command."""

    panel: str
    name: str
    """What is typed, such as "--output"."""
    typed: str
    """Every way to type it, with what it takes."""
    meaning: str
    default: str

    @property
    def key(self) -> tuple[str, ...]:
        """The same for an option of several commands that means the same for all of them."""
        return self.panel, self.name, self.typed, self.meaning

    @property
    def row(self) -> tuple[str, str, str]:
        return f'<a id="{self.name}"></a>{self.typed}', self.meaning, self.default


Shared = Mapping[tuple[str, ...], Option]
"""The options that several commands share, by their key."""


def options_of(command: Any) -> list[Option]:
    """The options of a command in the order of the panels of --help."""
    shown = (each for each in command.params if each.param_type_name == "option" and each.name not in UNLISTED)
    return sorted(map(_option, shown), key=lambda option: OPTION_PANELS.index(option.panel))


def shared_options(commands: Iterable[Any]) -> Shared:
    """The options that more than one of these commands has, with the default that the first of them has."""
    found: dict[tuple[str, ...], list[Option]] = {}
    for command in commands:
        for option in options_of(command):
            found.setdefault(option.key, []).append(option)
    return {key: same[0] for key, same in found.items() if len(same) > 1}


def shared_tables(shared: Shared) -> str:
    """A section with a table for each panel."""
    parts = []
    for panel in OPTION_PANELS:
        if members := [option for option in shared.values() if option.panel == panel]:
            parts += [f"## {panel}", option_table(members)]
    return "\n\n".join(parts) + "\n"


def option_table(options: Iterable[Option]) -> str:
    return table(("option", "meaning", "default"), (option.row for option in options))


def shared_list(options: Iterable[Option], shared: Shared) -> str:
    """Links to shared options, one line for each panel, with the defaults that are other ones here."""
    panels: dict[str, list[str]] = {}
    for option in options:
        link = f"[{code(option.name)}]({PAGE}#{option.name})"
        panels.setdefault(option.panel, []).append(link + _other_default(option, shared[option.key]))
    return "\n".join(f"- [{panel}]({PAGE}#{anchor(panel)}): {', '.join(links)}" for panel, links in panels.items())


def _other_default(option: Option, usual: Option) -> str:
    """The default in parentheses where it is another one than the page of shared options has."""
    if option.default == usual.default:
        return ""
    if option.default.startswith(REQUIRED):
        return f" ({option.default})"
    return f" (default: {option.default})" if option.default else " (optional)"


def _option(option: Any) -> Option:
    switches = ", ".join(code(switch) for switch in (*option.opts, *option.secondary_opts))
    value = "" if option.is_flag else f" {code(option.metavar)}"
    default = plain(option.default_in_words) or (REQUIRED if option.required else "")
    meaning = " ".join((plain(option.meaning), *_limits(option)))
    return Option(option.rich_help_panel, option.opts[0], switches + value, meaning, default)


def _limits(option: Any) -> Iterator[str]:
    if option.multiple and "epeatable" not in option.meaning:
        yield "Repeatable."
    if option.min is not None:
        yield f"At least {option.min}." if option.max is None else f"From {option.min} to {option.max}."
    elif option.max is not None:
        yield f"At most {option.max}."
