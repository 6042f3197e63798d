"""The process that makes one bundle of a large network; `edgekit.pipeline.worker` starts it.

`main` gets JOB TARGET PRECISION BUNDLE, and `quiet` behind them for no progress. An error is one JSON object on stdout.
"""

import gc
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from threading import Thread

from torch.fx import GraphModule

from edgekit.errors import EdgekitError
from edgekit.pipeline.build import compile_prepared
from edgekit.pipeline.graphs import PreparedGraphs
from edgekit.pipeline.worker import load_job
from edgekit.support.progress import Reporter
from edgekit.support.tracebacks import text_of


def main(arguments: Sequence[str]) -> int:
    """Make one bundle; the process's exit status."""
    Thread(target=_end_with_parent, daemon=True).start()
    file, target, precision, path, *quiet = arguments
    reporter = Reporter(quiet=bool(quiet))
    try:
        prepared = PreparedGraphs(load_job(Path(file)), reporter).prepare(
            target, "int8" if precision == "int8" else "float"
        )
        own_tensors(prepared.graph)
        gc.collect()  # nothing is left of the network, and so of the file that its weights are mapped from
        compile_prepared(prepared, Path(path), reporter)
    except EdgekitError as error:
        fields = {"problem": error.problem, "valid": error.valid, "fix": error.fix}
        print(json.dumps({"error": {"kind": type(error).__name__, **fields}, "traceback": text_of(error)}))
        return 1
    except KeyboardInterrupt:
        return 130
    except Exception as error:  # a mistake of edgekit's own: the parent shows it as that
        print(json.dumps({"mistake": text_of(error)}))
        return 1
    return 0


def own_tensors(graph: GraphModule) -> None:
    """Give the graph copies of its tensors, one by one: one that is still in a mapped file keeps all of that mapped."""
    for value in [*graph.parameters(), *graph.buffers()]:
        value.data = value.data.clone()


def _end_with_parent() -> None:
    sys.stdin.read()
    os._exit(1)
