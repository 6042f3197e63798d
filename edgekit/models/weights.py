"""Weights of networks: those of a checkpoint, and seeded random ones that behave like trained ones.

A constructor initializes parameters that a checkpoint then replaces. For a giant, that costs as much memory as its
weights, and minutes. The tensors of a large checkpoint therefore become its parameters, mapped from the file.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from edgekit.config import sizes
from edgekit.errors import ModelError
from edgekit.images.preprocess import CHANNELS
from edgekit.models.checkpoint import Checkpoint, open_checkpoint
from edgekit.models.options import Note
from edgekit.models.source import LoadedModule
from edgekit.models.state_dict import OwnTensors, Rename, State, fit_weights, some


def load_weights(build: Callable[[], nn.Module], weights: str, rename: Rename | None = None) -> LoadedModule:
    """Build a float32 module with the weights of a checkpoint file or saved folder.

    Raises the errors of `build`, `open_checkpoint` and `fit_weights`.
    """
    path = Path(weights)
    checkpoint = open_checkpoint(path)
    module, own = build_fitted(build, checkpoint.state, path, rename)
    file, notes = str(checkpoint.files[0]) if path.is_dir() else weights, _notes_on(own, checkpoint, path)
    return LoadedModule(module, file, checkpoint.sha256, None, class_names=checkpoint.class_names, notes=notes)


def build_fitted(
    build: Callable[[], nn.Module], state: State, path: Path, rename: Rename | None = None
) -> tuple[nn.Module, OwnTensors]:
    """Build a float32 module and load a checkpoint's tensors into it, as `fit_weights` does.

    With `sizes.BUILT_APART_FROM` parameters or more, the module gets the tensors themselves if they are float32. Raises
    the errors of `build` and of `fit_weights`.
    """
    if sum(value.numel() for value in state.values()) >= sizes.BUILT_APART_FROM:
        with torch.random.fork_rng(devices=[]):
            fitted = _build_on_tensors(build, state, path, rename)
        if fitted is not None:
            return fitted
    module = build()
    return module, fit_weights(module, state, path, rename)


def _build_on_tensors(
    build: Callable[[], nn.Module], state: State, path: Path, rename: Rename | None
) -> tuple[nn.Module, OwnTensors] | None:
    """The module on the checkpoint's tensors; None if it also needs initial values, or if they don't fit."""
    try:
        with parameters_without_memory():
            module = build()
        if len(list(module.named_parameters(remove_duplicate=False))) > len(list(module.parameters())):
            return None  # layers share parameters, which separate tensors would not
        own = fit_weights(module, state, path, rename, assign=True)
    except Exception:  # code that reads values may raise anything; the other way reports what doesn't fit
        return None
    return None if any(part.is_meta for part in (*module.parameters(), *module.buffers())) else (module, own)


@contextmanager
def parameters_without_memory() -> Iterator[None]:
    """Move each parameter to the meta device when a module registers it. Buffers keep their values."""

    def on_meta(_: nn.Module, __: str, parameter: nn.Parameter | None) -> nn.Parameter | None:
        if parameter is None or parameter.is_meta:
            return None  # no change
        return nn.Parameter(parameter.to("meta"), parameter.requires_grad)

    hook = register_module_parameter_registration_hook(on_meta)  # type: ignore[arg-type]  # it may return a parameter
    try:
        yield
    finally:
        hook.remove()


def _notes_on(own: OwnTensors, checkpoint: Checkpoint, path: Path) -> tuple[Note, ...]:
    """Sentences on averaged weights, on a classifier beside the network, and on tensors that don't belong to it."""
    notes = []
    if checkpoint.averaged:
        notes.append(Note(f"weights: '{checkpoint.averaged}' in '{path.name}', the averaged (EMA) ones"))
    if own.head:
        notes.append(Note(f"classifier: '{own.head}' in '{path.name}', which is taken as the network's last layer"))
    if own.others:
        unused = f"tensors of '{path.name}' outside the network are unused: {some(own.others)}"
        notes.append(Note(f"{unused}. If your code computes with them, deploy it as module:factory", doubtful=True))
    return tuple(notes)


BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
"""Layers whose running statistics are measured on random images."""


@torch.no_grad()
def randomize(module: nn.Module, size: tuple[int, int]) -> None:
    """Fill a module with random weights from torch's current seed, in place; `size` is (height, width) in pixels.

    The constructor's own initialization is meant for training and degenerate otherwise: GRN starts at zero, so it and
    its rewrites do nothing; a LayerNorm's affine is the identity; layer-scale starts at 1e-6, so that a block adds
    nothing; a BatchNorm's statistics come from no data. Such a network hides errors, because a compiler that drops a
    GRN gives the same numbers, and it is too easy to quantize. Where activations fade, all images give the same output,
    and comparing predictions shows nothing. We therefore make norms, GRN, layer-scale and biases random, scale dense
    weights so that the variance stays the same from layer to layer, and measure BatchNorm's statistics on random
    images, so that outputs vary between images. Accuracy remains meaningless. Raises ModelError if the network can't
    run at `size`.
    """
    for name, parameter in module.named_parameters():
        if parameter.ndim > 1:
            if name.endswith("weight"):
                nn.init.kaiming_normal_(parameter, nonlinearity="linear")
        elif name.endswith("bias"):
            nn.init.normal_(parameter, 0, 0.05)
        elif "grn" in name:
            nn.init.normal_(parameter, 0, 0.5)
        else:
            nn.init.uniform_(parameter, 0.5, 1.5)
    _measure_batch_norms(module, size)


def _measure_batch_norms(module: nn.Module, size: tuple[int, int]) -> None:
    """Set each BatchNorm's mean and variance to those of its inputs for random images."""
    norms = [norm for norm in module.modules() if isinstance(norm, BATCH_NORMS) and norm.track_running_stats]
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # for torch, None means a plain average over the batches
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # fixes the order of sums, so that every machine gets the same statistics
    module.train()
    params = sum(parameter.numel() for parameter in module.parameters())
    count = 8 if params <= sizes.EIGHT_RANDOM_IMAGES_UP_TO else 2
    try:
        run_on_rgb_or_grey(module, lambda channels: random_images(count, size, channels))
    finally:
        torch.set_num_threads(threads)
    module.eval()
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


def random_images(count: int, size: tuple[int, int], channels: int = 3) -> Tensor:
    """Normalized float32 images [count,C,H,W] of soft blotches, a tint and some noise, from torch's current seed."""
    blotches = nn.functional.interpolate(torch.randn(count, channels, 6, 6), size=size, mode="bicubic")
    return blotches + 0.5 * torch.randn(count, channels, 1, 1) + 0.3 * torch.randn(count, channels, *size)


def run(module: nn.Module, images: Tensor) -> Any:
    """Return `module(images)`; any exception of its code becomes a ModelError with the images' shape."""
    try:
        return module(images)
    # A network may raise anything on an input size that it doesn't support.
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        raise ModelError(
            f"the model can't run on images {list(images.shape)} ({type(error).__name__}: {reason})",
            fix="Correct `--imgsz`, `--model-args` or its forward, which gets float32 on the CPU",
        ) from error


def run_on_rgb_or_grey(module: nn.Module, images: Callable[[int], Tensor]) -> tuple[int, Any]:
    """Run on `images(3)` or, if that fails, on `images(1)`; return the number of channels and the output.

    Raises the ModelError of the RGB images if both fail.
    """
    failure: ModelError | None = None
    for channels in CHANNELS:
        try:
            return channels, run(module, images(channels))
        except ModelError as error:
            failure = failure or error
    assert failure is not None
    raise failure
