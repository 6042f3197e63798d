"""timm models by name: resolved, built, and filled with published, given or random weights."""

import difflib
from pathlib import Path
from typing import ClassVar

import timm
from timm.models import PretrainedCfg
from torch import nn

from edgekit.compat.timm import checkpoint_filter
from edgekit.errors import ModelError, UsageError, WeightsError
from edgekit.models.checkpoint import fit_weights, read_checkpoint, state_sha256
from edgekit.models.coatnet import register_coatnet_7
from edgekit.models.hub import fetch, hub_error
from edgekit.models.inputs import size_of_model
from edgekit.models.options import ModelArgs, ModelOptions
from edgekit.models.random_weights import randomize
from edgekit.models.source import LoadedModule
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


class TimmSource:
    """timm's models: every name that no other source recognises."""

    name: ClassVar[str] = "timm"

    def recognizes(self, name: str) -> bool:
        return ":" not in name

    def input_size(self, options: ModelOptions) -> tuple[int, int] | None:
        return size_of_model(options)

    def load(self, options: ModelOptions, seed: int) -> LoadedModule:
        """Build a model in float32 on the CPU with the weights asked for: None (published), "random" or a file.

        Raises ModelError for a name or arguments that timm refuses, WeightsError when there are no such weights or they
        don't fit, HubError when published ones can't be fetched.
        """
        name, weights, size = options.name, options.weights, size_of_model(options)
        config = resolve_name(name)
        arguments = _constructor_arguments(options, config)
        if weights is None:
            return _published(name, config, arguments)
        if weights == "random":
            module = _build(name, arguments, pretrained=False)
            randomize(module, size or config.input_size[-2:])
            return LoadedModule(module, "random", state_sha256(module), None)
        path = Path(weights)
        state = read_checkpoint(path)
        module = _build(name, arguments, pretrained=False)
        fit_weights(module, state, path, checkpoint_filter(str(config.architecture)))
        return LoadedModule(module, weights, file_sha256(path), _license_note(config, given=True))

    def build_meta(self, options: ModelOptions) -> nn.Module:
        arguments = _constructor_arguments(options, resolve_name(options.name))
        return _build(options.name, arguments, pretrained=False)


def _constructor_arguments(options: ModelOptions, config: PretrainedCfg) -> ModelArgs:
    for key in _RESERVED:
        if key in options.model_args:
            raise UsageError(f"--model-args can't set '{key}': weights are chosen with --weights")
    arguments, size = dict(options.model_args), size_of_model(options)
    if arguments.get("num_classes", config.num_classes) == 0:
        raise ModelError(
            f"model '{options.name}' has no classifier, it gives features: choose a tag that was fine-tuned, or build "
            "a head with --model-args num_classes=N and give its --weights FILE"
        )
    if size is not None and (config.fixed_input_size or "img_size" in arguments):
        # Its positional embeddings are made for one size, which only the constructor can change.
        arguments["img_size"] = size
    return arguments


def _published(name: str, config: PretrainedCfg, arguments: ModelArgs) -> LoadedModule:
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
    return LoadedModule(module, config.tag or "default", state_sha256(module), _license_note(config, given=False))


def _build(name: str, arguments: ModelArgs, *, pretrained: bool) -> nn.Module:
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
            f"timm can't build '{name}' with {arguments} ({type(error).__name__}: {reason}): check --model-args"
        ) from error


def _license_note(config: PretrainedCfg, *, given: bool) -> str | None:
    """The licence of the published weights; for a file that may be them, only if it forbids commercial use."""
    terms = config.license or "not stated by timm"
    restricted = "nc" in terms.split("-") or "noncommercial" in terms
    if given and not restricted:
        return None
    model = f"{config.architecture}.{config.tag}" if config.tag else str(config.architecture)
    return f"the published weights of {model} have the licence {terms}" + (": no commercial use" if restricted else "")
