"""torch: the types of its operations and fake tensors, and loading an exported graph without pickle."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Any

from torch import ops
from torch._ops import OpOverload
from torch._subclasses.fake_tensor import FakeTensorMode

_FORCE = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
_lock = Lock()


def out_of_place(target: Any) -> OpOverload | None:
    """The operation `aten.relu` for the in-place `aten.relu_`, with the same overload; None for any other target.

    Checked with torch 2.13. The type of an operation is only in the private module `torch._ops`, and torch.export
    keeps operations that write into their input, which edgekit's rewrites don't handle.
    """
    if not isinstance(target, OpOverload):
        return None
    _, name, overload = str(target).split(".")
    if not name.endswith("_"):
        return None
    found: OpOverload = getattr(getattr(ops.aten, name[:-1]), overload)
    return found


def fake_tensors() -> FakeTensorMode:
    """The mode in which torch computes shapes and dtypes without values; constants of the graph may be real tensors.

    Checked with torch 2.13. `FakeTensorProp` is public and takes this mode, whose class is in `torch._subclasses`; the
    mode that it makes by itself refuses a graph's real weights.
    """
    return FakeTensorMode(allow_non_fake_inputs=True)


@contextmanager
def weights_only_loads() -> Iterator[None]:
    """Let every `torch.load` inside the block read tensors only, so that a file can't run code.

    Checked with torch 2.13, whose `torch.export.load` passes `weights_only=False` and has no argument for it. torch
    reads an environment variable for that, so the block holds for all threads; blocks of two threads take turns.
    """
    with _lock:
        before = os.environ.get(_FORCE)
        os.environ[_FORCE] = "1"
        try:
            yield
        finally:
            if before is None:
                del os.environ[_FORCE]
            else:
                os.environ[_FORCE] = before
