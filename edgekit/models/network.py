"""A classifier ready to export, whatever it came from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from edgekit.errors import ModelError, UsageError, WeightsError
from edgekit.images.preprocess import Preprocessing
from edgekit.models.checkpoint import check_finite
from edgekit.models.factory import load_factory
from edgekit.models.forward import run
from edgekit.models.inputs import InputOptions, parse_size, resolve_preprocessing
from edgekit.models.labels import resolve_labels
from edgekit.models.open_clip_source import PREFIX, load_open_clip
from edgekit.models.random_weights import random_images
from edgekit.models.timm_source import load_timm


@dataclass(frozen=True)
class Network:
    """A module float32 [1,3,H,W] -> logits float32 [1,classes], on the CPU, in eval mode, without gradients.

    `source` is "timm", "open_clip" or "factory"; `weights` is "random", "factory", a file as it was given or the tag
    of published ones; `weights_sha256` is of the file, or else of the state dict's content; `license_note` is a
    sentence for the user.
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


def load_network(
    name: str,
    *,
    weights: str | None = None,
    model_args: Mapping[str, Any] = MappingProxyType({}),
    imgsz: int | tuple[int, int] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    interpolation: str | None = None,
    crop_pct: float | None = None,
    labels: Path | None = None,
    seed: int = 0,
) -> Network:
    """Load a classifier by timm name (`convnextv2_atto.fcmae_ft_in1k`), `open_clip:NAME` or `module:factory`.

    `weights`: None for timm's published ones (its default tag for a bare name) or the factory's own, "random" for
    seeded random ones unless a factory brings its own, else a checkpoint file. `model_args` go to the constructor or
    factory.
    `imgsz` is pixels, one side or (height, width); mean and std are of RGB in 0-1. Runs the network once at that size.
    Raises ModelError, WeightsError, HubError or UsageError, each saying what to do.
    """
    is_open_clip = name.startswith(PREFIX)
    is_factory = ":" in name and not is_open_clip
    size = parse_size(imgsz) if is_factory else resolve_size(imgsz, model_args)
    options = InputOptions(size, mean, std, interpolation, crop_pct)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if is_open_clip:
            loaded = load_open_clip(name, weights, model_args, size, labels)
        elif is_factory:
            loaded = load_factory(name, weights, model_args, seed)
        else:
            loaded = load_timm(name, weights, model_args, size)
    module = loaded.module.eval().requires_grad_(False)
    preprocessing = resolve_preprocessing(module, options)
    check_finite(module, loaded.weights)
    classes = _count_classes(module, name, (preprocessing.height, preprocessing.width))
    return Network(
        module=module,
        name=name,
        source="factory" if is_factory else "open_clip" if is_open_clip else "timm",
        weights=loaded.weights,
        weights_sha256=loaded.weights_sha256,
        params=sum(parameter.numel() for parameter in module.parameters()),
        classes=classes,
        preprocessing=preprocessing,
        labels=resolve_labels(labels, classes),
        license_note=loaded.license_note,
    )


def resolve_size(imgsz: int | tuple[int, int] | None, model_args: Mapping[str, Any]) -> tuple[int, int] | None:
    """The size asked for: `imgsz`, or the constructor's img_size, which must then agree."""
    size = parse_size(imgsz)
    built_for = parse_size(model_args.get("img_size"))
    if size is not None and built_for is not None and size != built_for:
        raise UsageError(f"--imgsz is {imgsz} and --model-args has img_size={built_for}: give --imgsz alone")
    return size or built_for


def _count_classes(module: nn.Module, name: str, size: tuple[int, int]) -> int:
    """Run a random image; raises ModelError unless it gives logits [1,C], WeightsError if they aren't finite."""
    shape = [1, 3, *size]
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        image = random_images(1, size)
        logits = run(module, image)
    if not isinstance(logits, Tensor):
        raise ModelError(f"model '{name}' returns a {type(logits).__name__}: a classifier returns logits [1,C]")
    if logits.ndim != 2 or logits.shape[0] != 1 or logits.shape[1] < 2:
        raise ModelError(
            f"model '{name}' returns shape {list(logits.shape)} for an image {shape}: a classifier returns logits "
            "[1,C] of at least two classes"
        )
    if not bool(torch.isfinite(logits).all()):
        raise WeightsError(f"model '{name}' gives NaN or infinity for a random image: its weights are damaged")
    return int(logits.shape[1])
