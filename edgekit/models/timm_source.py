"""timm models by name: resolved, built, and filled with published, given or random weights."""

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
from timm.models import PretrainedCfg
from torch import nn

from edgekit.compat.timm import checkpoint_filter
from edgekit.errors import ModelError, UsageError, WeightsError
from edgekit.models.checkpoint import fit_weights, read_checkpoint, state_sha256
from edgekit.models.coatnet import register_coatnet_7
from edgekit.models.hub import fetch, hub_error
from edgekit.models.random_weights import randomize
from edgekit.models.source import Source
from edgekit.support.hashes import file_sha256

_RESERVED = ("pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "cache_dir")


def resolve_name(name: str) -> PretrainedCfg:
    """timm's configuration of `architecture` or `architecture.tag`; without a tag, of the default one.

    Builds nothing. Raises ModelError with the nearest names, or with the tags that the architecture has.
    """
    register_coatnet_7()
    architecture, _, tag = name.partition(".")
    renamed = timm.models.get_deprecated_models()
    if architecture in renamed:
        now = f"renamed it '{renamed[architecture]}': use that" if renamed[architecture] else "removed it"
        raise ModelError(f"model '{architecture}' is a former name, timm has {now}")
    if not timm.is_model(architecture):
        near = difflib.get_close_matches(architecture, timm.list_models(), n=4, cutoff=0.5)
        hint = f"nearest: {', '.join(near)}" if near else f"convnextv2_atto is one of timm's {len(timm.list_models())}"
        raise ModelError(f"unknown model '{name}': give a timm name ({hint}) or a factory of your own, module:factory")
    tags = timm.models.get_arch_pretrained_cfgs(architecture)
    if "." in name and name not in tags:
        raise ModelError(f"model '{architecture}' has no tag '{tag}': choose from {', '.join(sorted(tags))}")
    return timm.get_pretrained_cfg(name) or PretrainedCfg(architecture=architecture)


def load_timm(name: str, weights: str | None, model_args: Mapping[str, Any], size: tuple[int, int] | None) -> Source:
    """Build a timm model in float32 on the CPU with the weights asked for: None (published), "random" or a file.

    Random weights are drawn from torch's current seed. Raises ModelError for a name or arguments that timm refuses,
    WeightsError when there are no such weights or they don't fit, HubError when published ones can't be fetched.
    """
    config = resolve_name(name)
    arguments = _constructor_arguments(name, config, model_args, size)
    if weights is None:
        return _published(name, config, arguments)
    if weights == "random":
        module = _build(name, arguments, pretrained=False)
        randomize(module, size or config.input_size[-2:])
        return Source(module, "random", state_sha256(module), None)
    path = Path(weights)
    state = read_checkpoint(path)
    module = _build(name, arguments, pretrained=False)
    fit_weights(module, state, path, checkpoint_filter(str(config.architecture)))
    return Source(module, weights, file_sha256(path), _license_note(config, given=True))


def build_timm(name: str, model_args: Mapping[str, Any], size: tuple[int, int] | None) -> nn.Module:
    """A timm model with whatever weights its constructor gives, on torch's default device."""
    return _build(name, _constructor_arguments(name, resolve_name(name), model_args, size), pretrained=False)


def _constructor_arguments(
    name: str, config: PretrainedCfg, model_args: Mapping[str, Any], size: tuple[int, int] | None
) -> dict[str, Any]:
    for key in _RESERVED:
        if key in model_args:
            raise UsageError(f"--model-args can't set '{key}': weights are chosen with --weights")
    arguments = dict(model_args)
    if arguments.get("num_classes", config.num_classes) == 0:
        raise ModelError(
            f"model '{name}' has no classifier, it gives features: choose a tag that was fine-tuned, or build a head "
            "with --model-args num_classes=N and give its --weights FILE"
        )
    if size is not None and (config.fixed_input_size or "img_size" in arguments):
        # Its positional embeddings are made for one size, which only the constructor can change.
        arguments["img_size"] = size
    return arguments


def _published(name: str, config: PretrainedCfg, arguments: Mapping[str, Any]) -> Source:
    if not config.has_weights:
        raise WeightsError(f"timm publishes no weights for '{name}': give --weights FILE or --weights random")
    classes = arguments.get("num_classes", config.num_classes)
    if classes != config.num_classes:
        raise WeightsError(
            f"the published weights of '{name}' have {config.num_classes} classes and --model-args asks for {classes}: "
            "an untrained head would be meaningless, give a fine-tuned checkpoint with --weights FILE"
        )
    fetch(config)
    try:
        module = _build(name, arguments, pretrained=True)
    except OSError as error:
        raise hub_error(config, error) from error
    return Source(module, config.tag or "default", state_sha256(module), _license_note(config, given=False))


def _build(name: str, arguments: Mapping[str, Any], *, pretrained: bool) -> nn.Module:
    try:
        return timm.create_model(name, pretrained=pretrained, **arguments)
    except OSError:
        raise
    # Constructors raise whatever a wrong argument makes them stumble over.
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        if pretrained and "loading state_dict" in reason:
            raise WeightsError(
                f"the published weights of '{name}' don't fit --model-args {arguments}: {reason}"
            ) from error
        raise ModelError(
            f"timm can't build '{name}' with {dict(arguments)} ({type(error).__name__}: {reason}): check --model-args"
        ) from error


def _license_note(config: PretrainedCfg, *, given: bool) -> str | None:
    """The licence of the published weights; for a file that may be them, only if it forbids commercial use."""
    terms = config.license or "not stated by timm"
    restricted = "nc" in terms.split("-") or "noncommercial" in terms
    if given and not restricted:
        return None
    model = f"{config.architecture}.{config.tag}" if config.tag else str(config.architecture)
    return f"the published weights of {model} have the licence {terms}" + (": no commercial use" if restricted else "")
