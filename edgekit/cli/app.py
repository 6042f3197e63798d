"""The Typer application, where the commands register, and the function that runs one command line."""

import copy
import functools
import os
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from edgekit import __version__
from edgekit.cli import COMMAND, COMPLETION, panels
from edgekit.cli.usage import check_not_empty, usage_error_of
from edgekit.compat.typer import plain_help, usage_error
from edgekit.support import error_text

# Typer imports pydantic to convert the value of an option that nobody gave, unless its default is a bool. That would
# make `edgekit COMMAND --help` 45 ms slower.
_UNSET_FLAGS = {"help": False, "version": False, "install_completion": False, "show_completion": False}
_HELP = """
Quantize an image classifier to INT8, and measure accuracy and speed on the device that will run it.

Begin with `edgekit demo`, which brings its own model and images. Then deploy
your own model with your own images:

  edgekit deploy resnet18 --weights best.pth --data photos

`edgekit COMMAND -h` lists the options of a command, with examples.
"""


ALIASES = {"device": "devices", "ls": "list", "rm": "remove"}
"""Other names of commands."""


class Commands(TyperGroup):
    """A group of commands: those that a new user meets first, then the others."""

    def get_command(self, context: Any, name: str) -> Any:
        """The command of this name or alias."""
        return super().get_command(context, ALIASES.get(name, name))

    def list_commands(self, context: Any) -> list[str]:
        """The names of the commands in the order in which `--help` shows them."""
        order = panels.COMMAND_ORDER
        return sorted(self.commands, key=lambda name: order.index(name) if name in order else len(order))


app = typer.Typer(
    cls=Commands,
    add_completion=True,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"default_map": _UNSET_FLAGS, "help_option_names": ["-h", "--help"]},
    help=_HELP,
)


def run(arguments: list[str]) -> int:
    """Run one command line and return its exit code. EdgekitError and KeyboardInterrupt pass through."""
    command = _command()
    if COMPLETION in os.environ:
        return _complete(command)
    check_not_empty(arguments)
    if arguments[:1] == ["help"]:
        arguments = [*arguments[1:], "--help"]
    try:
        result = command.main(args=arguments, prog_name=COMMAND, standalone_mode=False, obj=tuple(arguments))
    except typer.Abort:
        raise KeyboardInterrupt from None
    except typer.Exit as ended:
        return ended.exit_code
    except SystemExit as ended:  # --show-completion and --install-completion
        return int(ended.code or 0)
    except usage_error() as error:
        if not arguments:  # Typer raises an error that has no message, after the help
            return 0
        raise usage_error_of(error, arguments, command.commands) from None
    return result if isinstance(result, int) else 0


@functools.cache
def _command() -> Any:
    """The application with all its commands, which takes a while to make."""
    application: Any = typer.main.get_command(app)
    _keep_summaries_whole(application)
    (version,) = (option for option in application.params if option.name == "version")
    plain_help(application, None)
    for command in application.commands.values():
        _finish(command, version)
    return application


def _finish(command: Any, version: Any) -> None:
    """Clear a command's help of types, and let it and its subcommands take `--version` as the application does."""
    plain_help(command, panels.OUTPUT)
    if any(getattr(parameter, "hidden", False) for parameter in command.params):
        everything = copy.copy(version)
        everything.name, everything.opts, everything.expose_value = "help_all", ["--help-all"], False
        everything.help, everything.rich_help_panel = "Show every option and exit.", panels.OUTPUT
        everything.callback = _print_all_help
        command.params.append(everything)
    own = copy.copy(version)
    own.hidden, own.expose_value = True, False
    command.params.append(own)
    for subcommand in getattr(command, "commands", {}).values():
        _finish(subcommand, version)


def _print_all_help(context: Any, option: Any, wanted: bool) -> None:
    """Print a command's help with the options that `--help` leaves out."""
    if wanted:
        hidden = [each for each in context.command.params if getattr(each, "hidden", False) and each.name != "version"]
        for parameter in hidden:
            parameter.hidden = False
        print(context.get_help())
        for parameter in hidden:
            parameter.hidden = True
        raise typer.Exit


def _keep_summaries_whole(group: Any) -> None:
    """Give each command its summary as the short help, which shells show; Typer would cut it after 45 characters."""
    for command in group.commands.values():
        command.short_help = (command.help or "").partition("\n\n")[0]
        if hasattr(command, "commands"):
            _keep_summaries_whole(command)


def _complete(command: Any) -> int:
    """Print what the shell asks for in the environment. Errors are not shown: they would disturb the user's prompt."""
    try:
        command.main(args=[], prog_name=COMMAND, standalone_mode=False)
    except SystemExit as ended:
        return int(ended.code or 0)
    except Exception:  # completion parses half-written commands
        return 1
    return 1


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"edgekit {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def top(
    version: Annotated[
        bool,
        typer.Option("--version", "-V", is_eager=True, callback=_print_version, help="Print edgekit's version."),
    ] = False,
    traceback: Annotated[  # `main` takes it out of the command line: it is here for the help
        bool,
        typer.Option(
            error_text.TRACEBACK_OPTION,
            help="Print the Python traceback of every error. It may also stand after the command.",
        ),
    ] = False,
) -> None:
    """Set up nothing: every command does its own work."""
