"""Models named `torchvision:NAME` or `torchvision:NAME.WEIGHTS`: torchvision's image classifiers."""

import difflib
import math
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import torch
import torchvision
from torch import nn

from edgekit.errors import ModelError, UsageError, WeightsError
from edgekit.models.checkpoint import (
    build_fitted,
    check_classes,
    download_error,
    load_weights,
    parameters_without_memory,
    with_random_weights,
)
from edgekit.models.network import LoadedModule, ModelSource, Rename, State, leaving_out
from edgekit.models.options import RESCALING, TORCHVISION, InferredNote, ModelArgs, ModelOptions
from edgekit.models.transforms import crop_fraction, parse_size

# Arguments that torchvision gives to `RESCALING` with published weights, but without the auxiliary classifiers.
_FLAGS: ModelArgs = {"transform_input": True, "aux_logits": False, "init_weights": False}
# Classifiers that only training uses.
_AUXILIARY = ("AuxLogits.", "aux1.", "aux2.")


class TorchvisionSource(ModelSource):
    """Source of torchvision's image classifiers."""

    name: ClassVar[str] = "torchvision"

    def recognizes(self, options: ModelOptions) -> bool:
        return options.name.startswith(TORCHVISION)

    def load(self, options: ModelOptions, seed: int) -> LoadedModule:
        """Build a model in float32 on the CPU. `options.weights` is None for published weights, "random", or a file.

        Raises ModelError for a name or arguments that torchvision refuses, WeightsError if the weights don't exist or
        don't fit, and HubError if published weights can't be downloaded.
        """
        loaded = self._load(options)
        if not options.headless:
            return loaded
        _drop_classifier(loaded.module, options.name)
        return replace(loaded, has_classifier=False)

    def _load(self, options: ModelOptions) -> LoadedModule:
        model, tag = _parse(options.name)
        published = _published(model, tag)
        if options.weights == "random":
            return with_random_weights(_build(options, model), options)
        rename = present_names(model)
        if options.weights is None:
            self.build_meta(options)  # refuses wrong arguments before the download
            state = _download(options, published)
            module, _ = build_fitted(lambda: _build(options, model), state, Path(published.url), rename)
            return LoadedModule.of(module, published.name)
        loaded = load_weights(lambda: _build(options, model), options.weights, rename)
        return loaded.with_notes(*_notes_on_flags(options, model))

    def build_meta(self, options: ModelOptions) -> nn.Module:
        # RegNets' constructors compute with tensors, which needs real ones.
        with torch.device("cpu"), parameters_without_memory():
            module = _build(options, _parse(options.name)[0]).to("meta")
        if options.headless:
            _drop_classifier(module, options.name)
        return module


def torchvision_models() -> list[str]:
    """Names of torchvision's image classifiers."""
    names: list[str] = torchvision.models.list_models(module=torchvision.models)
    return names


def present_names(model: str) -> Rename:
    """The function that gives the tensors of a file the present names, and leaves out auxiliary classifiers."""
    return leaving_out(_AUXILIARY, lambda state, module: renamed_as_published(model, state))


def side_of_positions(name: str, state: State) -> int | None:
    """The side of the images, in pixels, for which a checkpoint of torchvision's ViT has positions."""
    if not name.startswith(f"{TORCHVISION}vit_"):
        return None
    positions = next((value for key, value in state.items() if key.endswith("encoder.pos_embedding")), None)
    patches = next((value for key, value in state.items() if key.endswith("conv_proj.weight")), None)
    if positions is None or patches is None or positions.ndim != 3 or patches.ndim != 4:
        return None
    return math.isqrt(positions.shape[1] - 1) * patches.shape[-1]


def _parse(name: str) -> tuple[str, str]:
    """The model and the tag of its weights. Raises ModelError for an unknown model."""
    model, _, tag = name.removeprefix(TORCHVISION).partition(".")
    if model not in torchvision_models():
        similar = difflib.get_close_matches(model, torchvision_models(), n=4, cutoff=0.5)
        raise ModelError(
            f"unknown model '{TORCHVISION}{model}'",
            valid=f"names of torchvision's classifiers, such as {', '.join(similar) or 'convnext_tiny'}",
            fix=f"Correct the name after {TORCHVISION}",
        )
    return model, tag


