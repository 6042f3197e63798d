"""Compares a job's graph with torch before anything is made of it, and again after it is rewritten."""

import copy
from collections.abc import Collection
from contextlib import suppress
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.fx import GraphModule, Interpreter, Node

from edgekit.compiler.execution.threads import is_small
from edgekit.compiler.nodes import layer_name
from edgekit.compiler.rewrites import APPROXIMATE, REWRITES, Rewritten, rewrite
from edgekit.errors import ModelError, ParityError
from edgekit.models.network import Network, one_by_one
from edgekit.pipeline.graph_to_compile import ParitySamples

PARITY = 1e-3
"""Largest allowed difference of a float model's logits from torch's, as a fraction of the largest logit."""
ROUNDINGS = 10
"""Largest difference of a graph, which computes in another order, as a multiple of that between float32 and double."""
APPROXIMATION = 0.1
"""Largest difference of the logits that rewrites in `APPROXIMATE` may make, as a fraction of the largest logit.

In ten ConvNeXts, ViTs, DaViTs, Swins and CoAtNets, each with initial and with random weights, it was at most 1.4e-2.
That of all other rewrites together was at most 1.5e-6, as much as rounding makes.
"""
REWRITTEN_IMAGES = 2
"""Images on which a rewritten graph is compared with torch."""


