"""LiteRT: the kernels that its profiler names, paired with the operations and tensor types of the file."""

import json
import math
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from edgekit.compat.litert import operations
from edgekit.runtime.engine import import_runtime
from edgekit.runtime.profile import OpProfile, Profile, Shape, add_times, float_reason, kind_of, matrix_macs
from edgekit.support.child_process import run_python

TIMEOUT_S = 600
CONVOLUTIONS = ("CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV")
PRODUCTS = (*CONVOLUTIONS, "FULLY_CONNECTED", "BATCH_MATMUL")
# How XNNPACK's and LiteRT's own kernels of the two families are called.
CONVOLUTION = re.compile(r"(De)?[Cc]onvolution|CONV_2D|DEPTHWISE_CONV_2D|TRANSPOSE_CONV")
MATRIX = re.compile(r"(Dynamic )?Fully Connected|Batch Matrix Multiply|FULLY_CONNECTED|BATCH_MATMUL")
# XNNPACK: "Fully Connected (NC, QS8, QC8W) GEMM", layout first, then the type of the activations.
ACTIVATIONS = re.compile(r"\(\w+, (\w+)")


@dataclass(frozen=True)
class _Product:
    """A product as the file has it."""

    name: str
    operation: str
    macs: int
    int8: tuple[bool, bool]
    """Whether its input and its weights (or second input) have 8 bits."""


@dataclass(frozen=True)
class _Kernel:
    """A kernel that ran."""

    name: str
    ms: float

    @property
    def is_product(self) -> bool:
        return bool(CONVOLUTION.match(self.name) or MATRIX.match(self.name))

    def int8(self, product: _Product) -> bool:
        found = ACTIVATIONS.search(self.name)
        if found is None:  # LiteRT's own kernel: with weights of 8 bits it quantizes a float input itself
            return product.int8[1]
        return found.group(1).startswith("Q")  # QS8, QU8, QC8, QD8, QP8; F32 with weights of 8 bits computes in float

    def runs(self, product: _Product) -> bool:
        """Whether it can be the kernel that ran this product."""
        family = CONVOLUTION if product.operation in CONVOLUTIONS else MATRIX
        return bool(family.match(self.name)) and (self.int8(product) or not all(product.int8))


class Profiler:
    """Asks LiteRT's profiler in a process of its own; concludes from the file's types where that can't be reached."""

    def profile(self, model: Path, options: Mapping[str, Any], threads: int, runs: int) -> Profile:
        module = import_runtime("tflite")
        products = _products(module, model)
        package = module.__name__.split(".")[0]
        kernels, why = _kernels(model, threads, runs) if package == "ai_edge_litert" else ([], f"{package} has none")
        ran = [kernel for kernel in kernels if kernel.is_product]
        paired = len(ran) == len(products) and all(k.runs(p) for k, p in zip(ran, products, strict=True))
        if paired:
            ops = tuple(_ran(product, kernel) for product, kernel in zip(products, ran, strict=True))
            method = "LiteRT's own profiler: XNNPACK's and LiteRT's kernels by name. MACs from the shapes in the file."
        else:
            ops = tuple(_concluded(product) for product in products)
            why = why or "the kernels it names can't be paired with the operations in the file"
            method = (
                "Concluded from the types of each operation's tensors in the file (8-bit input and weights: integer "
                f"kernel), not seen while it ran. LiteRT's profiler didn't tell: {why}."
            )
        int8 = {id(kernel): op.int8 for kernel, op in zip(ran, ops, strict=True)} if paired else {}
        times = add_times((_kind(kernel, int8.get(id(kernel))), kernel.ms) for kernel in kernels) if kernels else None
        return Profile(method, ops, times)


def _products(module: Any, model: Path) -> list[_Product]:
    """The products in the order of the file. The interpreter that reads them takes no delegate and runs nothing."""
    resolver = module.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    interpreter = module.Interpreter(model_path=str(model), experimental_op_resolver_type=resolver)
    tensors = {tensor["index"]: tensor for tensor in interpreter.get_tensor_details()}
    found = []
    for op in operations(interpreter):
        kind = op["op_name"]
        if kind not in PRODUCTS:
            continue
        left, right = (tensors[op["inputs"][place]] for place in ((2, 1) if kind == "TRANSPOSE_CONV" else (0, 1)))
        out = tensors[op["outputs"][0]]
        shapes = [[int(size) for size in tensor["shape"]] for tensor in (left, right, out)]
        int8 = tuple(np.dtype(tensor["dtype"]) in (np.int8, np.uint8) for tensor in (left, right))
        found.append(_Product(_layer(out["name"]), kind, _macs(kind, *shapes), (int8[0], int8[1])))
    return found


def _macs(kind: str, left: Shape, right: Shape, out: Shape) -> int:
    if kind == "DEPTHWISE_CONV_2D":  # weights [1, h, w, channels]
        return math.prod(out) * right[1] * right[2]
    if kind == "CONV_2D":  # [out, h, w, in of a group]
        return math.prod(out) * math.prod(right[1:])
    if kind == "TRANSPOSE_CONV":
        return math.prod(left) * math.prod(right[:3])
    if kind == "FULLY_CONNECTED":  # [out, in]
        return math.prod(out) * right[-1]
    return matrix_macs(left, right, out)


def _layer(tensor: str) -> str:
    """The module path that litert-torch wrote into a tensor's name; another name stays as it is.

    "timm.ConvNeXt/torch.Sequential_stem/torch.Conv2d_0;1" is the output of `stem.0`.
    """
    parts = [re.search(r"(?:^|\.)[A-Za-z]\w*?_(\w+)$", part) for part in tensor.split(";")[0].split("/")[1:]]
    names = [part.group(1) for part in parts if part is not None]
    return ".".join(names) if parts and len(names) == len(parts) else tensor


def _kernels(model: Path, threads: int, runs: int) -> tuple[list[_Kernel], str]:
    """What ran, in order, with median times; or nothing, and why."""
    arguments = ["-m", "edgekit.runtime.tflite.litert", str(model.absolute()), str(threads), str(runs)]
    try:
        done = run_python(arguments, TIMEOUT_S)
    except subprocess.TimeoutExpired:
        return [], f"it didn't finish within {TIMEOUT_S} s"
    if done.returncode != 0:
        said = done.stderr.strip().splitlines()
        return [], said[-1] if said and done.returncode > 0 else f"its process ended with status {done.returncode}"
    each_run = json.loads(done.stdout.splitlines()[-1])
    first = each_run[0]
    if not first or any([name for name, _ in run] != [name for name, _ in first] for run in each_run):
        return [], "it named no kernels, or others in each run"
    return [_Kernel(same[0][0], median(ms for _, ms in same)) for same in zip(*each_run, strict=True)], ""


def _ran(product: _Product, kernel: _Kernel) -> OpProfile:
    op = replace(_concluded(product), kernel=kernel.name, ms=kernel.ms, int8=kernel.int8(product))
    return replace(op, reason=None if op.int8 else float_reason("LiteRT", product.int8))


def _concluded(product: _Product) -> OpProfile:
    """What the types say: only a product whose input and weights both have 8 bits can only run in integers."""
    int8 = all(product.int8)
    reason = None if int8 else float_reason("LiteRT", product.int8)
    return OpProfile(product.name, product.operation, product.macs, int8, None, reason, int8)


def _kind(kernel: _Kernel, int8: bool | None) -> str:
    kind = kernel.name.split(" (")[0]
    return kind if int8 is None else kind_of(f"Depthwise {kind}" if kernel.name.endswith("DWConv") else kind, int8)
