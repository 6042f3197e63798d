"""The Typer application, where the commands register, and the function that runs one command line."""

import functools
import os
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from edgekit import __version__
from edgekit.cli import panels
from edgekit.cli.names import COMMAND, COMPLETION
from edgekit.cli.usage import check_not_empty, usage_error_of
from edgekit.compat.typer import usage_error
from edgekit.support import tracebacks

# Typer imports pydantic to convert the value of an option that nobody gave, unless its default is a bool. That would
# make `edgekit COMMAND --help` 45 ms slower.
_UNSET_FLAGS = {"help": False, "install_completion": False, "show_completion": False}


class PanelOrder(TyperGroup):
    """The group of all commands, listed panel by panel."""

    def list_commands(self, context: Any) -> list[str]:
        """The names of the commands in the order in which `--help` shows them."""
        panel_of = {name: getattr(command, "rich_help_panel", None) for name, command in self.commands.items()}
        return sorted(self.commands, key=lambda name: panels.COMMAND_PANELS.index(str(panel_of[name])))


app = typer.Typer(
    cls=PanelOrder,
    add_completion=True,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"default_map": _UNSET_FLAGS},
    help="Quantize an image classifier to INT8, and measure accuracy and speed on the device that will run it.",
)


def run(arguments: list[str]) -> int:
    """Run one command line and return its exit code. EdgekitError and KeyboardInterrupt pass through."""
    command = _command()
    if COMPLETION in os.environ:
        return _complete(command)
    check_not_empty(arguments)
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
    application = typer.main.get_command(app)
    _keep_summaries_whole(application)
    return application


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


@app.callback(invoke_without_command=True)
def top(
    version: Annotated[bool, typer.Option("--version", help="Print edgekit's version.")] = False,
    traceback: Annotated[  # `main` takes it out of the command line: it is here for the help
        bool,
        typer.Option(
            tracebacks.OPTION,
            help="Print the Python traceback of every error. It may also stand after the command.",
        ),
    ] = False,
) -> None:
    if version:
        print(f"edgekit {__version__}")
        raise typer.Exit
