"""A network: its module, preprocessing and labels, its identity, by which results are stored, and its logits."""

import copy
import pickle
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.machinery import PathFinder
from queue import SimpleQueue
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.fx import GraphModule

from edgekit import __version__
from edgekit.compiler.execution.threads import at_once, side_by_side
from edgekit.compiler.export import trace
from edgekit.compiler.graph import copy_sharing
from edgekit.errors import ModelError, WeightsError
from edgekit.images.preprocess import Preprocessing
from edgekit.models.options import Note
from edgekit.models.source import Reference
from edgekit.models.state_dict import tensors_sha256
from edgekit.support.distribution import versions_of
from edgekit.support.files import digest
from edgekit.support.libraries import first_line

DISTRIBUTIONS = (
    "torch",
    "torchvision",
    "timm",
    "open_clip_torch",
    "transformers",
    "safetensors",
    "onnx2pytorch",
    "numpy",
    "pillow",
)
"""Distributions that build networks, decode images and compute torch's predictions."""
ROOMS = ("compat", "compiler", "config", "images", "models")
"""Folders of the package whose code loads and exports networks and prepares images."""


@dataclass(frozen=True)
class NetworkIdentity:
    """Identity of a network, as an input of stored results. Equal identities give equal bundles and predictions."""

    name: str
    """Name of the model."""
    weights_sha256: str
    """Hash of the file or state dict with the weights."""
    graph_sha256: str
    """Hash of the exported graph, which changes with everything that `forward` calls, in whichever file it is."""
    preprocessing: Preprocessing
    """Conversion of images to the network's input."""
    versions: Mapping[str, str]
    """Versions of `DISTRIBUTIONS`, of Python and of edgekit, and the hash of edgekit's code in `ROOMS`."""


def graph_sha256(graph: GraphModule) -> str:
    """SHA-256 of the code of an exported graph and of its weights, buffers and constants. A gigabyte takes a second."""
    code = {name: part.code for name, part in graph.named_modules() if isinstance(part, GraphModule)}
    return digest(code, tensors_sha256(tensors_of(graph)))


def tensors_of(graph: GraphModule) -> dict[str, Tensor]:
    """Weights, buffers and constants of a graph by name. The graph keeps constants of `forward` as plain attributes."""
    return {
        f"{name}.{key}": value
        for name, part in graph.named_modules(remove_duplicate=False)
        for key, value in {**vars(part), **part._parameters, **part._buffers}.items()
        if isinstance(value, Tensor)
    }


