"""Profile with LiteRT's profiler, and pair the kernels that it names with the operations in the file."""

import json
import math
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from edgekit.runtime.engine import import_runtime
from edgekit.runtime.profile import OpProfile, Profile, Shape, add_times, matrix_macs, product
from edgekit.support.child_process import run_python

TIMEOUT_S = 600
CONVOLUTIONS = ("CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV")
PRODUCTS = (*CONVOLUTIONS, "FULLY_CONNECTED", "BATCH_MATMUL")
# Names of XNNPACK's and of LiteRT's own kernels in the two families.
CONVOLUTION = re.compile(r"(De)?[Cc]onvolution|CONV_2D|DEPTHWISE_CONV_2D|TRANSPOSE_CONV")
MATRIX = re.compile(r"(Dynamic )?Fully Connected|Batch Matrix Multiply|FULLY_CONNECTED|BATCH_MATMUL")
# XNNPACK names the layout first and then the type of the activations: "Fully Connected (NC, QS8, QC8W) GEMM".
ACTIVATIONS = re.compile(r"\(\w+, (\w+)")


@dataclass(frozen=True)
class _Product:
    """A product in the file."""

    name: str
    operation: str
    macs: int
    int8: tuple[bool, bool]
    """Whether the input has 8 bits, and whether the weights (or second input) have."""


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

    def runs(self, product: _Product) -> bool:
        """Whether this kernel can have run the product. XNNPACK runs convolutions of one pixel as fully connected."""
        family = CONVOLUTION if product.operation in CONVOLUTIONS else MATRIX
        fits = self.is_product if product.operation == "CONV_2D" else family.match(self.name) is not None
        return fits and (self.int8(product) or not all(product.int8))


def profile(model: Path, options: Mapping[str, Any], threads: int, runs: int) -> Profile:
    """Run LiteRT's profiler in a separate process, or infer the kernels from the tensor types where that fails."""
    module = import_runtime("tflite")
    products = _products(module, model)
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
    return Profile(method, tuple(ops), times)


def _op(made: _Product, kernel: str, int8: bool, ms: float | None) -> OpProfile:
    return product("LiteRT", OpProfile(made.name, kernel, made.macs, int8, ms), made.int8)


def _products(module: Any, model: Path) -> list[_Product]:
    """Products in the order of the file. The interpreter that reads them has no delegate and runs nothing."""
    resolver = module.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    interpreter = module.Interpreter(model_path=str(model), experimental_op_resolver_type=resolver)
    tensors = {tensor["index"]: tensor for tensor in interpreter.get_tensor_details()}
    products = []
    for op in operations(interpreter):
        kind = op["op_name"]
        if kind not in PRODUCTS:
            continue
        left, right = (tensors[op["inputs"][place]] for place in ((2, 1) if kind == "TRANSPOSE_CONV" else (0, 1)))
        out = tensors[op["outputs"][0]]
        shapes = [[int(size) for size in tensor["shape"]] for tensor in (left, right, out)]
        int8 = tuple(np.dtype(tensor["dtype"]) in (np.int8, np.uint8) for tensor in (left, right))
        products.append(_Product(_layer(out["name"]), kind, _macs(kind, *shapes), (int8[0], int8[1])))
    return products


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
