"""The entry point of a worker process. It imports heavy modules only inside, where libraries are silenced."""

import multiprocessing
import os
import signal
import sys
from multiprocessing.queues import SimpleQueue
from pathlib import Path
from threading import Thread

from edgekit.errors import EdgekitError, StageError
from edgekit.pipeline.options import Options
from edgekit.support import tracebacks
from edgekit.support.error_text import lines_of
from edgekit.support.libraries import needs
from edgekit.tuning.bugs import bug_of
from edgekit.tuning.options import Search


def begin(
    options: Options, search: Search, file: Path, until: float, traceback: bool, errors: "SimpleQueue[str]"
) -> None:
    """Run trials of the database `file` until none is left, or until the time `until` (as of time.time()).

    The exit status is 0, an error's exit code, or 130 after Ctrl-C. With `traceback`, errors print their traceback. The
    problem of the error that ends the worker is put into `errors`.
    """
    Thread(target=_end_with_parent, daemon=True).start()
    try:
        with needs("build"):
            from edgekit.tuning.worker import work
        work(options, search, file, until)
    except EdgekitError as error:
        if traceback:
            print(tracebacks.text_of(error), file=sys.stderr)
        print(*lines_of(error), sep="\n", file=sys.stderr)
        errors.put(error.problem)
        sys.exit(error.exit_code)
    except Exception as error:
        print(tracebacks.text_of(error), file=sys.stderr)
        errors.put(bug_of(error))
        sys.exit(StageError.exit_code)
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)


def _end_with_parent() -> None:
    """Exit when the parent is killed, because the same command, started again, takes over its folder."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
