"""Builds a network's LiteRT files: INT8 as edgekit ships it, and with layers in 4 bits."""

import math
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from benchmarks.fourlib.files import store_in_four_bits
from benchmarks.fourlib.rounding import METHODS, FourBitWalk
from benchmarks.peerlib.candidates import Candidate, Infer, open_candidate
from benchmarks.trainedlib.measuring import Bench
from edgekit.compiler.graph import copy_sharing
from edgekit.compiler.layers import DenseLayer, dense_layers, distinct_names
from edgekit.compiler.nodes import shape_of
from edgekit.compiler.quantizers import int8_weight
from edgekit.runtime.backend import load_backend
from edgekit.support.libraries import quiet

TARGET = "tflite"
ENDS = ("squeeze", ".se.")
"""Parts of the names of layers that the choice "inner" leaves in 8 bits, beside the first and the last layer."""


class Files:
    """The files of one network, each made when it is asked for."""

    def __init__(self, bench: Bench, folder: Path) -> None:
        self._bench, self._folder = bench, folder
        self._backend = load_backend(TARGET)

    @cached_property
    def int8(self) -> Path:
        """The file with every weight in 8 bits, as edgekit makes it."""
        return self._compiled(self._bench.graphs.graph_to_compile(TARGET, "int8").graph, "int8")

    @cached_property
    def dense(self) -> tuple[str, ...]:
        """Names of the layers in INT8 that are linear or 1x1 convolutions, in the graph's order."""
        names = distinct_names(self._unrounded)
        return tuple(names[layer.node] for layer in dense_layers(self._unrounded) if _takes_four_bits(layer))

    def chosen(self, choice: str) -> tuple[str, ...]:
        """Names of the layers that a choice puts into 4 bits."""
        if choice == "all":
            return self.dense
        return tuple(name for name in self.dense[1:-1] if not any(part in name for part in ENDS))

    def four_bits(self, choice: str, method: str) -> Path:
        """The file with the chosen layers in 4 bits. Raises ValueError if it computes anything but its 8-bit twin."""
        graph, layers = copy_sharing(self._unrounded), self.chosen(choice)
        with torch.no_grad():
            FourBitWalk(graph, self._bench.calibration, layers, METHODS[method]).fit()
        twin = self._compiled(graph, f"{choice}-{method}")
        file = twin.with_name("four.tflite")
        if (stored := store_in_four_bits(twin, file)) != len(layers):
            raise ValueError(f"{stored} of {len(layers)} layers could be stored in 4 bits")
        image = self._bench.image
        if not np.array_equal(open_file(twin)(image), open_file(file)(image)):
            raise ValueError(f"'{file}' doesn't compute what the same levels in 8 bits do")
        return file

    @cached_property
    def _unrounded(self) -> torch.fx.GraphModule:
        return self._bench.graphs.unrounded(TARGET)

    def _compiled(self, graph: torch.fx.GraphModule, name: str) -> Path:
        folder = self._folder / name
        folder.mkdir(parents=True, exist_ok=True)
        with quiet(), torch.no_grad():
            artifact = self._backend.compile(graph, folder, "{}", self._bench.spec.device_class)
        return folder / artifact.model_file


def _takes_four_bits(layer: DenseLayer) -> bool:
    """Whether a layer is in INT8 and a product of matrices, with an even number of weights."""
    pointwise = layer.kernel == layer.stride == (1, 1) and layer.groups == 1 and layer.padding == (0, 0)
    even = math.prod(shape_of(layer.weight)) % 2 == 0
    return int8_weight(layer.node) is not None and even and (pointwise or not layer.is_conv)


def open_file(path: Path) -> Infer:
    """A function from float32 images [1,C,H,W] to logits [1,classes], on one thread."""
    return open_candidate(Candidate(path.name, TARGET, "stock", "int8", path), 1)
