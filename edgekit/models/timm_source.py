"""Resolves timm's model names, and builds the models with published weights, a checkpoint file's or random ones."""

import difflib
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, cast

import timm
from timm.models import PretrainedCfg
from torch import nn

from edgekit.errors import ModelError, UsageError, WeightsError
from edgekit.models.checkpoint import check_classes, fetch, hub_error, load_weights, with_random_weights
from edgekit.models.network import LoadedModule, ModelSource, leaving_out
from edgekit.models.options import ModelArgs, ModelOptions
from edgekit.models.transforms import size_of_model

# Arguments that timm's own code sets only for published weights, which fine-tunes and random weights need too.
_AS_PUBLISHED: dict[str, ModelArgs] = {"fbnetc_100": {"bn_eps": 1e-3}}
_RESERVED = ("pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "cache_dir")


def resolve_name(name: str) -> PretrainedCfg:
    """Return timm's configuration of `architecture.tag`, or of `architecture` with its default tag.

    Builds nothing. Raises ModelError with the most similar names, or with the tags of the architecture.
    """
    architecture, _, tag = name.partition(".")
    renamed = timm.models.get_deprecated_models()
    if architecture in renamed:
        new_name = renamed[architecture]
        change = f"timm has renamed to '{new_name}'" if new_name else "timm has removed"
        fix = f"Use '{new_name}'" if new_name else "Choose another model"
        raise ModelError(f"'{architecture}' is a former model name, which {change}", fix=fix)
    if not timm.is_model(architecture):
        similar = difflib.get_close_matches(architecture, timm.list_models(), n=4, cutoff=0.5)
        examples = ", ".join(similar) or f"convnextv2_atto and {len(timm.list_models()) - 1} more"
        raise ModelError(
            f"unknown model '{name}'",
            valid=f"a name of timm's ({examples}), torchvision:NAME, open_clip:NAME, hf_hub:USER/MODEL, module:factory "
            "for your own code, or the path of a .onnx file, of a checkpoint or of a folder that save_pretrained wrote",
            fix="Correct the model's name",
        )
    tags = timm.models.get_arch_pretrained_cfgs(architecture)
    if "." in name and name not in tags:
        raise ModelError(
            f"model '{architecture}' has no tag '{tag}'", valid=", ".join(sorted(tags)), fix="Choose one of these names"
        )
    return timm.get_pretrained_cfg(name) or PretrainedCfg(architecture=architecture)


class TimmSource(ModelSource):
    """Source of timm's models: all names that no other source recognizes."""

    name: ClassVar[str] = "timm"

    def recognizes(self, options: ModelOptions) -> bool:
        return ":" not in options.name

    def load(self, options: ModelOptions, seed: int) -> LoadedModule:
        """Build a model in float32 on the CPU. `options.weights` is None for published weights, "random", or a file.

        With num_classes=0, the model ends before its classifier, whose weights are left out. Raises ModelError for a
        name or arguments that timm refuses, WeightsError if the weights don't exist or don't fit, and HubError if
        published weights can't be downloaded.
        """
        name, weights = options.name, options.weights
        config = resolve_name(name)
        arguments = _constructor_arguments(options, config)
        if weights is None:
            return _published(name, config, arguments)
        if weights == "random":
            return with_random_weights(_build(name, arguments, pretrained=False), options)
        rename = checkpoint_filter(str(config.architecture))
        if arguments.get("num_classes", config.num_classes) == 0:
            layers = (config.classifier,) if isinstance(config.classifier, str) else config.classifier or ()
            rename = leaving_out(tuple(f"{layer.partition('.')[0]}." for layer in layers), rename)
        loaded = load_weights(lambda: _build(name, arguments, pretrained=False), weights, rename)
        note = None if options.trained_from_scratch else _note_on_file(config, Path(weights))
        return replace(loaded, license_note=note)

    def build_meta(self, options: ModelOptions) -> nn.Module:
        arguments = _constructor_arguments(options, resolve_name(options.name))
        return _build(options.name, arguments, pretrained=False)


def _constructor_arguments(options: ModelOptions, config: PretrainedCfg) -> ModelArgs:
    for key in _RESERVED:
        if key in options.model_args:
            raise UsageError(
                f"--model-args can't set '{key}', because edgekit chooses the weights itself",
                fix="Choose weights with `--weights`",
            )
    headless: ModelArgs = {"num_classes": 0} if options.headless else {}
    arguments = {**_AS_PUBLISHED.get(str(config.architecture), {}), **headless, **options.model_args}
    size = size_of_model(options)
    if size is not None and (config.fixed_input_size or "img_size" in arguments):
        # The positional embeddings have a fixed size, which only the constructor can change.
        arguments["img_size"] = size
    return arguments


def _published(name: str, config: PretrainedCfg, arguments: ModelArgs) -> LoadedModule:
    if not config.has_weights:
        raise WeightsError(
            f"timm publishes no weights for '{name}'",
            fix="Pass a checkpoint with `--weights FILE`, or measure speed alone with `--weights random`",
        )
    classes = arguments.get("num_classes", config.num_classes)
    if classes:
        check_classes(name, config.num_classes, classes)
    fetch(config)
    try:
        module = _build(name, arguments, pretrained=True)
    except OSError as error:
        raise hub_error(config, error) from error
    return LoadedModule.of(module, config.tag or "default", license_note=_license_note(config))


def _build(name: str, arguments: ModelArgs, *, pretrained: bool) -> nn.Module:
    try:
        return timm.create_model(name, pretrained=pretrained, **arguments)
    except OSError:
        raise
    # A wrong argument can make a constructor raise anything.
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        if pretrained and "loading state_dict" in reason:
            raise WeightsError(
                f"the published weights of '{name}' don't fit --model-args {arguments}: {reason}",
                fix="Correct `--model-args`, or pass a checkpoint that fits them with `--weights FILE`",
            ) from error
        raise ModelError(
            f"timm can't build '{name}' with {arguments} ({type(error).__name__}: {reason})",
            fix="Correct `--model-args`",
        ) from error


def _license_note(config: PretrainedCfg) -> str:
    """A sentence on the licence of published weights."""
    note = f"the licence of the published weights of {_full_name(config)} is {_terms(config)}"
    return f"{note}, which forbids commercial use" if _is_restrictive(config) else note


def _note_on_file(config: PretrainedCfg, path: Path) -> str | None:
    """A sentence on a checkpoint that may be derived from published weights, if their licence restricts its use."""
    if not _is_restrictive(config):
        return None
    return (
        f"if '{path.name}' was fine-tuned from the published weights of {_full_name(config)}, their licence applies to "
        f"it too: {_terms(config)}, which forbids commercial use"
    )


def _terms(config: PretrainedCfg) -> str:
    return config.license or "not stated by timm"


def _is_restrictive(config: PretrainedCfg) -> bool:
    terms = _terms(config)
    return "nc" in terms.split("-") or "noncommercial" in terms


def _full_name(config: PretrainedCfg) -> str:
    return f"{config.architecture}.{config.tag}" if config.tag else str(config.architecture)


CheckpointFilter = Callable[[dict[str, Any], Any], dict[str, Any]]


def checkpoint_filter(architecture: str) -> CheckpointFilter | None:
    """The function that renames the tensors of an original checkpoint for this architecture, or None without one.

    Checked with timm 1.0.31. timm documents no way to get it. By convention, it is a global function named
    `checkpoint_filter_fn` in the module that defines the model. edgekit needs it because the published checkpoints of
    ConvNeXt V2 and other models don't use the names of timm's modules.
    """
    module = sys.modules[timm.model_entrypoint(architecture).__module__]
    return cast("CheckpointFilter | None", getattr(module, "checkpoint_filter_fn", None))
