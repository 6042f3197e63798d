"""Runs a model under its runtime's own profiler, to see which kernels run. Needs only numpy and the runtime.

The `profiler` module of a runtime has the function `profile`, which takes a model file, a manifest's session options, a
number of threads and of runs, and returns a `Profile`. Its times are of a typical run, without the first one. If the
runtime's row has `saturating_inputs`, the module also has `count_pairs` for `runtime.session`.

Every operation that ran is attributed to the product that it belongs to: a layer in INT8 brings conversions, changes of
layout and activations with it, which often take longer than the layer.
"""

import importlib
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.config.runtimes import RUNTIMES, Runtime
from edgekit.errors import InputError, UsageError
from edgekit.runtime.bundle import Bundle, ManifestLayer
from edgekit.runtime.engine import check_threads, engine_errors
from edgekit.runtime.session import Session

RUNS = 5
Shape = Sequence[int]


@dataclass(frozen=True)
class OpProfile:
    """An operation that multiplies and accumulates, as the runtime ran it."""

    name: str
    """Name of the layer or operation."""
    kernel: str
    """The runtime's name for the kernel, such as "brgconv_avx512_1x1_I8"."""
    macs: int
    """Multiply-accumulates for one image."""
    int8: bool
    """Whether the kernel multiplies integers of at most 8 bits."""
    ms: float | None = None
    """Time of one run in milliseconds, or None if the runtime doesn't report it for this operation alone."""
    reason: str | None = None
    """Reason why the operation ran in float; None for an integer kernel."""
    quantized: bool = False
    """Whether the file quantizes both its input and its weights (or second input)."""
    around_ms: float = 0.0
    """Milliseconds of others that belong to it: activations, conversions, and a fused operation that contains it."""

    @property
    def has_time(self) -> bool:
        """Whether the runtime reports a time for it, if only as a part of a fused operation."""
        return self.ms is not None or self.around_ms > 0


@dataclass(frozen=True)
class ProfiledLayer:
    """Time of a layer, and of what surrounds it, in one run."""

    name: str
    """Name of the layer."""
    ms: float
    """Milliseconds in the layer's own kernels."""
    around_ms: float
    """Milliseconds of the other operations that belong to it, as in `OpProfile`."""
    int8: bool
    """Whether all of its kernels multiply integers of at most 8 bits."""


@dataclass(frozen=True)
class Profile:
    """Profile of one model at batch 1.

    The MACs are those that the runtime executes in convolutions, including depthwise ones, and in matrix products with
    weights or between activations. A sum that is written as a MatMul with a constant of ones doesn't count, nor do
    channels that a layout adds as padding.
    """

    method: str
    """Source of the facts: which ones the runtime reported, and which ones were inferred from the file."""
    ops: tuple[OpProfile, ...]
    """Operations in the order of the model file."""
    time_by_kind: Mapping[str, float] | None
    """Milliseconds by kind of operation, with products split into "int8" and "float"; None if not reported."""
    conversion_ns: float | None = None
    """Nanoseconds to convert one value between float and 8 bits; None if nothing was seen to convert values."""

    @property
    def total_macs(self) -> int:
        """MACs of all operations."""
        return sum(op.macs for op in self.ops)

    @property
    def int8_macs(self) -> int:
        """MACs of the operations that ran in integer kernels."""
        return sum(op.macs for op in self.ops if op.int8)

    @property
    def share_of_macs(self) -> float:
        """Fraction of the MACs that ran in integer kernels, from 0 to 1."""
        return self.int8_macs / self.total_macs if self.total_macs else 0.0

    @property
    def simulated(self) -> bool:
        """Whether most of the quantized MACs run in floating point on this processor."""
        return sum(op.macs for op in self.ops if op.quantized and not op.int8) > self.int8_macs

    @property
    def layer_times(self) -> tuple[ProfiledLayer, ...]:
        """Times of the layers in the order of the model file; empty if the runtime reports none."""
        times: dict[str, ProfiledLayer] = {}
        for op in self.ops:
            if op.has_time:
                last = times.get(op.name, ProfiledLayer(op.name, 0.0, 0.0, True))
                ms, around_ms = last.ms + (op.ms or 0.0), last.around_ms + op.around_ms
                times[op.name] = ProfiledLayer(op.name, ms, around_ms, last.int8 and op.int8)
        return tuple(times.values())

    @property
    def float_layers(self) -> tuple[str, ...]:
        """Names of the layers that ran in float, without duplicates."""
        return tuple(dict.fromkeys(op.name for op in self.ops if not op.int8))


