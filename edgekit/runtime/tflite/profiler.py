"""Profile with LiteRT's profiler, and pair the kernels that it names with the operations in the file."""

import json
import math
import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from edgekit.runtime.engine import import_runtime
from edgekit.runtime.profile import OpProfile, Profile, Ran, Shape, add_times, matrix_macs, product, with_surroundings
from edgekit.support.child_process import run_python

TIMEOUT_S = 600
CONVOLUTIONS = ("CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV")
PRODUCTS = (*CONVOLUTIONS, "FULLY_CONNECTED", "BATCH_MATMUL")
# Names of XNNPACK's and of LiteRT's own kernels in the two families.
CONVOLUTION = re.compile(r"(De)?[Cc]onvolution|CONV_2D|DEPTHWISE_CONV_2D|TRANSPOSE_CONV")
MATRIX = re.compile(r"(Dynamic )?Fully Connected|Batch Matrix Multiply|FULLY_CONNECTED|BATCH_MATMUL")
# XNNPACK names the layout first and then the type of the activations: "Fully Connected (NC, QS8, QC8W) GEMM".
ACTIVATIONS = re.compile(r"\(\w+, (\w+)")
CONVERSIONS = ("QUANTIZE", "DEQUANTIZE")
MOVES = (*CONVERSIONS, "CAST", "PAD", "PADV2", "RESHAPE", "TRANSPOSE")
"""Operations that only convert, pad or rearrange values."""
KERNELS = {"QUANTIZE": "Convert", "DEQUANTIZE": "Convert", "CAST": "Convert", "PAD": "ConstantPad"}
KERNELS |= {"PADV2": "ConstantPad", "RESHAPE": "StaticReshape", "LOGISTIC": "Sigmoid"}
"""XNNPACK's names for operations, without spaces, where LiteRT's doesn't begin like them."""
ALIKE = 5
"""Number of letters with which the two names begin: "HARD_SWISH" and "HardSwish", but "MUL" and "Multiply"."""


@dataclass(frozen=True)
class _Product:
    """A product in the file."""

    name: str
    operation: str
    macs: int
    int8: tuple[bool, bool]
    """Whether the input has 8 bits, and whether the weights (or second input) have."""


@dataclass(frozen=True)
class _Operation:
    """An operation in the file."""

    kind: str
    makers: tuple[int, ...]
    """Positions of the operations that make its inputs."""
    values: int
    """Number of values that it makes."""
    product: _Product | None


@dataclass(frozen=True)
class _Kernel:
    """A kernel that ran."""

    name: str
    ms: float

    @property
    def is_product(self) -> bool:
        return bool(CONVOLUTION.match(self.name) or MATRIX.match(self.name))

    @property
    def kind(self) -> str:
        kind = self.name.split(" (")[0]
        return f"Depthwise {kind}" if self.name.endswith("DWConv") else kind

    def int8(self, product: _Product) -> bool:
        activations = ACTIVATIONS.search(self.name)
        if activations is None:  # LiteRT's own kernel, which quantizes a float input itself if the weights have 8 bits
            return product.int8[1]
        # QS8, QU8, QC8, QD8 or QP8; a kernel named F32 computes in float even with 8-bit weights
        return activations.group(1).startswith("Q")

    def resembles(self, kind: str) -> bool:
        """Whether this kernel's name is like that of an operation, which is no product."""
        start = KERNELS.get(kind, kind).replace("_", "")[:ALIKE].lower()
        return self.name == kind or self.name.replace(" ", "").lower().startswith(start)

    def runs(self, product: _Product) -> bool:
        """Whether this kernel can have run the product. XNNPACK runs convolutions of one pixel as fully connected."""
        family = CONVOLUTION if product.operation in CONVOLUTIONS else MATRIX
        fits = self.is_product if product.operation == "CONV_2D" else family.match(self.name) is not None
        return fits and (self.int8(product) or not all(product.int8))


def profile(model: Path, options: Mapping[str, Any], threads: int, runs: int) -> Profile:
    """Run LiteRT's profiler in a separate process, or infer the kernels from the tensor types where that fails."""
    module = import_runtime("tflite")
    operations = _operations(module, model)
    products = [op.product for op in operations if op.product is not None]
    package = module.__name__.split(".")[0]
    kernels, why = _kernels(model, threads, runs) if package == "ai_edge_litert" else ([], f"{package} has none")
    ran = [kernel for kernel in kernels if kernel.is_product]
    paired = len(ran) == len(products) and all(k.runs(p) for k, p in zip(ran, products, strict=True))
    if paired:
        method = (
            "LiteRT's profiler, which names its own kernels and XNNPACK's. "
            "The MACs come from the shapes in the model file."
        )
        ops = [_op(made, kernel.name, kernel.int8(made), kernel.ms) for made, kernel in zip(products, ran, strict=True)]
    else:
        why = why or "its kernels can't be matched with the operations in the file"
        method = (
            "Inferred from the tensor types in the file (8-bit input and weights mean an integer kernel), not "
            f"observed while it ran. LiteRT's profiler gave no result: {why}."
        )
        ops = [_op(made, made.operation, all(made.int8), None) for made in products]
    int8 = {id(kernel): op.int8 for kernel, op in zip(ran, ops, strict=True)} if paired else {}
    times = add_times((kernel.kind, int8.get(id(kernel)), kernel.ms) for kernel in kernels) if kernels else None
    measured = Profile(method, tuple(ops), times)
    return with_surroundings(measured, _ran(operations, kernels)) if paired else measured


