"""Measures how much INT8 depends on the choice of calibration images, by calibrating on each half of them."""

from collections.abc import Callable, Iterator
from functools import cache, partial
from math import isfinite
from statistics import median

import numpy as np
import torch
from numpy.typing import NDArray
from torch.fx import GraphModule

from edgekit.compiler.layers import dense_layer
from edgekit.compiler.quantize.mse_ranges import consumers
from edgekit.compiler.quantizers import quantizers
from edgekit.config.recipes import Recipe
from edgekit.errors import UsageError
from edgekit.images.dataset import crop_samples
from edgekit.measure.accuracy import snr_db
from edgekit.models.network import Network
from edgekit.pipeline.graphs import JobGraphs
from edgekit.pipeline.job_images import JobImages
from edgekit.report.document import RangeRatio, Stability
from edgekit.support.progress import Reporter

Array = NDArray[np.float32]
HALVES = (slice(0, None, 2), slice(1, None, 2))
"""Images of each half: even and odd positions in the selection."""
MOST_IMAGES = 64
"""Largest number of evaluation images on which the halves are compared."""
WIDEST = 2.0
"""Ratio of the widths of a range in both halves above which it depends on chance."""


def check_ranges(recipe: Recipe) -> None:
    """Raise UsageError if the recipe quantizes no activation, so that there are no ranges to compare."""
    if recipe.scheme == "w8":
        raise UsageError(
            "--check-stability compares ranges of activations, which scheme w8 doesn't have",
            fix="Leave out `--check-stability`, or use `--scheme w8a8`",
        )


def check_stability(
    graphs: JobGraphs, images: JobImages, targets: tuple[str, ...], reporter: Reporter
) -> list[Stability]:
    """Compare the INT8 models of the two halves of the calibration images, for each target.

    Warns if the ranges differ so much that more images are needed. An error costs only the comparison of its target:
    the bundles are measured by then.
    """
    stabilities = []
    evaluated = cache(partial(_evaluated, graphs.spec.network, images))
    for target in targets:
        try:
            stability = _compare(graphs, target, evaluated)
        except Exception as error:
            reporter.failed(f"{target}: compare two calibrations", error)
            continue
        if stability is None:
            reporter.warn(f"{target}: no activation is quantized, so the choice of calibration images changes no range")
            continue
        stabilities.append(stability)
        if doubt := doubt_of(stability):
            reporter.warn(doubt)
    return stabilities


def doubt_of(stability: Stability) -> str | None:
    """Why more calibration images are needed, or None if both halves give similar ranges."""
    ratio = stability.range_ratio
    if ratio.greatest <= WIDEST:
        return None
    one, other = stability.images
    return (
        f"{stability.target}: INT8 depends on the choice of calibration images: the range at {ratio.layer} is "
        f"{ratio.greatest:.1f} times as wide for one half ({one} and {other} images) as for the other. Calibrate on "
        "more images, or on more varied ones"
    )


def _evaluated(network: Network, images: JobImages) -> tuple[list[Array], Array]:
    """The images [1,3,H,W] on which the halves are compared, and torch's logits [N,classes] for them."""
    preprocessing = network.preprocessing
    crops = crop_samples(images.dataset, images.evaluation.samples[:MOST_IMAGES], preprocessing)
    normalized = list(crops.normalized(preprocessing))
    return normalized, _logits(network.module, normalized)


def _compare(graphs: JobGraphs, target: str, evaluated: Callable[[], tuple[list[Array], Array]]) -> Stability | None:
    """The comparison for one target, or None if its graph has no quantized activation."""
    one, other = (graphs.graph_to_compile(target, "int8", half).graph for half in HALVES)
    widths, other_widths = dict(_ranges(one)), dict(_ranges(other))
    ratios = {name: max(width / other_widths[name], other_widths[name] / width) for name, width in widths.items()}
    if not ratios:
        return None
    images, expected = evaluated()
    first, second = (_logits(graph, images) for graph in (one, other))
    widest = max(ratios, key=lambda name: ratios[name])
    counts = [len(graphs.spec.calibration.samples[half]) for half in HALVES]
    return Stability(
        target=target,
        images=(counts[0], counts[1]),
        evaluation_images=len(images),
        range_ratio=RangeRatio(median(ratios.values()), ratios[widest], widest),
        snr_db=(_snr_db(expected, first), _snr_db(expected, second)),
        snr_between_db=_snr_db(first, second),
        agreement=float((first.argmax(1) == second.argmax(1)).mean()),
    )


def _ranges(graph: GraphModule) -> Iterator[tuple[str, float]]:
    """Yield (name, width of the range) of each quantized activation."""
    for quantizer in quantizers(graph):
        dense = [layer for user in consumers(quantizer) if (layer := dense_layer(user)) is not None]
        low, high = quantizer.representable_range
        yield f"the input of {dense[0].name}" if dense else f"the output of {quantizer.source}", high - low


@torch.no_grad()
def _logits(module: torch.nn.Module, images: list[Array]) -> Array:
    return np.concatenate([np.asarray(module(torch.from_numpy(image))) for image in images])


def _snr_db(signal: Array, other: Array) -> float | None:
    """Signal-to-noise ratio in decibels, or None if both are equal."""
    decibels = snr_db(signal, other)
    return decibels if isfinite(decibels) else None