def profile_bundle(bundle: Bundle, threads: int | None = None, runs: int = RUNS) -> Profile:
    """Profile the model of a bundle on random input, with the options of its session.

    Args:
        bundle: The bundle to profile.
        threads: Number of threads. By default it is the bundle's, see `edgekit.load`.
        runs: Number of runs that count; a first run before them does not.

    Returns:
        The operations that ran, with the names of the manifest's layers.

    Raises:
        UsageError: `threads` or `runs` is not a whole number from 1.
        BundleError: The model differs from its manifest, or the manifest has an unknown session option.
        MissingExtraError: The runtime is not installed, or is older than the bundle needs.
        EngineError: The runtime failed, or returned no profile.
    """
    with Session(bundle, threads) as session:
        pass  # opening it checks a stranger's file before the profiler reads it
    return profile_session(session, runs)


def profile_session(session: Session, runs: int = RUNS) -> Profile:
    """Profile the bundle of a session, which may be closed, with its number of threads; as `profile_bundle`."""
    manifest = session.bundle.manifest
    measured = _profile(session.bundle.model_path, manifest.target, manifest.session, session.threads, runs)
    return with_layer_names(measured, manifest.layers)


def profile_model(
    path: Path,
    target: str | None = None,
    threads: int | None = None,
    runs: int = RUNS,
    options: Mapping[str, Any] | None = None,
) -> Profile:
    """Profile a model file of any origin on random input.

    Args:
        path: The model file.
        target: Name of the runtime, such as "onnx". By default the suffix of the file decides.
        threads: Number of threads. By default it is the number of physical cores that this process may use.
        runs: Number of runs that count; a first run before them does not.
        options: Session options as in a manifest, such as "disabled_optimizers".

    Returns:
        The operations that ran, with the names that the runtime or the file gives them.

    Raises:
        UsageError: The suffix is unknown, or `threads` or `runs` is not a whole number from 1.
        InputError: The file is missing, or the shape of an input isn't fixed.
        MissingExtraError: The runtime is not installed.
        EngineError: The runtime failed, or returned no profile.
    """
    path = Path(path)
    target = target or target_of(path)
    if not path.is_file():
        raise InputError(f"'{path}' doesn't exist or is not a file", valid="a model file or the folder of a bundle")
    return _profile(path, target, options or {}, check_threads(threads), runs)


def target_of(path: Path) -> str:
    """Name of the runtime for a model file with this suffix; raises UsageError if no runtime has it."""
    runtime = Runtime.of_suffix(path.suffix)
    if runtime is None:
        suffixes = ", ".join(runtime.model_suffix for runtime in RUNTIMES.values())
        raise UsageError(f"'{path}' doesn't have the suffix of a model file", valid=suffixes)
    return runtime.name


def _profile(path: Path, target: str, options: Mapping[str, Any], threads: int, runs: int) -> Profile:
    if runs < 1:
        raise UsageError(f"runs is {runs}", valid="a whole number from 1")
    runtime = Runtime.find(target)
    profiler = importlib.import_module(runtime.profiler_module)
    with engine_errors(f"profiling {path} in {runtime.title}"):
        profile: Profile = profiler.profile(path, options, threads, runs)
    return profile


