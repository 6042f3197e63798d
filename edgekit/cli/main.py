"""Entry point: what runs a command and turns errors into messages and exit codes."""

import os
import signal
import sys
from collections.abc import Sequence

from edgekit.errors import EdgekitError, MissingExtraError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 0 done, 1 a gate or row failed, 2 bad input, 130 interrupted."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # converters log to stderr on import otherwise
    try:
        from edgekit.cli.app import run
    except ModuleNotFoundError as error:
        if error.name not in ("typer", "rich", "click"):
            raise
        return _fail(MissingExtraError(f"'{error.name}' is not installed. Run: pip install \"edgekit[cli]\""))
    try:
        return run(list(sys.argv[1:] if arguments is None else arguments))
    except EdgekitError as error:
        return _fail(error)
    except KeyboardInterrupt:
        print("interrupted: what was finished is kept; the same command goes on from there.", file=sys.stderr)
        return 128 + signal.SIGINT
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _fail(error: EdgekitError) -> int:
    print(f"edgekit: error: {error}", file=sys.stderr)
    return error.exit_code


def entry() -> None:
    """The console script."""
    sys.exit(main())
