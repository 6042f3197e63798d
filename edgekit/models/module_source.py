"""The user's own networks: an `nn.Module` in memory, which stays as it is, or `module:factory`, which builds one."""

import copy
import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from operator import attrgetter
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from edgekit.errors import ModelError, UsageError
from edgekit.models.checkpoint import load_weights
from edgekit.models.description import StoredNames, names_of_config
from edgekit.models.network import LoadedModule, ModelSource
from edgekit.models.options import TRANSFORMERS, InferredNote, ModelArgs, ModelOptions, folder_of
from edgekit.models.transformers_source import ImageNetwork, take_preprocessing
from edgekit.models.transforms import parse_size
from edgekit.support.libraries import first_line

ORIGIN = "in memory"
"""Origin of the weights that the module has, as reports name it."""


def name_of(module: nn.Module) -> str:
    """A name by which edgekit chooses a recipe: the architecture in timm or transformers, or the name of the class."""
    module = _unwrapped(module)
    config: Any = getattr(module, "pretrained_cfg", None)
    architecture = config.get("architecture") if isinstance(config, dict) else None
    if _is_of_transformers(module):
        architecture = f"{TRANSFORMERS}{getattr(module.config, 'model_type', None)}"
    return architecture or type(module).__name__


class ModuleSource(ModelSource):
    """Source of the networks in memory, in `ModelOptions.module`."""

    name: ClassVar[str] = "module"

    def recognizes(self, options: ModelOptions) -> bool:
        return options.module is not None

    def input_size(self, options: ModelOptions) -> tuple[int, int] | None:
        return parse_size(options.imgsz)

    def load(self, options: ModelOptions, seed: int) -> LoadedModule:
        """Copy the module to the CPU in float32. It keeps its weights unless `weights` names a file.

        Raises ModelError for a module that can't be copied, WeightsError if a file doesn't fit, and UsageError for
        options that change how a network is built.
        """
        if options.weights == "random" or options.model_args:
            option = "random weights" if options.weights == "random" else "model_args"
            raise UsageError(
                f"{option} can't apply to '{options.name}', a network in memory that is already built",
                fix="Build the network as it should be, and pass that",
            )
        module = _copied(options).cpu().float()
        names = _class_names(module)
        if options.weights is None:
            loaded = LoadedModule.of(module, ORIGIN, class_names=names)
        else:
            loaded = load_weights(lambda: module, options.weights)
            loaded = replace(loaded, class_names=(*loaded.class_names, *names))
        if isinstance(module, ImageNetwork):
            loaded = loaded.with_notes(*_take_preprocessing(module, options))
        elif options.takes_bgr:
            raise UsageError(
                f"the transform swaps red and blue, which edgekit does only for networks of transformers, and "
                f"'{options.name}' is none",
                fix="Swap them in the network's forward",
            )
        if options.mean is None and "mean" not in getattr(module, "pretrained_cfg", {}):
            text = "the network doesn't state its preprocessing, so ImageNet's is assumed: pass its transform"
            return loaded.with_notes(InferredNote(f"{text}, or imgsz, mean and std", doubtful=True))
        return loaded

    def build_meta(self, options: ModelOptions) -> nn.Module:
        """A copy of the module without its values."""
        return _copied(options).to("meta")


def _copied(options: ModelOptions) -> nn.Module:
    """A deep copy of the module, without wrappers, that returns logits."""
    assert options.module is not None
    module = _unwrapped(options.module)
    parts = [value for part in module.modules() for value in vars(part).values()]
    # What a forward pass has left in attributes, such as the weight of an old weight_norm, refuses to be copied.
    computed = [value for value in parts if isinstance(value, Tensor) and not value.is_leaf]
    try:
        copied = copy.deepcopy(module, {id(value): value.detach().clone() for value in computed})
    except Exception as error:  # of the module's attributes, which may be anything
        raise ModelError(
            f"'{options.name}' can't be copied ({type(error).__name__}: {first_line(error)})",
            valid="a module that copy.deepcopy can copy",
            fix="Write a function that builds it, and deploy it as module:factory",
        ) from error
    return ImageNetwork(copied) if _is_of_transformers(copied) else copied