@dataclass(frozen=True)
class Network:
    """A module float32 [1,C,H,W] -> logits float32 [1,classes], on the CPU, in eval mode, without gradients.

    `source` is "timm", "torchvision", "transformers", "open_clip", "onnx" or "factory". `weights` is "random",
    "factory", the path of a file as the user wrote it, or the tag of published weights; `weights_sha256` is the
    hash of the file, or of the state dict's content if there is no file of weights alone. `license_note` is a sentence
    for the user.
    `reference` is the original of an imported network.
    """

    module: nn.Module
    name: str
    source: str
    weights: str
    weights_sha256: str
    params: int
    classes: int
    preprocessing: Preprocessing
    labels: tuple[str, ...]
    license_note: str | None
    reference: Reference | None = None
    labels_origin: str | None = None
    """Key under which the network's own file has the labels; None if they come from elsewhere."""
    labels_file: str = ""
    """Name of that file, if it is not the one in `weights`."""
    labels_doubt: str | None = None
    """Reason why class names in the network's own file are ignored, as a sentence for the user."""
    class_order: str | None = None
    """Order of the images' classes that its answers showed to be that of its outputs; None if names tell it."""
    notes: tuple[Note, ...] = ()
    """What was inferred from the network's files."""
    has_classifier: bool = True
    """Whether the network may end with a classifier: False for one that is known to return features."""

    @cached_property
    def traced(self) -> GraphModule:
        """The graph that torch.export makes of the module, whose tensors it shares. It is shared: don't change it.

        Tracing takes as long as some inferences: about a second for a small network, ten for the largest. Raises
        ModelError if the module can't be traced.
        """
        try:
            return trace(self.module, self.preprocessing.input_shape)
        except Exception as error:  # the model's own code may raise anything while it is traced
            raise ModelError(
                f"torch.export can't trace model '{self.name}': {first_line(error)}",
                fix="Change its forward so that it doesn't depend on the values of tensors",
            ) from error

    @cached_property
    def graph_sha256(self) -> str:
        """Hash of the code and the tensors of `traced`."""
        return graph_sha256(self.traced)

    @property
    def identity(self) -> NetworkIdentity:
        """Identity of the network, as an input of stored results."""
        versions = {"edgekit": __version__, **versions_of(DISTRIBUTIONS, ROOMS)}
        return NetworkIdentity(self.name, self.weights_sha256, self.graph_sha256, self.preprocessing, versions)

    @property
    def is_portable(self) -> bool:
        """Whether another process can unpickle the module, which imports its code and has none of its local parts.

        It can't import the code of a notebook, nor that of the current folder, from which a factory may come.
        """
        tensors = (*self.module.parameters(), *self.module.buffers())
        try:
            pickle.dumps(copy.deepcopy(self.module, {id(value): value.to("meta") for value in tensors}))
        except Exception:  # of the attributes of a user's network, which may be anything
            return False
        packages = {type(part).__module__.partition(".")[0] for part in self.module.modules()}
        paths = [*filter(None, sys.path)]
        return "__main__" not in packages and all(PathFinder.find_spec(package, paths) for package in packages)

    def __getstate__(self) -> dict[str, Any]:
        """The state to pickle: without the traced graph, but with its hash, so that nobody traces again for that."""
        return {name: value for name, value in vars(self).items() if name != "traced"} | {
            "graph_sha256": self.graph_sha256
        }


BATCH = 16
"""Images whose logits are handed on together."""


def torch_logits(network: Network, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Logits [N,classes] of the float network for cropped images [N,H,W,C]. WeightsError if a value isn't finite."""
    return np.concatenate([*batched_logits(network, pixels)])


@torch.no_grad()
def batched_logits(network: Network, pixels: NDArray[np.uint8], batch: int = BATCH) -> Iterator[NDArray[np.float32]]:
    """Compute the logits of any number of images, in arrays [batch,classes]; the last one may be smaller.

    The network sees one image at a time, as in a bundle: its code may rely on that. WeightsError if a value isn't
    finite.
    """
    modules = _copies(network.module)
    for start in range(0, len(pixels), batch):
        images = torch.from_numpy(network.preprocessing.normalize(pixels[start : start + batch]))
        logits = one_by_one(modules, images)
        if not np.isfinite(logits).all():
            raise WeightsError(
                f"model '{network.name}' returns NaN or infinity for a real image: its weights are damaged",
                fix="Choose another checkpoint with `--weights FILE`",
            )
        yield logits


def one_by_one(modules: Sequence[nn.Module], images: Tensor) -> NDArray[np.float32]:
    """Logits [N,classes] of images [N,C,H,W] that run alone, as in a graph, but on each of the equal modules at once.

    A network may write into its input.
    """
    free = SimpleQueue[nn.Module]()
    for module in modules:
        free.put(module)

    def run(image: Tensor) -> NDArray[np.float32]:
        module = free.get()
        try:
            return np.asarray(module(image[None].clone()))
        finally:
            free.put(module)

    return np.concatenate([*side_by_side(run, images, len(modules))])


def _copies(module: nn.Module) -> list[nn.Module]:
    """The module, and copies that share its tensors, so that as many images can run side by side.

    Each has its own attributes, which a network's code may change while it runs.
    """
    try:
        return [module, *(copy_sharing(module) for _ in range(at_once(module) - 1))]
    except Exception:
        return [module]  # which has what can't be copied, such as a lock or an open file
