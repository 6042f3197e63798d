"""A builder for large networks: it makes each bundle in a separate process, whose memory is freed when it ends.

The job is written once to a file in the run folder. All processes, including this one, map the weights from there
instead of copying them: mapped weights stay in the page cache, which the system can reclaim when memory is short.

`edgekit.pipeline.build_process` is the code of the separate process.
"""

import json
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from edgekit.compiler.constant_store import MappedFiles, write_out
from edgekit.config.precisions import Precision
from edgekit.errors import CompileError, rebuild
from edgekit.measure.fresh_process import signal_name
from edgekit.pipeline.graphs import JobGraphs
from edgekit.pipeline.job import Job
from edgekit.runtime.bundle import Bundle, read_bundle
from edgekit.support import library_log
from edgekit.support.child_process import start_python
from edgekit.support.files import writing
from edgekit.support.progress import Reporter
from edgekit.support.run_folder import STATE
from edgekit.support.tracebacks import BugElsewhere

BEGIN = (
    "import sys; from edgekit.support.libraries import import_needed; "
    "sys.exit(import_needed('edgekit.pipeline.build_process', 'build').main(sys.argv[1:]))"
)
"""Code of the other process. `import_needed` captures what libraries print while they are imported."""
GIVE_BACK = {"MALLOC_MMAP_THRESHOLD_": str(8 << 20)}
"""Makes glibc return freed weights of up to 32 MB, which it seldom does: convnextv2_huge has 54 of that size."""


class ParkedJob:
    """A job in a file, whose bundles other processes build.

    Its weights, and the constants of its graphs, are in mapped files in the same folder.
    """

    def __init__(self, file: Path) -> None:
        self.file = file

    @classmethod
    def write(cls, job: Job, folder: Path) -> "ParkedJob":
        """Write a job to a file in this folder. Raises OutputError if the disk is full."""
        file = folder / "job.pt"
        with writing(file), file.open("wb") as out:
            torch.save(job, out)
            out.flush()
            write_out(out.fileno())
        return cls(file)

    @cached_property
    def job(self) -> Job:
        """The job, with mapped weights. Unpickling is safe because this same command wrote the file."""
        job: Job = torch.load(self.file, mmap=True, weights_only=False)
        return job

    def graphs(self, reporter: Reporter) -> JobGraphs:
        """The graphs of the job. Its processes share the comparison with torch and the checked calibration images."""
        folder = self.file.parent
        return JobGraphs(self.job, reporter, MappedFiles(folder), folder)

    def build(self, graphs: JobGraphs, target: str, precision: Precision, path: Path, reporter: Reporter) -> Bundle:
        """Build the bundle at `path` in another process. That process exports the network itself; `graphs` is not used.

        Raises the errors of that process, or CompileError if it is killed.
        """
        arguments = ["-c", BEGIN, str(self.file), target, precision, str(path), *(["quiet"] if reporter.quiet else [])]
        # However this process ends, the pipe to the other one's stdin ends with it.
        process = start_python(arguments, GIVE_BACK)
        with process:
            output = process.stdout.read() if process.stdout else ""
        if process.returncode < 0:
            raise CompileError(
                f"the process that built '{path.name}' was ended by {signal_name(-process.returncode)}",
                fix=f"See {STATE}/{library_log.NAME} in the run folder for its last output",
            )
        if process.returncode == 130:
            raise KeyboardInterrupt
        if process.returncode != 0:
            raise _error_of(path, process.returncode, output)
        return read_bundle(path)


def _error_of(path: Path, status: int, output: str) -> Exception:
    """The error of the process that built the bundle at `path`."""
    if not output:
        return RuntimeError(f"the process that built '{path.name}' ended with status {status}")
    failure: Any = json.loads(output.splitlines()[-1])
    if "bug" in failure:
        return BugElsewhere(*failure["bug"])
    error = rebuild(**failure["error"])
    error.add_note(f"In the process that built '{path.name}': {failure['traceback']}")
    return error
