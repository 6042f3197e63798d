"""How much INT8 depends on which images it was calibrated on: two halves of them, calibrated apart and compared."""

from collections.abc import Iterator, Mapping
from statistics import median
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.fx import GraphModule

from edgekit.compiler.graph import A, Q, layer_name
from edgekit.compiler.quantize.ranges import ends, takers
from edgekit.pipeline.graphs import PreparedGraphs
from edgekit.pipeline.job import Job
from edgekit.support.progress import Reporter

HALVES = (slice(0, None, 2), slice(1, None, 2))
MOST_IMAGES = 64
"""Of the evaluation that both halves are compared on."""
WIDEST = 2.0
"""A range that is so many times as wide in one half as in the other depends on chance."""


def check_stability(job: Job, targets: tuple[str, ...], reporter: Reporter) -> list[dict[str, Any]]:
    """What the two halves of the calibration images differ in, for each target; doubts are told to the reporter.

    `range_ratio` compares the widths of each activation's range, the wider over the narrower. `snr_db` is each half's
    logits against torch's float network, `snr_between_db` the second half's against the first's.
    """
    graphs = PreparedGraphs(job, reporter)
    samples = job.evaluation.samples[:MOST_IMAGES]
    size = job.network.preprocessing
    images = [size.normalize(size.crop(job.dataset.image(sample))[None]) for sample in samples]
    expected = _logits(job.network.module, images)
    found = [_compare(graphs, target, images, expected) for target in targets]
    for each in found:
        if doubt := doubt_of(each):
            reporter.warn(doubt)
    return found


def doubt_of(stability: Mapping[str, Any]) -> str | None:
    """Why more images are wanted; None where both halves give about the same ranges."""
    widest = stability["range_ratio"]
    if widest["greatest"] <= WIDEST:
        return None
    one, other = stability["images"]
    return (
        f"{stability['target']}: INT8 depends on which images were calibrated on: of {one} and {other} others the "
        f"range at {widest['layer']} is {widest['greatest']:.1f} times as wide; calibrate on more "
        "images, or on more kinds of them"
    )


def _compare(
    graphs: PreparedGraphs, target: str, images: list[NDArray[np.float32]], expected: NDArray[np.float32]
) -> dict[str, Any]:
    one, other = (graphs.prepare(target, "int8", half).graph for half in HALVES)
    ranges, others = dict(_ranges(one)), dict(_ranges(other))
    ratios = {name: max(ranges[name] / others[name], others[name] / ranges[name]) for name in ranges}
    first, second = (_logits(graph, images) for graph in (one, other))
    widest = max(ratios, key=lambda name: ratios[name])
    return {
        "target": target,
        "images": [len(graphs.job.calibration.samples[half]) for half in HALVES],
        "evaluation_images": len(images),
        "range_ratio": {"median": median(ratios.values()), "greatest": ratios[widest], "layer": widest},
        "snr_db": [_snr_db(expected, first), _snr_db(expected, second)],
        "snr_between_db": _snr_db(first, second),
        "agreement": float((first.argmax(1) == second.argmax(1)).mean()),
    }


def _ranges(graph: GraphModule) -> Iterator[tuple[str, float]]:
    """(what takes or gives it, width of its range) of each quantized activation."""
    for node in graph.graph.nodes:
        if node.target is not Q.quantize_per_tensor.default:
            continue
        dense = [user for user in takers(node) if user.target in (A.conv2d.default, A.linear.default)]
        low, high = ends(node)
        yield f"the input of {layer_name(dense[0])}" if dense else f"the output of {node.args[0]}", high - low


@torch.no_grad()
def _logits(module: torch.nn.Module, images: list[NDArray[np.float32]]) -> NDArray[np.float32]:
    return np.concatenate([np.asarray(module(torch.from_numpy(image))) for image in images])


def _snr_db(signal: NDArray[np.float32], other: NDArray[np.float32]) -> float | None:
    """Decibels; None where both are the same."""
    noise = float(np.square(other - signal).sum())
    return 10 * float(np.log10(np.square(signal).sum() / noise)) if noise else None