def _published(model: str, tag: str) -> Any:
    """torchvision's entry of published weights, by default the recommended ones. WeightsError for an unknown tag."""
    tags = torchvision.models.get_model_weights(model)
    if tag and tag not in tags.__members__:
        raise WeightsError(
            f"torchvision publishes no weights '{tag}' for '{TORCHVISION}{model}'",
            valid=", ".join(f"{TORCHVISION}{model}.{name}" for name in tags.__members__),
            fix="Choose one of these names, or pass a checkpoint with `--weights FILE`",
        )
    return tags[tag or "DEFAULT"]


def _build(options: ModelOptions, model: str) -> nn.Module:
    """The untrained network, with the preprocessing of its published weights."""
    tag = options.name.removeprefix(TORCHVISION).partition(".")[2]
    preprocessing = _published(model, tag).transforms()
    arguments = {**(_FLAGS if model in RESCALING else {}), **options.model_args}
    if {"weights", "weights_backbone"} & arguments.keys():
        raise UsageError("--model-args can't set 'weights'", fix="Choose weights with `--weights`")
    size = parse_size(options.imgsz) or parse_size(arguments.pop("img_size", None))
    crop, resize = preprocessing.crop_size[0], preprocessing.resize_size[0]
    if model.startswith("vit_"):
        side = size or (crop, crop)
        if side[0] != side[1]:
            raise UsageError(f"--imgsz is {options.imgsz}", valid=f"a square, the only shape that {model} takes")
        arguments.setdefault("image_size", side[0])
    try:
        module: nn.Module = torchvision.models.get_model(model, weights=None, **arguments)
    except Exception as error:  # a wrong argument can make a constructor raise anything
        reason = " ".join(str(error).split())[:300]
        raise ModelError(
            f"torchvision can't build '{model}' with {arguments} ({type(error).__name__}: {reason})",
            fix="Correct `--model-args`",
        ) from error
    # timm's code, and so ours, reads the preprocessing from this attribute.
    module.pretrained_cfg = {  # type: ignore[assignment]
        "input_size": (3, crop, crop),
        "mean": tuple(preprocessing.mean),
        "std": tuple(preprocessing.std),
        "interpolation": preprocessing.interpolation.value,
        "crop_pct": crop_fraction((crop,), (resize,)),
    }
    return module


def _drop_classifier(module: nn.Module, name: str) -> None:
    """Replace the last linear layer, which is the classifier of torchvision's networks, by the identity.

    Raises ModelError for a network that ends otherwise.
    """
    layers = [layer for layer, part in module.named_modules() if isinstance(part, nn.Linear)]
    if not layers:
        raise ModelError(
            f"'{name}' doesn't end with a linear layer that could be left out",
            fix="Write a factory that returns its features [N,K], and deploy that as module:factory",
        )
    module.set_submodule(layers[-1], nn.Identity())


def _download(options: ModelOptions, published: Any) -> State:
    """The published tensors. Raises WeightsError for another number of classes, and HubError without a network."""
    own = published.meta["categories"]
    check_classes(options.name, len(own), options.model_args.get("num_classes", len(own)))
    try:
        state: State = published.get_state_dict(map_location="cpu", check_hash=True, weights_only=True)
    except Exception as error:  # of the network, of the disk, and of torch.hub for a file that is cut off
        raise download_error(options.name, published.url, error) from error
    return state


def _notes_on_flags(options: ModelOptions, model: str) -> tuple[InferredNote, ...]:
    if model not in RESCALING or "transform_input" in options.model_args:
        return ()
    return (
        InferredNote(
            "inputs: rescaled by the network (transform_input=True), as torchvision does for published weights and "
            "their fine-tunes. If yours was trained from scratch, add `--model-args transform_input=False`"
        ),
    )


def renamed_as_published(model: str, state: dict[str, Any]) -> dict[str, Any]:
    """The tensors of a published file under the names of torchvision's present code, which renames those of DenseNets.

    Checked with torchvision 0.28. It documents no way to rename without a download. By convention, the module that
    defines such a model has a global function `_load_state_dict` for it.
    """
    load = getattr(sys.modules[torchvision.models.get_model_builder(model).__module__], "_load_state_dict", None)
    if load is None:
        return state
    renamed: dict[str, Any] = {}
    file = SimpleNamespace(get_state_dict=lambda **_: dict(state))
    load(SimpleNamespace(load_state_dict=renamed.update), file, progress=False)
    return renamed
