"""Loads a classifier from any source, ready to export."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from edgekit import __version__
from edgekit.compiler.execution.threads import keep_to_available_cores
from edgekit.compiler.export import trace
from edgekit.errors import ModelError, WeightsError
from edgekit.images.preprocess import Preprocessing
from edgekit.models.forward import run_on_rgb_or_grey
from edgekit.models.identify import identify
from edgekit.models.identity import DISTRIBUTIONS, ROOMS, NetworkIdentity, graph_sha256
from edgekit.models.inputs import InputOptions, resolve_preprocessing, resolve_size
from edgekit.models.labels import choose_labels
from edgekit.models.lookup import find_source
from edgekit.models.options import ModelOptions
from edgekit.models.random_weights import random_images
from edgekit.models.source import Note, Reference
from edgekit.models.state_dict import check_finite
from edgekit.support.distribution import versions_of
from edgekit.support.libraries import first_line

_NOT_LOGITS = "Choose a classifier, or wrap the model in a factory that returns its logits alone"
_ONE_LOGIT = (
    "For a network x whose one logit says yes or no, write a factory that returns torch.cat([0 * x, x], 1), which has "
    "the same probabilities"
)


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
    notes: tuple[Note, ...] = ()
    """What was inferred from the network's files."""

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

    def __getstate__(self) -> dict[str, Any]:
        """The state to pickle: without the traced graph, but with its hash, so that nobody traces again for that."""
        return {name: value for name, value in vars(self).items() if name != "traced"} | {
            "graph_sha256": self.graph_sha256
        }


def load_network(options: ModelOptions, *, seed: int = 0) -> Network:
    """Load a classifier from its source, and run it once on a random image of its input size.

    `seed` determines random weights and the random numbers that a factory draws. Raises ModelError, WeightsError,
    HubError, UsageError or MissingExtraError.
    """
    keep_to_available_cores()
    identified = identify(options)
    options = identified.options
    source = find_source(options)
    size = source.input_size(options)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        loaded = source.load(options, seed)
    module = loaded.module.eval().requires_grad_(False)
    inputs = InputOptions(size, options.mean, options.std, options.interpolation, options.crop_pct, options.crop_mode)
    check_finite(module, loaded.weights)
    channels, classes = _count_channels_and_classes(module, options.name, resolve_size(module, size))
    preprocessing = resolve_preprocessing(module, inputs, channels)
    labels = choose_labels(options.labels, classes, loaded.class_names, Path(loaded.weights).name)
    return Network(
        module=module,
        name=options.short_name,
        source=source.name,
        weights=loaded.weights,
        weights_sha256=loaded.weights_sha256,
        params=sum(parameter.numel() for parameter in module.parameters()),
        classes=classes,
        preprocessing=preprocessing,
        labels=labels.names,
        license_note=loaded.license_note,
        reference=loaded.reference,
        labels_origin=labels.origin,
        labels_file=labels.file,
        labels_doubt=labels.doubt,
        notes=(*identified.notes, *loaded.notes),
    )


def _count_channels_and_classes(module: nn.Module, name: str, size: tuple[int, int]) -> tuple[int, int]:
    """Run a random image. Raises ModelError unless the output is logits [1,N], WeightsError if they aren't finite."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        channels, logits = run_on_rgb_or_grey(module, lambda channels: random_images(1, size, channels))
    if not isinstance(logits, Tensor):
        raise ModelError(
            f"model '{name}' returns a {type(logits).__name__}",
            valid="a tensor of logits [1,N]",
            fix=_NOT_LOGITS,
        )
    if logits.ndim != 2 or logits.shape[0] != 1 or logits.shape[1] < 2:
        raise ModelError(
            f"model '{name}' returns shape {list(logits.shape)} for an image {[1, channels, *size]}",
            valid="logits [1,N] of at least two classes",
            fix=_ONE_LOGIT if list(logits.shape) == [1, 1] else _NOT_LOGITS,
        )
    if not bool(torch.isfinite(logits).all()):
        raise WeightsError(
            f"model '{name}' returns NaN or infinity for a random image: its weights are damaged",
            fix="Choose another checkpoint with `--weights FILE`",
        )
    return channels, int(logits.shape[1])
