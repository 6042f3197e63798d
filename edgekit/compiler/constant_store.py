"""Stores for the constants of graphs: memory, or mapped files.

A network of billions of weights is rewritten several times on the way to INT8, and each rewrite makes new weights. In
mapped files, all of them are page cache, which the system writes out and drops when memory is short.
"""

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor
from torch.fx import GraphModule

from edgekit.support.files import writing

LARGE_BYTES = 1 << 20
"""Size from which a constant gets a file."""
_STORE = "edgekit_constants"
"""Key of a graph's store in its `meta`, which copies of the graph share."""


class ConstantStore(Protocol):
    """Keeps the constants that passes add to a graph."""

    def keep(self, value: Tensor) -> Tensor:
        """A contiguous copy of a constant. Raises OutputError if a disk is full."""
        ...


@dataclass(frozen=True)
class Memory:
    """Keeps constants in memory."""

    def keep(self, value: Tensor) -> Tensor:
        """A contiguous copy of a constant."""
        return value.detach().clone().contiguous()


@dataclass(frozen=True)
class MappedFiles:
    """Keeps large constants in mapped files in a folder.

    The files have no names, so that their space is free as soon as their tensors are, even if the process is killed.
    """

    folder: Path

    def keep(self, value: Tensor) -> Tensor:
        """A contiguous copy of a constant, mapped if it is large. Raises OutputError if the disk is full."""
        value = value.detach()
        if value.nbytes < LARGE_BYTES:
            return MEMORY.keep(value)
        with writing(self.folder), tempfile.NamedTemporaryFile(dir=self.folder) as file:
            value.contiguous().flatten().view(torch.uint8).numpy().tofile(file)
            file.flush()
            write_out(file.fileno())
            return torch.from_file(file.name, size=value.numel(), dtype=value.dtype).view(value.shape)


MEMORY = Memory()


def keep_constants_in(graph: GraphModule, store: ConstantStore) -> None:
    """Choose the store for the constants that passes add to this graph, and to copies of it."""
    graph.meta[_STORE] = store


def store_of(graph: GraphModule) -> ConstantStore:
    """The store of a graph's constants: memory, unless `keep_constants_in` chose another one."""
    store: ConstantStore = graph.meta.get(_STORE, MEMORY)
    return store


def write_out(file: int) -> None:
    """Begin to write the pages of an open file to the disk, because the system can drop only written ones."""
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