def _ran(operations: Sequence[_Operation], kernels: Sequence[_Kernel]) -> list[Ran]:
    """The operations of the file, with the times of the kernels that are no products.

    Both are in the same order. A kernel that is like no operation before the next product, such as a fused activation,
    counts to the operation before it.
    """
    products = [position for position, op in enumerate(operations) if op.product is not None]
    times, place, passed = [0.0] * len(operations), -1, 0
    for kernel in kernels:
        if kernel.is_product:
            place, passed = products[passed], passed + 1
            continue
        end = products[passed] if passed < len(products) else len(operations)
        place = next((p for p in range(place + 1, end) if kernel.resembles(operations[p].kind)), place)
        times[max(0, place)] += kernel.ms
    numbers = {position: number for number, position in enumerate(products)}
    return [
        Ran(ms, op.makers, numbers.get(position), op.kind in MOVES, op.values if ms and op.kind in CONVERSIONS else 0)
        for position, (op, ms) in enumerate(zip(operations, times, strict=True))
    ]


def _op(made: _Product, kernel: str, int8: bool, ms: float | None) -> OpProfile:
    return product("LiteRT", OpProfile(made.name, kernel, made.macs, int8, ms), made.int8)


def _operations(module: Any, model: Path) -> list[_Operation]:
    """Operations in the order of the file. The interpreter that reads them has no delegate and runs nothing."""
    resolver = module.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    interpreter = module.Interpreter(model_path=str(model), experimental_op_resolver_type=resolver)
    tensors = {tensor["index"]: tensor for tensor in interpreter.get_tensor_details()}
    makers: dict[int, int] = {}
    found = []
    for position, op in enumerate(operations(interpreter)):
        kind, outputs = op["op_name"], [tensors[index] for index in op["outputs"] if index in tensors]
        inputs = tuple(makers[index] for index in op["inputs"] if index in makers)
        values = sum(math.prod(map(int, tensor["shape"])) for tensor in outputs)
        found.append(_Operation(kind, inputs, values, _product(op, tensors) if kind in PRODUCTS else None))
        makers.update(dict.fromkeys(op["outputs"], position))
    return found


def _product(op: Mapping[str, Any], tensors: Mapping[int, Mapping[str, Any]]) -> _Product:
    kind, out = op["op_name"], tensors[op["outputs"][0]]
    left, right = (tensors[op["inputs"][place]] for place in ((2, 1) if kind == "TRANSPOSE_CONV" else (0, 1)))
    shapes = [[int(size) for size in tensor["shape"]] for tensor in (left, right, out)]
    int8 = tuple(np.dtype(tensor["dtype"]) in (np.int8, np.uint8) for tensor in (left, right))
    return _Product(_layer(out["name"]), kind, _macs(kind, *shapes), (int8[0], int8[1]))


def _macs(kind: str, left: Shape, right: Shape, out: Shape) -> int:
    if kind == "DEPTHWISE_CONV_2D":  # weights [1, h, w, channels]
        return math.prod(out) * right[1] * right[2]
    if kind == "CONV_2D":  # weights [out, h, w, in per group]
        return math.prod(out) * math.prod(right[1:])
    if kind == "TRANSPOSE_CONV":
        return math.prod(left) * math.prod(right[:3])
    if kind == "FULLY_CONNECTED":  # weights [out, in]
        return math.prod(out) * right[-1]
    return matrix_macs(left, right, out)


def _layer(tensor: str) -> str:
    """Module path in a tensor's name, where litert-torch wrote one; any other name is returned unchanged.

    "timm.ConvNeXt/torch.Sequential_stem/torch.Conv2d_0;1" is the output of `stem.0`. Names of several tensors that the
    converter fused are one name, separated by semicolons.
    """
    path = next((name for name in tensor.split(";") if "/" in name), tensor)
    parts = [re.search(r"(?:^|\.)[A-Za-z]\w*?_(\w+)$", part) for part in path.split("/")[1:]]
    names = [part.group(1) for part in parts if part is not None]
    return ".".join(names) if parts and len(names) == len(parts) else tensor


def _kernels(model: Path, threads: int, runs: int) -> tuple[list[_Kernel], str]:
    """Kernels that ran, in order, with their median times; or an empty list and the reason."""
    arguments = ["-m", "edgekit.runtime.tflite.litert_profiler", str(model.absolute()), str(threads), str(runs)]
    try:
        done = run_python(arguments, TIMEOUT_S)
    except subprocess.TimeoutExpired:
        return [], f"it didn't finish within {TIMEOUT_S} s"
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines()
        return [], lines[-1] if lines and done.returncode > 0 else f"its process ended with status {done.returncode}"
    measured = json.loads(done.stdout.splitlines()[-1])
    first = measured[0]
    if not first or any([name for name, _ in run] != [name for name, _ in first] for run in measured):
        return [], "it named no kernels, or different ones in each run"
    return [_Kernel(same[0][0], median(ms for _, ms in same)) for same in zip(*measured, strict=True)], ""


def operations(interpreter: Any) -> list[dict[str, Any]]:
    """The operations of the model's graph in order: `op_name` and the tensor indices `inputs` and `outputs`.

    Checked with ai-edge-litert 2.3 and tflite-runtime 2.14, where `_get_ops_details` is private and documented as
    subject to change. edgekit's profiler needs it to pair each kernel that ran with the operation in the file.
    """
    details: list[dict[str, Any]] = interpreter._get_ops_details()
    return details
