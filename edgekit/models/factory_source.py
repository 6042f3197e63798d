"""`module:factory`: a classifier that the user's own code builds."""

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from operator import attrgetter
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn

from edgekit.errors import ModelError, UsageError
from edgekit.models.checkpoint import fit_weights, read_checkpoint, state_sha256
from edgekit.models.inputs import parse_size
from edgekit.models.options import ModelArgs, ModelOptions
from edgekit.models.source import LoadedModule
from edgekit.support.hashes import file_sha256


class FactorySource:
    """Networks from the user's own code, named `module:factory`."""

    name: ClassVar[str] = "factory"

    def recognizes(self, name: str) -> bool:
        return ":" in name

    def input_size(self, options: ModelOptions) -> tuple[int, int] | None:
        return parse_size(options.imgsz)  # an img_size among the model's arguments is the factory's own affair

    def load(self, options: ModelOptions, seed: int) -> LoadedModule:
        """Import `module`, call `factory(**model_args)` and return its nn.Module in float32 on the CPU.

        `module` is found in the current folder or wherever Python finds it; `factory` may be a class or a dotted name.
        torch's seed is set for the call. The factory brings its own weights unless `weights` names a file. Raises
        ModelError when the import or the call fails or gives no nn.Module; UsageError for random weights.
        """
        name, weights = options.name, options.weights
        if weights == "random":
            raise UsageError(
                f"--weights random is for timm models: '{name}' brings its own weights, leave --weights out"
            )
        with _current_folder_importable():
            factory = _find(name)
            torch.manual_seed(seed)  # here, since the import may draw random numbers, but only the first time
            module = _call(name, factory, options.model_args)
        module = module.cpu().float()
        if weights is None:
            return LoadedModule(module, "factory", state_sha256(module), None)
        path = Path(weights)
        fit_weights(module, read_checkpoint(path), path)
        return LoadedModule(module, weights, file_sha256(path), None)

    def build_meta(self, options: ModelOptions) -> nn.Module:
        """What `factory(**model_args)` gives."""
        with _current_folder_importable():
            return _call(options.name, _find(options.name), options.model_args)


def _find(name: str) -> Any:
    module_name, _, attribute = name.partition(":")
    if not all(part.isidentifier() for part in [*module_name.split("."), *attribute.split(".")]):
        raise ModelError(f"model '{name}' is neither a timm name nor module:factory, such as my_models:build")
    try:
        importlib.invalidate_caches()
        found = importlib.import_module(module_name)
    # Importing runs the user's code, which may raise anything, and must not end the process as if all were well.
    except (Exception, SystemExit) as error:
        raise ModelError(
            f"can't import '{module_name}' of model '{name}' ({type(error).__name__}: {error}): it must be in the "
            "current folder or installed"
        ) from error
    try:
        return attrgetter(attribute)(found)
    except AttributeError:
        raise ModelError(
            f"module '{module_name}' ({getattr(found, '__file__', None)}) has no '{attribute}': check the name"
        ) from None


def _call(name: str, factory: Any, model_args: ModelArgs) -> nn.Module:
    if not callable(factory) or isinstance(factory, nn.Module):
        raise ModelError(f"'{name}' is a {type(factory).__name__}: name a function or class that builds the model")
    try:
        module = factory(**model_args)
    except (Exception, SystemExit) as error:  # the user's code again
        raise ModelError(
            f"'{name}' failed when called with {model_args} ({type(error).__name__}: {error}): check "
            "--model-args, which are passed to it"
        ) from error
    if not isinstance(module, nn.Module):
        raise ModelError(f"'{name}' returned a {type(module).__name__}: it must return a torch.nn.Module")
    return module


@contextmanager
def _current_folder_importable() -> Iterator[None]:
    """Put the current folder first on sys.path, as `python -m` does."""
    folder = str(Path.cwd())
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        sys.path.remove(folder)
