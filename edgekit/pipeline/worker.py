"""Builds each bundle of a large network in a separate process, whose memory is freed when it ends.

The job is written once to a file in the run folder. All processes, including this one, map the weights from there
instead of copying them: mapped weights stay in the page cache, which the system can reclaim when memory is short.

`edgekit.pipeline.worker_process` is the code of the separate process.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from edgekit.compiler.constant_files import constants_in, write_out
from edgekit.config import sizes
from edgekit.config.precisions import Precision
from edgekit.errors import CompileError, rebuild
from edgekit.measure.fresh_process import signal_name
from edgekit.pipeline.job import Job
from edgekit.runtime.bundle import Bundle, read_bundle
from edgekit.support import library_log
from edgekit.support.child_process import start_python
from edgekit.support.files import writing
from edgekit.support.progress import Reporter
from edgekit.support.run_folder import STATE, RunFolder
from edgekit.support.tracebacks import BugElsewhere

BEGIN = (
    "import sys; from edgekit.support.libraries import import_needed; "
    "sys.exit(import_needed('edgekit.pipeline.worker_process', 'build').main(sys.argv[1:]))"
)
"""Code of the other process. `import_needed` captures what libraries print while they are imported."""
GIVE_BACK = {"MALLOC_MMAP_THRESHOLD_": str(8 << 20)}
"""For glibc, which otherwise seldom returns freed weights of up to 32 MB: convnextv2_huge has 54 of that size."""


@contextmanager
def parked(job: Job, run: RunFolder) -> Iterator[Job]:
    """Inside the block, keep the weights of a large network and its graphs in mapped files in the run folder.

    Small networks, and those of a factory, whose code can't be pickled, stay as they are. OutputError for a full disk.
    """
    if job.network.params < sizes.BUILT_APART_FROM or job.network.source == "factory":
        yield job
        return
    with run.workspace("weights") as folder:
        file = folder / "job.pt"
        with writing(file), file.open("wb") as out:
            torch.save(job, out)
            out.flush()
            write_out(out.fileno())
        del job  # frees its weights now instead of at the end of the block
        with constants_in(folder):
            yield load_parked(file)


def load_parked(file: Path) -> Job:
    """Load the job that `parked` wrote. Unpickling is safe because this same command wrote the file."""
    job: Job = torch.load(file, mmap=True, weights_only=False)
    return replace(job, parked=file)


def build_apart(file: Path, target: str, precision: Precision, path: Path, reporter: Reporter) -> Bundle:
    """Build a bundle of a parked job in another process. Raises its errors here, or CompileError if it is killed."""
    arguments = ["-c", BEGIN, str(file), target, precision, str(path), *(["quiet"] if reporter.quiet else [])]
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
        if not output:
            raise RuntimeError(f"the process that built '{path.name}' ended with status {process.returncode}")
        failure: Any = json.loads(output.splitlines()[-1])
        if "bug" in failure:
            raise BugElsewhere(*failure["bug"])
        error = rebuild(**failure["error"])
        error.add_note(f"In the process that built '{path.name}': {failure['traceback']}")
        raise error
    return read_bundle(path)
