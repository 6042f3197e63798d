"""Keeps the large constants of graphs in mapped files instead of in memory.

A network of billions of weights is rewritten several times on the way to INT8, and each rewrite makes new weights. In
mapped files, all of them are page cache, which the system writes out and drops when memory is short.
"""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

import torch
from torch import Tensor

from edgekit.support.files import writing

LARGE_BYTES = 1 << 20
"""Size from which a constant gets a file."""

_folder: ContextVar[Path | None] = ContextVar("folder of the constants", default=None)


@contextmanager
def constants_in(folder: Path) -> Iterator[None]:
    """Inside the block, in this thread, store new large constants of graphs in files in this folder.

    The files have no names, so that their space is free as soon as their tensors are, even if the process is killed.
    """
    token = _folder.set(folder)
    try:
        yield
    finally:
        _folder.reset(token)


def stored(value: Tensor) -> Tensor:
    """A contiguous copy of a constant, in memory or mapped. Raises OutputError if the disk is full."""
    folder, value = _folder.get(), value.detach()
    if folder is None or value.nbytes < LARGE_BYTES:
        return value.clone().contiguous()
    with writing(folder), tempfile.NamedTemporaryFile(dir=folder) as file:
        value.contiguous().flatten().view(torch.uint8).numpy().tofile(file)
        file.flush()
        write_out(file.fileno())
        return torch.from_file(file.name, size=value.numel(), dtype=value.dtype).view(value.shape)


def write_out(file: int) -> None:
    """Begin to write the pages of an open file to the disk, because the system can drop only written ones."""
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
