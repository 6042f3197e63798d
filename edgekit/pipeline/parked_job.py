"""A job in a file, from which other processes build its bundles.

All of them map the weights from there instead of copying them: mapped weights stay in the page cache, which the system
can reclaim when memory is short.
"""

from functools import cached_property
from pathlib import Path

import torch

from edgekit.compiler.constant_store import MEMORY, MappedFiles, write_out
from edgekit.config import sizes
from edgekit.pipeline.graphs import JobGraphs
from edgekit.pipeline.request import BuildSpec
from edgekit.support.files import writing
from edgekit.support.progress import Reporter


class ParkedJob:
    """A job in a file. Its folder also has what the job's processes share, and the constants of a large network."""

    def __init__(self, file: Path) -> None:
        self.file = file

    @classmethod
    def write(cls, spec: BuildSpec, folder: Path) -> "ParkedJob":
        """Write a job to a file in this folder. Raises OutputError if the disk is full."""
        file = folder / "job.pt"
        with writing(file), file.open("wb") as out:
            torch.save(spec, out)
            out.flush()
            write_out(out.fileno())
        return cls(file)

    @cached_property
    def spec(self) -> BuildSpec:
        """What the bundles are built from; its weights are mapped.

        Unpickling is safe because this same command wrote the file.
        """
        spec: BuildSpec = torch.load(self.file, mmap=True, weights_only=False)
        return spec

    def graphs(self, reporter: Reporter) -> JobGraphs:
        """The graphs of the job. Its processes share what one of them has calibrated, checked or compared."""
        folder = self.file.parent
        large = self.spec.network.params >= sizes.BUILT_APART_FROM
        return JobGraphs(self.spec, reporter, MappedFiles(folder) if large else MEMORY, folder)
