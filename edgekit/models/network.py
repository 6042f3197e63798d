"""Loads a classifier from any source, ready to export."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from edgekit.errors import ModelError, WeightsError
from edgekit.images.preprocess import Preprocessing
from edgekit.models.checkpoint import check_finite
from edgekit.models.forward import run
from edgekit.models.inputs import InputOptions, resolve_preprocessing
from edgekit.models.labels import resolve_labels
from edgekit.models.lookup import find_source
from edgekit.models.options import ModelOptions
from edgekit.models.random_weights import random_images


@dataclass(frozen=True)
class Network:
    """A module float32 [1,3,H,W] -> logits float32 [1,classes], on the CPU, in eval mode, without gradients.

    `source` is "timm", "open_clip" or "factory". `weights` is "random", "factory", the path of a file as the user wrote
    it, or the tag of published weights; `weights_sha256` is the hash of the file, or of the state dict's content if
    there is no file. `license_note` is a sentence for the user.
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


def load_network(options: ModelOptions, *, seed: int = 0) -> Network:
    """Load a classifier from its source, and run it once on a random image of its input size.

    `seed` determines random weights and the random numbers that a factory draws. Raises ModelError, WeightsError,
    HubError, UsageError or MissingExtraError.
    """
    source = find_source(options.name)
    size = source.input_size(options)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        loaded = source.load(options, seed)
    module = loaded.module.eval().requires_grad_(False)
    inputs = InputOptions(size, options.mean, options.std, options.interpolation, options.crop_pct)
    preprocessing = resolve_preprocessing(module, inputs)
    check_finite(module, loaded.weights)
    classes = _count_classes(module, options.name, (preprocessing.height, preprocessing.width))
    return Network(
        module=module,
        name=options.name,
        source=source.name,
        weights=loaded.weights,
        weights_sha256=loaded.weights_sha256,
        params=sum(parameter.numel() for parameter in module.parameters()),
        classes=classes,
        preprocessing=preprocessing,
        labels=resolve_labels(options.labels, classes),
        license_note=loaded.license_note,
    )


def _count_classes(module: nn.Module, name: str, size: tuple[int, int]) -> int:
    """Run a random image. Raises ModelError unless the output is logits [1,C], WeightsError if they aren't finite."""
    shape = [1, 3, *size]
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        image = random_images(1, size)
        logits = run(module, image)
    if not isinstance(logits, Tensor):
        raise ModelError(
            f"model '{name}' returns a {type(logits).__name__}",
            valid="a tensor of logits [1,C]",
            fix="Choose a classifier, or wrap the model in a factory that returns its logits alone",
        )
    if logits.ndim != 2 or logits.shape[0] != 1 or logits.shape[1] < 2:
        raise ModelError(
            f"model '{name}' returns shape {list(logits.shape)} for an image {shape}",
            valid="logits [1,C] of at least two classes",
            fix="Choose a classifier, or wrap the model in a factory that returns its logits alone",
        )
    if not bool(torch.isfinite(logits).all()):
        raise WeightsError(
            f"model '{name}' returns NaN or infinity for a random image: its weights are damaged",
            fix="Choose another checkpoint with `--weights FILE`",
        )
    return int(logits.shape[1])
