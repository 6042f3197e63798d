"""The passes of a calibration: their shares of its work, which its progress shows."""

from torch.fx import GraphModule

from edgekit.compiler.execution.node_work import node_work
from edgekit.compiler.layers import dense_layers
from edgekit.compiler.quantize.gptq import MOST_INPUTS, rounds_by_layer
from edgekit.compiler.quantize.placement import Placement
from edgekit.compiler.quantize.work import NARROWED, SAMPLED, fit_work, gptq_work, hessian_work
from edgekit.config.recipes import Recipe
from edgekit.support.progress import Step, parts_of

INSERTED = 1.2e8
"""NNCF's work for each node of a graph, in addition to running the images."""


def passes_of(
    step: Step, graph: GraphModule, images: int, recipe: Recipe, placement: Placement, weights: int = 1
) -> list[Step]:
    """The steps of the four passes of a float graph's calibration, each for its estimated share of the work.

    The passes equalize channels, insert Q/DQ, narrow ranges, and round `weights` weights of each layer.
    """
    run = images * sum(node_work(graph).values())
    layers = [layer for layer in dense_layers(graph) if placement.quantizes(graph, layer)]
    ranges = len(layers) * (1 + placement.quantizes_outputs) if recipe.scheme == "w8a8" else 0
    rounded = [layer for layer in layers if layer.inputs <= MOST_INPUTS]
    run_again = 1.5 * run if recipe.estimator != "mse" or rounds_by_layer(graph) else 0.0
    rounding = {
        "nearest": 0.0,
        "gptq": run_again + sum(hessian_work(each, images) + gptq_work(each, weights) for each in rounded),
        "fit": 3 * run + sum(fit_work(each, images, weights) for each in rounded),
    }
    work = (
        run if recipe.equalization else 0,
        sum(insertion_work(graph, images, recipe)),
        2 * run + ranges * (images * SAMPLED + NARROWED) if recipe.estimator == "mse" else 0,
        rounding[recipe.weight_rounding],
    )
    return parts_of(step, work)


def insertion_work(graph: GraphModule, images: int, recipe: Recipe) -> tuple[float, float]:
    """NNCF's work with the images, and its other work."""
    run = sum(node_work(graph).values())
    return 2 * reads_of(recipe) * images * run, INSERTED * len(graph.graph.nodes)


def reads_of(recipe: Recipe) -> int:
    """How often NNCF reads the images, at least once: for ranges or a fast bias correction, and for SmoothQuant."""
    return max(1, (recipe.scheme == "w8a8" or recipe.bias_correction == "fast") + recipe.smooth_quant)
