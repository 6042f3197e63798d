"""Bundles of large networks, each made in a process of its own: when it ends, all memory of the work is given back.

The job is written once to a file in the run folder. Every process maps the weights from there, this one too: they stay
in the page cache, which the system takes back where memory is short, and none has a copy of its own.

`edgekit.pipeline.worker_process` is that process.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

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

BEGIN = (
    "import sys; from edgekit.support.libraries import import_needed; "
    "sys.exit(import_needed('edgekit.pipeline.worker_process', 'build').main(sys.argv[1:]))"
)
"""What the other process runs: libraries say a lot while they are imported."""
GIVE_BACK = {"MALLOC_MMAP_THRESHOLD_": str(8 << 20)}
"""For glibc, which gives a freed weight of up to 32 MB back only by chance: convnextv2_huge has 54 of that size."""
LARGE = 50_000_000
"""Parameters from which a network's bundles are made apart."""


@contextmanager
def parked(job: Job, run: RunFolder) -> Iterator[Job]:
    """The job with the weights of a large network mapped from a file in the run folder, until the block ends.

    Small networks, and those of a factory whose code can't be pickled, stay as they are. OutputError for a full disk.
    """
    if job.network.params < LARGE or job.network.source == "factory":
        yield job
        return
    with run.workspace("weights") as folder:
        file = folder / "job.pt"
        with writing(file):
            torch.save(job, file)
        del job  # else its weights would stay until the block ends
        yield load_job(file)


def load_job(file: Path) -> Job:
    """The job that `parked` wrote. It's unpickled: only what this very command wrote is read here."""
    job: Job = torch.load(file, mmap=True, weights_only=False)
    return replace(job, parked=file)


def build_apart(file: Path, target: str, precision: Precision, path: Path, reporter: Reporter) -> Bundle:
    """The bundle of a parked job, made by another process. Its errors are raised here; CompileError if it is killed."""
    arguments = ["-c", BEGIN, str(file), target, precision, str(path), *(["quiet"] if reporter.quiet else [])]
    # The pipe to its stdin ends with this process, whatever ends that.
    done = start_python(arguments, GIVE_BACK)
    with done:
        said = done.stdout.read() if done.stdout else ""
    if done.returncode < 0:
        raise CompileError(
            f"the process that made '{path.name}' was ended by {signal_name(-done.returncode)}. What it printed last "
            f"is in {STATE}/{library_log.NAME} in the run folder"
        )
    if done.returncode == 130:
        raise KeyboardInterrupt
    if done.returncode != 0:
        found: Any = (
            json.loads(said.splitlines()[-1]) if said else {"mistake": f"it ended with status {done.returncode}"}
        )
        if "mistake" in found:
            raise RuntimeError(f"the process that made '{path.name}' failed: {found['mistake']}")
        error = rebuild(**found["error"])
        error.add_note(f"In the process that made '{path.name}': {found['traceback']}")
        raise error
    return read_bundle(path)
