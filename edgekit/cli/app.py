"""The application: its commands register here, and one command line is run."""

import shlex
from typing import Annotated

import typer

from edgekit import __version__
from edgekit.compat.typer import usage_error
from edgekit.errors import UsageError
from edgekit.support import tracebacks

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # markup would take "[default: all]" for a style, and rich takes its time to start
    help="From a checkpoint to an INT8 classifier that is proven smaller, faster and as accurate on its device.",
)


def run(arguments: list[str]) -> int:
    """Run one command line; its exit code. EdgekitError and KeyboardInterrupt pass through."""
    command = typer.main.get_command(app)
    try:
        result = command.main(args=arguments, prog_name="edgekit", standalone_mode=False, obj=tuple(arguments))
    except typer.Abort:
        raise KeyboardInterrupt from None
    except typer.Exit as ended:
        return ended.exit_code
    except usage_error() as error:
        if not arguments:
            error.show()
            return 0
        said = error.format_message().rstrip(".")
        place = f"edgekit {arguments[0]}" if arguments[0] in getattr(command, "commands", ()) else "edgekit"
        raise UsageError(f"{said}. Given: edgekit {shlex.join(arguments)}. See: {place} --help") from None
    return result if isinstance(result, int) else 0


@app.callback(invoke_without_command=True)
def top(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
    traceback: Annotated[  # `main` takes it out of the command line: it is here for the help
        bool,
        typer.Option(tracebacks.OPTION, help="Show the traceback of every error. Valid behind the command too."),
    ] = False,
) -> None:
    if version:
        print(f"edgekit {__version__}")
        raise typer.Exit
