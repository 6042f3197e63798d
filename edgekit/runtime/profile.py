"""What the profilers share: their contract, the result, and how multiply-accumulates are counted."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edgekit.errors import InputError
from edgekit.runtime.manifest import ManifestLayer

Shape = Sequence[int]


@dataclass(frozen=True)
class OpProfile:
    """An operation that multiplies and accumulates, as the runtime ran it."""

    name: str
    kernel: str
    """The runtime's own name of the kernel, such as "brgconv_avx512_1x1_I8"."""
    macs: int
    int8: bool
    """The kernel multiplies integers of at most 8 bits."""
    ms: float | None = None
    """Time of a run, in milliseconds; None if the runtime doesn't tell it of this operation alone."""
    reason: str | None = None
    """Why it ran in float; None for an integer kernel."""
    quantized: bool = False
    """The file quantizes its input and its weights (or second input)."""


@dataclass(frozen=True)
class Profile:
    """One model under its runtime's profiler, batch 1.

    MACs are those that the runtime carries out, convolutions (depthwise ones too), matrix products of weights and
    those between activations. Not counted is what
    a product only spells: a sum written as a MatMul with a constant of ones, and channels that a layout pads with.
    """

    method: str
    """Where the facts come from: what the runtime itself said, and what was concluded from the file."""
    ops: tuple[OpProfile, ...]
    """In the order in which they ran."""
    time_by_kind: Mapping[str, float] | None
    """Milliseconds by kind of operation, products split in "int8" and "float"; None if the runtime doesn't tell."""

    @property
    def total_macs(self) -> int:
        return sum(op.macs for op in self.ops)

    @property
    def int8_macs(self) -> int:
        return sum(op.macs for op in self.ops if op.int8)

    @property
    def share_of_macs(self) -> float:
        """0 to 1: the part of the MACs that ran in integer kernels."""
        return self.int8_macs / self.total_macs if self.total_macs else 0.0

    @property
    def simulated(self) -> bool:
        """The runtime computes most of what the file quantizes in floating point on this processor."""
        return sum(op.macs for op in self.ops if op.quantized and not op.int8) > self.int8_macs

    @property
    def float_layers(self) -> tuple[str, ...]:
        """Names of the layers that ran in float, each once."""
        return tuple(dict.fromkeys(op.name for op in self.ops if not op.int8))


class RuntimeProfiler(Protocol):
    """Profiles a model file in one runtime."""

    def profile(self, model: Path, options: Mapping[str, Any], threads: int, runs: int) -> Profile:
        """`options` are a manifest's session options; times are those of a typical run, the first one left out."""
        ...


def matrix_macs(left: Shape, right: Shape, out: Shape) -> int:
    """MACs of a matrix product [.., m, k] x [.., k, n], whichever of the operands is stored transposed."""
    a, b, c = (math.prod(shape[-2:]) for shape in (left, right, out))
    depth = math.isqrt(a * b // c) if c else 0  # m k * k n / (m n)
    return math.prod(out) * depth


def float_reason(title: str, quantized: Sequence[bool]) -> str:
    """Why a product ran in float, from whether its file quantizes its input and its weights (or second input)."""
    if all(quantized):
        return f"quantized in the file, but {title} has no integer kernel for it here: it ran on dequantized values"
    if any(quantized):
        return f"only its {'input is' if quantized[0] else 'weights are'} quantized in the file"
    return "not quantized in the file"


def kind_of(operation: str, int8: bool) -> str:
    """The kind under which an operation's time is counted: products say what they multiply."""
    return f"{operation} {'int8' if int8 else 'float'}"


def add_times(times: Iterable[tuple[str, float]]) -> dict[str, float]:
    """Milliseconds by kind, the longest first."""
    total: dict[str, float] = {}
    for kind, ms in times:
        if ms > 0:
            total[kind] = total.get(kind, 0.0) + ms
    return dict(sorted(total.items(), key=lambda item: -item[1]))


def random_input(name: str, shape: Sequence[int | None], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Seeded values of a model input; a batch that isn't fixed is 1, another size that isn't fixed an InputError."""
    sizes = [1 if index == 0 and size is None else size for index, size in enumerate(shape)]
    if any(size is None or size < 1 for size in sizes):
        raise InputError(
            f"input '{name}' has shape {list(shape)}: export the model for one size, valid is a fixed shape"
        )
    values = np.random.default_rng(0).standard_normal([size for size in sizes if size is not None])
    return (values if dtype.kind == "f" else values * 32).astype(dtype)


def with_layer_names(profile: Profile, layers: Sequence[ManifestLayer]) -> Profile:
    """The same with the manifest's names: layers and operations come in the same order, and their MACs tell them apart.

    An operation that the rewrites split or merged, so that no layer has its MACs, keeps the runtime's name.
    """
    known = {layer["name"] for layer in layers}
    free = list(layers)
    ops = []
    for op in profile.ops:
        found = next((layer for layer in free if layer["macs"] == op.macs), None)
        if op.name in known:
            found = next((layer for layer in free if layer["name"] == op.name), None)
        if found is not None:
            free.remove(found)
            op = replace(op, name=found["name"])
        ops.append(op)
    return replace(profile, ops=tuple(ops))
