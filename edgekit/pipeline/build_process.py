"""The process that builds one bundle of a large network, started by `edgekit.pipeline.parked_job`.

The arguments of `main` are JOB TARGET PRECISION BUNDLE, then `quiet` to print no progress. It prints an error as one
JSON object on stdout.
"""

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from threading import Thread

from edgekit.errors import EdgekitError
from edgekit.pipeline.build import compile_graph
from edgekit.pipeline.parked_job import ParkedJob
from edgekit.support.progress import Reporter
from edgekit.support.tracebacks import kind_of, summary_of, text_of


def main(arguments: Sequence[str]) -> int:
    """Build one bundle; return the process's exit status."""
    Thread(target=_end_with_parent, daemon=True).start()
    job, target, precision, path, *quiet = arguments
    reporter = Reporter(quiet=bool(quiet))
    try:
        graphs = ParkedJob(Path(job)).graphs(reporter)
        to_compile = graphs.graph_to_compile(target, "int8" if precision == "int8" else "float")
        compile_graph(to_compile, Path(path), reporter)
    except EdgekitError as error:
        fields = {"problem": error.problem, "valid": error.valid, "fix": error.fix}
        print(json.dumps({"error": {"kind": type(error).__name__, **fields}, "traceback": text_of(error)}))
        return 1
    except KeyboardInterrupt:
        return 130
    except Exception as error:  # a bug in edgekit, which the parent reports as such
        print(json.dumps({"bug": [kind_of(error), summary_of(error), text_of(error)]}))
        return 1
    return 0


def _end_with_parent() -> None:
    sys.stdin.read()
    os._exit(1)