def _take_preprocessing(module: ImageNetwork, options: ModelOptions) -> tuple[InferredNote, ...]:
    """Give a network the preprocessing of where transformers loaded it from, unless options or a transform state it."""
    config: Any = module.model.config
    if options.mean is not None or not config._name_or_path:
        module.takes_bgr = bool(options.takes_bgr)
        return ()
    try:
        notes = take_preprocessing(module, Path(config._name_or_path))
    except OSError:  # it is no longer there
        return ()
    return (*notes, InferredNote(f"preprocessing: that of the image processor in '{config._name_or_path}'"))


def _is_of_transformers(module: nn.Module) -> bool:
    return any(base.__module__.startswith("transformers.") for base in type(module).__mro__)


def _unwrapped(module: nn.Module) -> nn.Module:
    """The network in a wrapper that torch.compile or a parallel training put around it."""
    wrappers: dict[str, str] = {
        "OptimizedModule": "_orig_mod",
        "DataParallel": "module",
        "DistributedDataParallel": "module",
    }
    while (attribute := wrappers.get(type(module).__name__)) and hasattr(module, attribute):
        module = getattr(module, attribute)
    return module


def _class_names(module: nn.Module) -> tuple[StoredNames, ...]:
    """The class names in the configuration of a network of transformers."""
    config: Any = getattr(module.model, "config", None) if isinstance(module, ImageNetwork) else None
    return () if config is None else names_of_config(config.to_dict(), file="")


class FactorySource(ModelSource):
    """Networks from the user's own code, named `module:factory`."""

    name: ClassVar[str] = "factory"

    def recognizes(self, options: ModelOptions) -> bool:
        return ":" in options.name

    def input_size(self, options: ModelOptions) -> tuple[int, int] | None:
        return parse_size(options.imgsz)  # img_size in model_args belongs to the factory

    def load(self, options: ModelOptions, seed: int) -> LoadedModule:
        """Import `module`, call `factory(**model_args)` and return its nn.Module in float32 on the CPU.

        `module` is in its folder, in the current one or on Python's path; `factory` may be a class or a dotted name.
        torch is seeded for the call. The network keeps the weights that the factory gives it unless `weights` names a
        file. Raises ModelError if the import or the call fails or doesn't return an nn.Module, and UsageError for
        random weights.
        """
        name = options.name
        if options.weights == "random":
            raise UsageError(
                f"--weights random doesn't apply to '{name}', whose factory sets the weights",
                valid="a checkpoint file",
                fix="Leave out `--weights` to use the factory's weights",
            )
        with _importable(options.name):
            factory = _import_factory(name)
            torch.manual_seed(seed)  # after the import, which may draw random numbers, but only the first time
            module = _call(name, factory, options.model_args)
        module = module.cpu().float()
        if options.weights is None:
            return LoadedModule.of(module, "factory")
        return load_weights(lambda: module, options.weights)

    def build_meta(self, options: ModelOptions) -> nn.Module:
        """Build the network with `factory(**model_args)`: with values, which it then drops, if its code needs them."""
        with _importable(options.name):
            with torch.device("cpu"):  # the module may make tensors, which stay for the network with values
                factory = _import_factory(options.name)
            with suppress(ModelError):
                return _call(options.name, factory, options.model_args)
            with torch.device("cpu"):
                return _call(options.name, factory, options.model_args).to("meta")


def _import_factory(name: str) -> Any:
    module_name, _, attribute = name.removeprefix(f"{folder_of(name)}/").partition(":")
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
def _importable(name: str) -> Iterator[None]:
    """Put the module's folder, or else the current one, first on sys.path inside the block, as `python -m` does."""
    folder = folder_of(name) or str(Path.cwd())
    top = name.removeprefix(f"{folder}/").partition(":")[0].partition(".")[0]
    file = getattr(sys.modules.get(top), "__file__", None)
    if (
        folder_of(name) and file and not Path(file).resolve().is_relative_to(Path(folder).resolve())
    ):  # another folder's module of this name
        for loaded in [each for each in sys.modules if each == top or each.startswith(f"{top}.")]:
            del sys.modules[loaded]
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        sys.path.remove(folder)
