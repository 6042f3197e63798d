"""The entry points, which run a command line and turn errors into messages and exit codes."""

import gc
import os
import signal
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any

from edgekit.cli import COMPLETION
from edgekit.errors import EdgekitError, MissingExtraError, printable
from edgekit.support import progress
from edgekit.support.child_process import interruptible, noting
from edgekit.support.libraries import SLEEPING, install_command
from edgekit.support.progress import lines_of

CLI_PACKAGES = frozenset(
    ("click", "filelock", "msgspec", "packaging", "platformdirs", "psutil", "rich", "tomlkit", "typer")
)
"""Modules that the extra `cli` brings."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 0 passed, 1 a gate or row failed, 2 bad input, 130 interrupted."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # converters log to stderr on import otherwise
    os.environ.setdefault(*SLEEPING)
    rest, traceback = _without_traceback(list(sys.argv[1:] if arguments is None else arguments))
    try:
        with noting(), interruptible(), progress.tracebacks_shown(traceback):
            return _run(rest)
    except EdgekitError as error:
        if COMPLETION in os.environ:
            return error.exit_code  # a message would land in the line that the user is typing
        if traceback:
            print(printable(progress.text_of(error)), file=sys.stderr)
        print(*lines_of(error), sep="\n", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("Interrupted. Completed work was saved; run the same command again to resume.", file=sys.stderr)
        return 128 + signal.SIGINT


def _without_traceback(arguments: list[str]) -> tuple[list[str], bool]:
    """Remove `--traceback`, which may stand before or after the command; return the rest and whether it was there."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    options = [argument for argument in arguments[:end] if argument != progress.TRACEBACK_OPTION]
    return options + arguments[end:], len(options) < end


def application() -> Any:
    """The Typer application with all commands, in the order in which `--help` shows them."""
    from edgekit.cli.frame import app

    for name in ("jobs", "bundles", "devices"):
        import_module(f"edgekit.cli.{name}")
    return app


def _run(arguments: list[str]) -> int:
    try:
        application()
        from edgekit.cli.frame import run

        return run(arguments)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in CLI_PACKAGES:
            raise
        raise MissingExtraError(f"'{package}' is not installed", fix=f"Run: {install_command('cli')}") from error


def entry() -> None:
    """Run the console script. Any error but an EdgekitError is a bug: show its traceback and exit with 70."""
    try:
        code = main()
    except Exception as error:
        print(progress.text_of(error), file=sys.stderr)
        print(f"edgekit: {progress.PLEASE_REPORT}", file=sys.stderr)
        code = 70  # EX_SOFTWARE, which Windows has no name for
    gc.freeze()  # so that Python doesn't spend seconds on the objects of torch and the compilers before it exits
    sys.exit(code)