def matrix_macs(left: Shape, right: Shape, out: Shape) -> int:
    """MACs of a matrix product [.., m, k] x [.., k, n], where either operand may be stored transposed.

    ONNX Runtime also stores operands with the axis m or k before those of the batch.
    """
    a, b, c = (math.prod(shape[-2:]) for shape in (left, right, out))
    depth = math.isqrt(a * b // c) if c else 0  # m k * k n / (m n)
    if c and depth * depth * c != a * b:
        a, b, c, batch = (math.prod(shape) for shape in (left, right, out, out[:-2]))
        depth = math.isqrt(a * b // (c * batch))
    return math.prod(out) * depth


def product(title: str, op: OpProfile, operands: Sequence[bool]) -> OpProfile:
    """A product that ran, with what follows from the operands that the file quantizes: its input, and its weights."""
    if all(operands):
        reason = (
            f"quantized in the file, but {title} has no integer kernel for it here and ran it on dequantized values"
        )
    elif any(operands):
        reason = f"only the {'input is' if operands[0] else 'weights are'} quantized in the file"
    else:
        reason = "not quantized in the file"
    return replace(op, quantized=all(operands), reason=None if op.int8 else op.reason or reason)


def add_times(times: Iterable[tuple[str, bool | None, float]]) -> dict[str, float]:
    """Total milliseconds by kind, the longest first, of operations that are int8 or float products, or no product."""
    total: dict[str, float] = {}
    for operation, int8, ms in times:
        if ms > 0:
            kind = operation if int8 is None else f"{operation} {'int8' if int8 else 'float'}"
            total[kind] = total.get(kind, 0.0) + ms
    return dict(sorted(total.items(), key=lambda item: -item[1]))


def random_input(name: str, shape: Sequence[int | None], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Seeded random values for a model input. A free batch size becomes 1; another free size raises InputError."""
    sizes = [1 if index == 0 and size is None else size for index, size in enumerate(shape)]
    if any(size is None or size < 1 for size in sizes):
        raise InputError(
            f"input '{name}' has shape {list(shape)}", valid="a fixed shape", fix="Export the model for one input size"
        )
    values = np.random.default_rng(0).standard_normal([size for size in sizes if size is not None])
    return (values if dtype.kind == "f" else values * 32).astype(dtype)


def with_layer_names(profile: Profile, layers: Sequence[ManifestLayer]) -> Profile:
    """Name the operations after the manifest's layers.

    Both are in the same order, so an operation without a layer's name belongs to the next layer with as many MACs that
    no operation is named after, or to one whose path has more in common with its name, as "b.conv" has with "b.act".
    Where attention is two products, each has half of its MACs. An operation that a rewrite split or merged has no such
    layer, and keeps the runtime's name. A depthwise layer that runs on blocks multiplies with zeros too, which don't
    count.
    """
    names = Counter(layer["name"] for layer in layers)
    unnamed = names - Counter(op.name for op in profile.ops)
    free = [(layer, layer["macs"]) for layer in layers]
    ops = []
    for op in profile.ops:
        fits = [
            place
            for place, (layer, left) in enumerate(free)
            if (layer["name"] == op.name if op.name in names else unnamed[layer["name"]] and _may_be(op, layer, left))
        ]
        if fits:
            place = max(fits, key=lambda fit: _common_steps(free[fit][0]["name"], op.name))
            layer, left = free[place]
            half = _is_half(op, layer, left)
            free[place : place + 1] = [(layer, op.macs)] if half else []
            unnamed[layer["name"]] -= op.name not in names and not half
            reason = None if op.int8 else layer.get("reason", op.reason)
            op = replace(op, name=layer["name"], macs=min(op.macs, layer["macs"]), reason=reason)
        ops.append(op)
    return replace(profile, ops=tuple(ops))


def _may_be(op: OpProfile, layer: ManifestLayer, left: int) -> bool:
    return op.macs == left or _is_half(op, layer, left)


def _is_half(op: OpProfile, layer: ManifestLayer, left: int) -> bool:
    return layer["op"] == "matmul" and left == 2 * op.macs


def _common_steps(one: str, other: str) -> int:
    """Number of modules with which both paths begin."""
    steps = zip(one.split("."), other.split("."), strict=False)
    return len([*takewhile(lambda pair: pair[0] == pair[1], steps)])


@dataclass(frozen=True)
class Ran:
    """An operation that ran, in a list that is in the order in which they ran."""

    ms: float
    """Time of one run in milliseconds, without that of a product's own kernel."""
    inputs: Sequence[int]
    """Positions in the list of the operations that make its inputs."""
    product: int | None
    """Position in `Profile.ops` if it is a product."""
    moves: bool
    """Whether it only converts, pads or rearranges values."""
    converted: int = 0
    """Number of values that it converts between float and 8 bits."""


def with_surroundings(profile: Profile, ran: Sequence[Ran]) -> Profile:
    """Add the time of every operation to its product; what has none stays in `time_by_kind` alone."""
    around = [0.0] * len(profile.ops)
    for op, owner in zip(ran, owners(ran), strict=True):
        if owner is not None:
            around[owner] += op.ms
    ops = tuple(replace(op, around_ms=ms) for op, ms in zip(profile.ops, around, strict=True))
    values = sum(op.converted for op in ran)
    spent = sum(op.ms for op in ran if op.converted)
    return replace(profile, ops=ops, conversion_ns=spent * 1e6 / values if spent else None)


def owners(ran: Sequence[Ran]) -> list[int | None]:
    """Position in `Profile.ops` of the product to which each operation belongs; None for one without a product near it.

    What only moves values belongs to the product that reads them. Everything else, and what moves values to something
    else than a product, belongs to the last product before it, or at the start of a network to the first one after it.
    """
    makers: list[int | None] = []
    for index, op in enumerate(ran):
        before = [makers[place] for place in op.inputs if place < index]
        last = max((maker for maker in before if maker is not None), default=None)
        makers.append(last if op.product is None else index)
    movers = [replace(op, inputs=op.inputs if op.moves or op.product is not None else ()) for op in ran]
    readers, followers = _first_readers(movers), _first_readers(ran)
    choices = (
        (index,) if op.product is not None else (readers.get(index) if op.moves else None, maker, followers.get(index))
        for index, (op, maker) in enumerate(zip(ran, makers, strict=True))
    )
    return [next((ran[place].product for place in places if place is not None), None) for places in choices]


def _first_readers(ran: Sequence[Ran]) -> dict[int, int]:
    """Position of the first product that reads what an operation makes, also through others, by the operation's."""
    first: dict[int, int] = {}
    for index in reversed(range(len(ran))):
        reader = first.get(index) if ran[index].product is None else index
        if reader is not None:
            first.update((place, min(reader, first.get(place, reader))) for place in ran[index].inputs)
    return first
