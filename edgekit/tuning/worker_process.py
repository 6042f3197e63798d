"""Where a worker process begins. Light: what it needs is imported with libraries kept quiet."""

import multiprocessing
import os
import signal
import sys
from threading import Thread

from edgekit.errors import EdgekitError
from edgekit.pipeline.options import Options
from edgekit.support import tracebacks
from edgekit.support.libraries import import_needed
from edgekit.tuning.options import Search


def begin(options: Options, search: Search, url: str, until: float, traceback: bool) -> None:
    """Do trials until none is left, or it is `until` (time.time()); the exit status says how that went.

    With `traceback` an error is printed with where it came from.
    """
    Thread(target=_end_with_parent, daemon=True).start()
    try:
        import_needed("edgekit.tuning.worker", "build").work(options, search, url, until)
    except EdgekitError as error:
        if traceback:
            print(tracebacks.text_of(error), file=sys.stderr)
        print(f"edgekit: error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)


def _end_with_parent() -> None:
    """A worker whose command was killed ends too: the same command started again takes its folder over."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
