"""The identity of a network: what it computes, and the versions of the packages and the code that compute it."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor
from torch.fx import GraphModule

from edgekit.images.preprocess import Preprocessing
from edgekit.models.state_dict import tensors_sha256
from edgekit.support.hashes import digest

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
