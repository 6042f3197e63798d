"""Calibrate a graph for a runtime as the pipeline does."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.fx import GraphModule

from edgekit.compiler.quantize import calibrate
from edgekit.config.recipes import Recipe
from edgekit.runtime.backend import load_lowering


def quantize(
    graph: GraphModule, samples: Sequence[NDArray[np.float32]], recipe: Recipe, target: str, **options: Any
) -> GraphModule:
    """`edgekit.compiler.quantize.calibrate.quantize` with the lowering in the runtime's folder."""
    return calibrate.quantize(graph, samples, recipe, target, load_lowering(target), **options)
