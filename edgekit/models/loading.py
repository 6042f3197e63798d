"""Loads a classifier from whichever source has it, ready to export, and settles what its classes are called."""

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from edgekit.compiler.execution.threads import keep_to_available_cores
from edgekit.errors import BundleError, EdgekitError, ModelError, WeightsError
from edgekit.images.dataset import Dataset
from edgekit.models.identify import identify
from edgekit.models.inputs import InputOptions, resolve_preprocessing, resolve_size
from edgekit.models.labels import IMAGENET_CLASSES, choose_labels
from edgekit.models.module_source import FactorySource, ModuleSource
from edgekit.models.network import Network
from edgekit.models.onnx_source import OnnxSource
from edgekit.models.open_clip_source import OpenClipSource
from edgekit.models.options import ModelOptions
from edgekit.models.source import ModelSource
from edgekit.models.state_dict import check_finite
from edgekit.models.timm_source import TimmSource
from edgekit.models.torchvision_source import TorchvisionSource
from edgekit.models.transformers_source import ImageNetwork, TransformersSource
from edgekit.models.weights import random_images, run_on_rgb_or_grey
from edgekit.runtime.strict_json import check_printable
from edgekit.support.progress import Reporter

_NOT_A_VECTOR = (
    "Wrap the model in a factory that returns its logits or its embedding alone. Feature maps x [N,C,H,W] become "
    "embeddings by x.mean((2, 3))"
)
_ONE_LOGIT = (
    "For a network x whose one logit says yes or no, write a factory that returns torch.cat([0 * x, x], 1), which has "
    "the same probabilities"
)


SOURCES: tuple[ModelSource, ...] = (
    ModuleSource(),
    OpenClipSource(),
    TorchvisionSource(),
    TransformersSource(),
    OnnxSource(),
    FactorySource(),
    TimmSource(),
)
"""Model sources in the order in which they are tried. timm's names have no prefix, so timm comes last."""


def find_source(options: ModelOptions) -> ModelSource:
    """Return the source that is responsible for a model, whether or not it exists."""
    return next(source for source in SOURCES if source.recognizes(options))


def load_network(options: ModelOptions, *, seed: int = 0) -> Network:
    """Load a classifier from its source, and run it once on a random image of its input size.

    `seed` determines random weights and the random numbers that a factory draws. Raises ModelError, WeightsError,
    HubError, UsageError or MissingExtraError.
    """
    keep_to_available_cores()
    options = identify(options)
    source = find_source(options)
    size = source.input_size(options)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        loaded = source.load(options, seed)
    module = loaded.module.eval().requires_grad_(False)
    inputs = InputOptions(size, options.mean, options.std, options.interpolation, options.crop_pct, options.crop_mode)
    check_finite(module, loaded.weights)
    channels, classes = _count_channels_and_classes(module, options.name, resolve_size(module, size))
    preprocessing = resolve_preprocessing(module, inputs, channels)
    labels = choose_labels(options.labels, classes, loaded.class_names, Path(loaded.weights).name)
    return Network(
        module=module,
        name=options.short_name,
        source=source.name,
        weights=loaded.weights,
        weights_sha256=loaded.weights_sha256,
        params=sum(parameter.numel() for parameter in module.parameters()),
        classes=classes,
        preprocessing=preprocessing,
        labels=labels.names,
        license_note=loaded.license_note,
        reference=loaded.reference,
        labels_origin=labels.origin,
        labels_file=labels.file,
        labels_doubt=labels.doubt,
        notes=(*(options.notes or ()), *loaded.notes),
        has_classifier=loaded.has_classifier and not _returns_features(module),
    )


def _returns_features(module: nn.Module) -> bool:
    """Whether a network of timm or of transformers says that it has no classifier."""
    if isinstance(module, ImageNetwork):
        return type(module.model).__name__.endswith("Model")
    return type(module).__module__.startswith("timm.") and getattr(module, "num_classes", None) == 0


def _count_channels_and_classes(module: nn.Module, name: str, size: tuple[int, int]) -> tuple[int, int]:
    """Run a random image. ModelError unless the output is a vector [1,N], WeightsError if it isn't finite."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        channels, logits = run_on_rgb_or_grey(module, lambda channels: random_images(1, size, channels))
    if not isinstance(logits, Tensor):
        raise ModelError(
            f"model '{name}' returns a {type(logits).__name__}",
            valid="a tensor [1,N]: logits of classes, or an embedding",
            fix=_NOT_A_VECTOR,
        )
    if logits.ndim != 2 or logits.shape[0] != 1 or logits.shape[1] < 2:
        raise ModelError(
            f"model '{name}' returns shape {list(logits.shape)} for an image {[1, channels, *size]}",
            valid="[1,N] for N from 2: logits of classes, or an embedding",
            fix=_ONE_LOGIT if list(logits.shape) == [1, 1] else _NOT_A_VECTOR,
        )
    if not bool(torch.isfinite(logits).all()):
        raise WeightsError(
            f"model '{name}' returns NaN or infinity for a random image: its weights are damaged",
            fix="Choose another checkpoint with `--weights FILE`",
        )
    return channels, int(logits.shape[1])


def build_meta(options: ModelOptions) -> tuple[nn.Module, tuple[int, int]]:
    """Build the module on the meta device in eval mode; return it and its input's (height, width) in pixels.

    Loads no weights, and downloads nothing but a hub repository that is the model. Raises ModelError or UsageError for
    an invalid name or arguments, ModelError for a factory that needs real tensors, and the errors of `identify`.
    """
    options = identify(options)
    source = find_source(options)
    size = source.input_size(options)
    try:
        with torch.device("meta"):
            module = source.build_meta(options)
    except EdgekitError:
        raise
    except Exception as error:  # the code reads values, which meta tensors don't have
        raise ModelError(
            f"can't plan '{options.name}', because its code needs real tensors ({type(error).__name__}: {error})",
            fix="Deploy it without a plan, or change the code so that it reads no values of tensors",
        ) from error
    return module.eval().requires_grad_(False), resolve_size(module, size)


def settle_classes(
    network: Network, options: ModelOptions, dataset: Dataset, reporter: Reporter, is_judged: bool = False
) -> Network:
    """The network. If it doesn't name its classes, it gets the names that the data set has.

    Report where the names come from and, where none is the name of a folder or label, the assumed order. The order is
    only an assumption without names. With names, that none of them is found is worth a warning. So is an order in which
    timm's readers would not have them, unless the network's answers are to judge it.
    """
    if network.labels_doubt:
        reporter.warn(network.labels_doubt)
    if network.labels_origin:
        reporter.say(f"class names: '{network.labels_origin}' in '{network.labels_file or Path(network.weights).name}'")
    if not dataset.assumption:
        return network
    if options.labels or network.labels_origin or network.classes == IMAGENET_CLASSES:
        reporter.warn(
            f"no {dataset.class_term} has the name of a class, such as '{network.labels[0]}': {dataset.assumption}"
        )
        return network
    tell = reporter.say if is_judged or not dataset.natural_order else reporter.warn
    tell(f"class names: {dataset.assumption}")
    return replace(network, labels=dataset.class_names) if _can_be_labels(dataset.class_names) else network


def _can_be_labels(names: tuple[str, ...]) -> bool:
    """Whether a bundle's list of labels, a line for each, can contain these names."""
    try:
        check_printable("it", "".join(names))
    except BundleError:
        return False
    return all(name and name == name.strip() for name in names)
