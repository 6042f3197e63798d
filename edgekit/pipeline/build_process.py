"""Processes that build the bundles of a job in a file, one bundle after the other.

`BuildProcess` starts one, which runs `main`. It reads each `Wanted` bundle as a line of JSON from stdin, and writes its
progress and result as messages to stdout. When stdin is closed, it exits, so it never outlives its parent.

All processes map the weights from the file instead of copying them: mapped weights stay in the page cache, which the
system can reclaim when memory is short.
"""

import gc
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from types import MappingProxyType

import torch

from edgekit.compiler.constant_store import MEMORY, MappedFiles, write_out
from edgekit.compiler.execution.threads import keep_to_available_cores
from edgekit.config import sizes
from edgekit.config.choices import Precision
from edgekit.devices.messages import Bug, Ended, Failed, ShownProgress, Wire, decode_message
from edgekit.errors import CompileError, EdgekitError
from edgekit.measure.fresh_process import signal_name
from edgekit.pipeline.build import compile_graph
from edgekit.pipeline.graphs import JobGraphs
from edgekit.pipeline.request import BuildSpec
from edgekit.runtime.bundle import Bundle, read_bundle
from edgekit.support import library_log
from edgekit.support.child_process import start_python
from edgekit.support.error_text import BugElsewhere, kind_of, summary_of, text_of
from edgekit.support.files import writing
from edgekit.support.progress import Reporter
from edgekit.support.run_folder import STATE

BEGIN = (
    "import sys; from edgekit.support.libraries import import_needed; "
    "import_needed('edgekit.pipeline.build_process', 'build').main(sys.argv[1:])"
)
"""Code of the process. `import_needed` captures what libraries print while they are imported."""


@dataclass(frozen=True)
class Wanted:
    """A bundle to build."""

    target: str
    precision: Precision
    path: Path


def write_spec(spec: BuildSpec, folder: Path) -> Path:
    """Write what the bundles of a job are built from to a file in this folder. Raises OutputError if the disk is full.

    The folder will also have what the processes share, and the constants of a large network. A metric of the user's
    judges no build, and often can't be pickled.
    """
    path, spec = folder / "job.pt", replace(spec, task=replace(spec.task, metric=None))
    with writing(path), path.open("wb") as file:
        torch.save(spec, file)
        file.flush()
        write_out(file.fileno())
    return path


def graphs_of(path: Path, reporter: Reporter) -> JobGraphs:
    """The graphs of the job in a file that `write_spec` wrote, with mapped weights."""
    spec: BuildSpec = torch.load(path, mmap=True, weights_only=False)  # safe: this same command wrote it
    large = spec.network.params >= sizes.BUILT_APART_FROM
    return JobGraphs(spec, reporter, MappedFiles(path.parent) if large else MEMORY, path.parent)


class BuildProcess:
    """A process that builds bundles of the job in a file. It imports the compilers, then waits for its first bundle.

    `variables` are additional environment variables.
    """

    def __init__(self, job: Path, variables: Mapping[str, str] = MappingProxyType({})) -> None:
        self._job, self._variables = job, variables
        self._process: subprocess.Popen[str] | None = self._started()

    def build(self, wanted: Wanted, reporter: Reporter) -> Bundle:
        """Build a bundle; show the progress with `reporter`.

        Raises the errors of the process, or CompileError if it is killed, after which the next bundle starts another.
        """
        process, name = self._process or self._started(), wanted.path.name
        self._process = process
        assert process.stdin
        assert process.stdout
        request = {**asdict(wanted), "path": str(wanted.path)}
        with suppress(BrokenPipeError):  # the exit status tells why
            process.stdin.write(json.dumps(request) + "\n")
            process.stdin.flush()
        with ShownProgress(reporter) as progress:
            for line in process.stdout:
                message = decode_message(line)
                if isinstance(message, Bug):
                    raise BugElsewhere(message.kind, message.summary, message.traceback)
                if isinstance(message, Failed):
                    error = message.rebuilt()
                    error.add_note(f"In the process that built '{name}': {message.traceback}")
                    raise error
                if isinstance(message, Ended):
                    return read_bundle(wanted.path)
                if message is not None:
                    progress.show(message)
        status = process.wait()
        self.close()
        if status >= 0:
            raise RuntimeError(f"the process that built '{name}' ended with status {status}")
        raise CompileError(
            f"the process that built '{name}' was ended by {signal_name(-status)}",
            fix=f"See {STATE}/{library_log.NAME} in the run folder for its last output",
        )

    def kill(self) -> None:
        """End the process in the middle of its work, from any thread. `build` then raises CompileError."""
        if (process := self._process) is not None:
            process.kill()

    def close(self) -> None:
        """End the process and close its pipes, when nothing is built in it."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            with suppress(BrokenPipeError):
                process.communicate()

    def _started(self) -> "subprocess.Popen[str]":
        return start_python(["-c", BEGIN, str(self._job)], self._variables)


def main(arguments: Sequence[str]) -> None:
    """Build the bundles that the parent asks for, until it closes the pipe."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, too, which ends this process
    gc.freeze()  # what the imports made lasts as long as this process
    keep_to_available_cores()
    wire = Wire()
    requests: SimpleQueue[str] = SimpleQueue()
    Thread(target=_listen, args=(requests,), daemon=True).start()
    graphs: JobGraphs | None = None
    while True:
        request = json.loads(requests.get())
        wanted = Wanted(request["target"], request["precision"], Path(request["path"]))
        try:
            graphs = graphs or graphs_of(Path(arguments[0]), wire)
            compile_graph(graphs.graph_to_compile(wanted.target, wanted.precision), wanted.path, wire)
        except EdgekitError as error:
            wire.send(Failed(type(error).__name__, error.problem, error.valid, error.fix, text_of(error)))
        except Exception as error:  # a bug in edgekit, which the parent reports as such
            wire.send(Bug(wanted.path.name, kind_of(error), summary_of(error), text_of(error)))
        else:
            wire.send(Ended())


def _listen(requests: "SimpleQueue[str]") -> None:
    for line in sys.stdin:
        requests.put(line)
    os._exit(1)
