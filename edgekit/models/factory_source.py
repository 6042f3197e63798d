"""Models named `module:factory`: classifiers that the user's own code builds."""

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
from edgekit.models.fitted_module import load_weights
from edgekit.models.inputs import parse_size
from edgekit.models.options import ModelArgs, ModelOptions
from edgekit.models.source import LoadedModule
from edgekit.models.state_dict import state_sha256


class FactorySource:
    """Networks from the user's own code, named `module:factory`."""

    name: ClassVar[str] = "factory"

    def recognizes(self, options: ModelOptions) -> bool:
        return ":" in options.name

    def input_size(self, options: ModelOptions) -> tuple[int, int] | None:
        return parse_size(options.imgsz)  # img_size in model_args belongs to the factory

    def load(self, options: ModelOptions, seed: int) -> LoadedModule:
        """Import `module`, call `factory(**model_args)` and return its nn.Module in float32 on the CPU.

        `module` is in the current folder or on Python's path; `factory` may be a class or a dotted name. torch is
        seeded for the call. The network keeps the weights that the factory gives it unless `weights` names a file.
        Raises ModelError if the import or the call fails or doesn't return an nn.Module, and UsageError for random
        weights.
        """
        name = options.name
        if options.weights == "random":
            raise UsageError(
                f"--weights random doesn't apply to '{name}', whose factory sets the weights",
                valid="a checkpoint file",
                fix="Leave out `--weights` to use the factory's weights",
            )
        with _current_folder_importable():
            factory = _import_factory(name)
            torch.manual_seed(seed)  # after the import, which may draw random numbers, but only the first time
            module = _call(name, factory, options.model_args)
        module = module.cpu().float()
        if options.weights is None:
            return LoadedModule(module, "factory", state_sha256(module), None)
        return load_weights(lambda: module, options.weights)

    def build_meta(self, options: ModelOptions) -> nn.Module:
        """Build the network with `factory(**model_args)`."""
        with _current_folder_importable():
            return _call(options.name, _import_factory(options.name), options.model_args)


def _import_factory(name: str) -> Any:
    module_name, _, attribute = name.partition(":")
    if not all(part.isidentifier() for part in [*module_name.split("."), *attribute.split(".")]):
        raise ModelError(
            f"model '{name}' is neither a timm name nor module:factory",
            valid="names such as convnextv2_atto or my_models:build",
            fix="Correct the model's name",
        )
    try:
        importlib.invalidate_caches()
        module = importlib.import_module(module_name)
    # Importing runs the user's code, which may raise anything, and whose SystemExit must not end edgekit successfully.
    except (Exception, SystemExit) as error:
        raise ModelError(
            f"can't import '{module_name}' of model '{name}' ({type(error).__name__}: {error})",
            fix="Run edgekit in the module's folder, or install the module",
        ) from error
    try:
        return attrgetter(attribute)(module)
    except AttributeError:
        raise ModelError(
            f"module '{module_name}' ({getattr(module, '__file__', None)}) has no '{attribute}'",
            fix="Name a function or class of this module after the colon",
        ) from None


def _call(name: str, factory: Any, model_args: ModelArgs) -> nn.Module:
    if not callable(factory) or isinstance(factory, nn.Module):
        raise ModelError(
            f"'{name}' is a {type(factory).__name__}",
            valid="a function or class that builds the model",
            fix="Name one after the colon",
        )
    try:
        module = factory(**model_args)
    except (Exception, SystemExit) as error:  # the user's code again
        raise ModelError(
            f"'{name}' failed when called with {model_args} ({type(error).__name__}: {error})",
            fix="Correct `--model-args`, which are the arguments of the call, or the factory",
        ) from error
    if not isinstance(module, nn.Module):
        raise ModelError(
            f"'{name}' returned a {type(module).__name__}",
            valid="a torch.nn.Module",
            fix="Return the module from the factory",
        )
    return module


@contextmanager
def _current_folder_importable() -> Iterator[None]:
    """Put the current folder first on sys.path inside the block, as `python -m` does."""
    folder = str(Path.cwd())
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        sys.path.remove(folder)
