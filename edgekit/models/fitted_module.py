"""Builds a module with the tensors of a checkpoint. Those of a large one are its parameters, mapped from the file.

A constructor initializes parameters that the checkpoint then replaces. For a giant, that costs as much memory as its
weights, and minutes.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from edgekit.config import sizes
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