def difference(logits: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    """Largest difference of logits from torch's, as a fraction of torch's largest; infinite unless all are finite.

    If torch's are all 0, as of a head that was never trained, it is the difference itself.
    """
    if not np.isfinite(logits).all():
        return float("inf")
    return float(np.abs(logits - expected).max() / (np.abs(expected).max() or 1))


class WrongRewrite(Exception):
    """A rewrite changes what a network computes, which is a bug in edgekit."""


class Rewriter:
    """Rewrites graphs of a network, and compares what they compute with torch, on these images."""

    def __init__(self, network: Network, samples: ParitySamples) -> None:
        self._network, self._samples = network, samples
        self._images = torch.from_numpy(network.preprocessing.normalize(samples.pixels[:REWRITTEN_IMAGES]))
        self._torch = self._expected = samples.logits[:REWRITTEN_IMAGES]

    @torch.no_grad()
    def rewrite(self, graph: GraphModule, names: Collection[str]) -> Rewritten:
        """Apply the named rewrites to a copy of the graph, as `rewrite` does.

        Raises WrongRewrite with the name of the first one that changes what the network computes. It compares twice,
        before the rewrites that approximate and after them, because their error would hide that of the others.
        """
        self._expected = self._torch
        exact = rewrite(graph, [name for name in names if name not in APPROXIMATE])
        if any(exact.counts.values()):
            self._compare(graph, exact, PARITY)
        approximate = APPROXIMATE.intersection(names)
        if not approximate:
            return exact
        done = rewrite(exact.graph, approximate)
        self._compare(exact.graph, done, APPROXIMATION)
        return Rewritten(done.graph, {**exact.counts, **done.counts})

    @torch.no_grad()
    def is_precise(self, graph: GraphModule) -> bool:
        """Whether a graph's logits differ from torch's by at most `PARITY`, as those of a float bundle must."""
        images = torch.from_numpy(self._network.preprocessing.normalize(self._samples.pixels))
        return difference(one_by_one([graph], images), self._samples.logits) <= PARITY

    @torch.no_grad()
    def check_equalized(self, graph: GraphModule) -> None:
        """Raise WrongRewrite if the equalization of the graph that `rewrite` returned changes what it computes."""
        if (off := self._excess(self._logits(graph), PARITY)) is not None:
            raise self._wrong("the equalization", off)

    def _compare(self, before: GraphModule, done: Rewritten, most: float) -> None:
        logits = self._logits(done.graph)
        if (off := self._excess(logits, most)) is not None:
            raise self._wrong(f"the rewrite '{self._first_wrong(before, done.counts, most)}'", off)
        self._expected = logits

    def _first_wrong(self, graph: GraphModule, names: Collection[str], most: float) -> str:
        """The first of these rewrites that makes the logits differ by more than `most`."""
        for name in [name for name in REWRITES if name in names]:
            done = rewrite(graph, [name])
            graph = done.graph
            if done.counts[name] and self._excess(self._logits(graph), most) is not None:
                return name
        return ", ".join(names)

    def _excess(self, logits: NDArray[np.float32], most: float) -> float | None:
        """The difference of a graph's logits if it is larger than `most` and than what rounding makes."""
        off = difference(logits, self._expected)
        return None if off <= most or off <= ROUNDINGS * self._rounding else off

    def _wrong(self, what: str, off: float) -> WrongRewrite:
        return WrongRewrite(
            f"{what} changes what '{self._network.name}' computes: the logits differ by {off:.2e} of the largest one "
            f"on {len(self._images)} real images"
        )

    def _logits(self, graph: GraphModule) -> NDArray[np.float32]:
        return np.concatenate([np.asarray(Interpreter(graph).run(image[None])) for image in self._images])

    @cached_property
    def _rounding(self) -> float:
        return _rounding(self._network.module, self._images, self._torch)


@torch.no_grad()
def check_graph(network: Network, graph: GraphModule, samples: ParitySamples) -> None:
    """Raise ParityError if the graph's logits differ from the network's, or ModelError if the network is the reason."""
    images = torch.from_numpy(network.preprocessing.normalize(samples.pixels))
    off = difference(one_by_one([graph], images), samples.logits)
    off_together = difference(_together(network.module, images, samples.logits), samples.logits)
    if max(off, off_together) <= PARITY:
        return
    if difference(one_by_one([network.module], images), samples.logits) > PARITY:
        raise ModelError(
            f"model '{network.name}' returns other logits when it runs again on the same image",
            valid="a network that draws no random numbers and keeps nothing from one image for the next",
            fix="Give F.dropout the argument training=self.training, and remove other sources of random numbers",
        )
    tolerance = max(PARITY, ROUNDINGS * _rounding(network.module, images, samples.logits))
    if off_together > tolerance:
        raise ModelError(
            f"model '{network.name}' returns other logits for an image alone than for the same image in a batch",
            valid="a network whose logits depend on one image only",
            fix="Train with running statistics (track_running_stats=True) if a BatchNorm has none",
        )
    if off <= tolerance:
        return
    layer = first_differing_layer(network.module, graph, images[:1], PARITY)
    place = f", first in the output of layer '{layer}'" if layer else ""
    raise ParityError(
        f"edgekit can't convert '{network.name}' correctly: its graph differs from torch by {off:.2e} of the largest "
        f"logit on {len(images)} real images{place}",
        valid=f"at most {PARITY:.0e}",
        fix="Write what the model's forward does there in other operations, and report this as a defect of edgekit",
    )


def _rounding(module: nn.Module, images: Tensor, alone: NDArray[np.float32]) -> float:
    """The difference that float32 itself makes; 0 if it isn't known, in large networks and those without double.

    Some networks with random weights amplify rounding more than a thousandfold.
    """
    if not is_small(module):
        return 0.0
    with suppress(RuntimeError):
        return difference(alone, one_by_one([copy.deepcopy(module).double()], images.double()))
    return 0.0


def _together(module: nn.Module, images: Tensor, alone: NDArray[np.float32]) -> NDArray[np.float32]:
    """Logits [N,classes] of images that run in one batch; those of the images `alone` if the network takes no batch."""
    with suppress(Exception):  # code for one image may raise anything, or return logits of another shape
        together = np.asarray(module(images.clone()))
        if together.shape == alone.shape:
            return together
    return alone


@torch.no_grad()
def first_differing_layer(network: nn.Module, graph: GraphModule, image: Tensor, tolerance: float) -> str | None:
    """Name of the first layer whose output in the graph differs from the network's for an image [1,C,H,W].

    `tolerance` is a fraction of the layer's largest output. Returns None if all outputs that both have are equal. It
    skips layers into which a batch norm was folded, and those that run several times.
    """
    outputs = _outputs(network, image)
    last = {layer_name(node): node for node in graph.graph.nodes if node.op == "call_function"}
    expected = {node: outputs[name][0] for name, node in last.items() if _is_own(node, outputs)}
    interpreter = Interpreter(graph, garbage_collect_values=False)
    interpreter.run(image.clone())
    for node in graph.graph.nodes:
        if node in expected and _differs(interpreter.env[node], expected[node], tolerance):
            return layer_name(node)
    return None


def _differs(value: Tensor, expected: Tensor, tolerance: float) -> bool:
    most = tolerance * float(expected.abs().max())
    return value.shape == expected.shape and not torch.allclose(value, expected, rtol=0, atol=most)


def _outputs(network: nn.Module, image: Tensor) -> dict[str, list[Tensor]]:
    """The outputs of each layer, in the order of its calls."""
    outputs: dict[str, list[Tensor]] = {}

    def remember(name: str, output: Tensor | tuple[Tensor, ...]) -> None:
        if isinstance(output, Tensor):
            outputs.setdefault(name, []).append(output.clone())  # a later layer may write into it

    hooks = [
        layer.register_forward_hook(lambda _layer, _inputs, output, name=name: remember(name, output))
        for name, layer in network.named_modules()
        if not any(layer.children())
    ]
    try:
        network(image.clone())
    finally:
        for hook in hooks:
            hook.remove()
    return outputs


def _is_own(node: Node, outputs: dict[str, list[Tensor]]) -> bool:
    """Whether a node gives the output of a layer that ran once and has the weights of the network."""
    name = layer_name(node)
    weight = node.args[1] if len(node.args) > 1 else None
    changed = isinstance(weight, Node) and weight.op == "get_attr" and str(weight.target) != f"{name}.weight"
    return len(outputs.get(name, ())) == 1 and not changed
