"""Loads a classifier from whichever source has it, ready to export, and settles what its classes are called.

Its options are completed from its files: the architecture, the number of classes and the preprocessing. What the user
states stays; what is inferred becomes a note.
"""

import difflib
import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import timm
import torch
from torch import Tensor, nn

from edgekit.compiler.execution import keep_to_available_cores
from edgekit.errors import BundleError, EdgekitError, ModelError, UsageError, WeightsError
from edgekit.images.dataset import Dataset
from edgekit.models.checkpoint import Checkpoint, fetch_repository, open_checkpoint, random_images, run_on_rgb_or_grey
from edgekit.models.description import CONFIG, IMAGENET_CLASSES, choose_labels, describe_folder
from edgekit.models.module_source import FactorySource, ModuleSource
from edgekit.models.network import ModelSource, Network, Rename, check_finite, classes_of_head, own_tensors
from edgekit.models.onnx_source import OnnxSource
from edgekit.models.open_clip_source import OpenClipSource
from edgekit.models.options import HUB_PREFIXES, TORCHVISION, TRANSFORMERS, InferredNote, ModelArgs, ModelOptions
from edgekit.models.timm_source import TimmSource, checkpoint_filter
from edgekit.models.torchvision_source import TorchvisionSource, present_names, side_of_positions, torchvision_models
from edgekit.models.transformers_source import ImageNetwork, TransformersSource
from edgekit.models.transforms import InputOptions, read_transform, resolve_preprocessing, resolve_size
from edgekit.runtime.bundle import check_printable
from edgekit.support.progress import Reporter


def identify(options: ModelOptions, command: Sequence[str] = ()) -> ModelOptions:
    """Complete the options of a network whose weights are a file, or whose name is a checkpoint or a hub repository.

    What was inferred is in the `notes` of the result; options that have them are complete. `command` is the user's
    command line, which the error for a checkpoint of an unknown architecture corrects. Raises ModelError, WeightsError,
    HubError, or UsageError for a transform that can't be repeated.
    """
    if options.notes is not None:
        return options
    options = _with_transform(replace(options, notes=()))
    if options.module is not None:
        return options
    options = _with_architecture(options, command)
    source = _source(options.name)
    if source is None or options.weights in (None, "random"):
        return options
    path = Path(str(options.weights))
    checkpoint = open_checkpoint(path)
    file = checkpoint.files[0].name
    options = _with_description(options, checkpoint)
    if options.imgsz is None and (side := side_of_positions(options.name, checkpoint.state)) is not None:
        options = _noting(replace(options, imgsz=side), f"input: {side}x{side}, from the positions in '{file}'")
    builds_no_head = options.headless and isinstance(source, TimmSource)  # torchvision's is dropped afterwards
    if "num_classes" not in options.model_args and not builds_no_head:
        classes = _classes(replace(options, headless=False), source, checkpoint, path)
        if classes is not None:
            options = _with_arguments(options, {"num_classes": classes})
            options = _noting(options, f"classes: {classes}, from the classifier in '{file}'")
    return options


def _noting(options: ModelOptions, text: str) -> ModelOptions:
    return replace(options, notes=(*(options.notes or ()), InferredNote(text)))


def _source(name: str) -> ModelSource | None:
    """The source of a network that edgekit builds itself by name; None for the others, which know their own classes."""
    if name.startswith(TORCHVISION):
        return TorchvisionSource()
    return TimmSource() if _is_timm(name) else None


def _is_timm(name: str) -> bool:
    return timm.is_model(name.partition(".")[0])


def _with_architecture(options: ModelOptions, command: Sequence[str]) -> ModelOptions:
    """The options with a name of timm's or torchvision's in place of a checkpoint, a saved folder or a repository."""
    repository = next((options.name.removeprefix(p) for p in HUB_PREFIXES if options.name.startswith(p)), None)
    if repository is not None:
        path = fetch_repository(repository, weights=options.weights is None)
    elif options.is_checkpoint and (options.has_checkpoint_suffix or not _is_timm(options.name)):
        path = Path(options.name)
        if not path.exists():
            raise ModelError(
                f"'{path}' is the name of a checkpoint, and there is no such file",
                valid="a checkpoint file, a folder that save_pretrained wrote, or a model's name",
                fix="Correct the path",
            )
    else:
        return _with_saved_network(options)
    if path.is_dir():
        description, state = describe_folder(path)[0], None
    else:
        checkpoint = open_checkpoint(path)
        description, state = checkpoint.description, checkpoint.state
    name = _known(description.architecture, state)
    if name is None:
        raise _unknown_architecture(path, description.architecture, description.origin, command)
    arguments = {**description.model_args, **options.model_args} if path.is_dir() else options.model_args
    where = f" of '{options.short_name}'" if path.is_dir() else ""
    named = replace(options, name=name, weights=options.weights or str(path), model_args=arguments)
    return _noting(named, f"architecture: {name}, from {description.origin}{where}")


def _with_saved_network(options: ModelOptions) -> ModelOptions:
    """The options of a network of transformers, if the weights are a folder that it saved: timm's has other tensors."""
    folder = Path(options.weights or "")
    if not options.weights or not (folder / CONFIG).is_file():
        return options
    description = describe_folder(folder)[0]
    if description.architecture is None or not description.architecture.startswith(TRANSFORMERS):
        return options
    named = replace(options, name=description.architecture, model_args=description.model_args)
    return _noting(named, f"architecture: {named.name}, from {description.origin} of '{folder.name}'")


def _known(architecture: str | None, state: dict[str, torch.Tensor] | None) -> str | None:
    """The architecture as edgekit names it, or None. A name of both timm and torchvision is the one that fits."""
    if architecture is None:
        return None
    if architecture.startswith(TRANSFORMERS):
        return architecture
    plain = architecture.rpartition("/")[2]
    candidates = [plain] if ":" not in plain and _is_timm(plain) else []
    bare = plain.removeprefix(TORCHVISION)
    if bare in torchvision_models():
        candidates.insert(0 if plain.startswith(TORCHVISION) else len(candidates), f"{TORCHVISION}{bare}")
    if len(candidates) < 2 or state is None:
        return candidates[0] if candidates else None
    return next((name for name in candidates if _fits(name, state)), candidates[0])


def _fits(name: str, state: dict[str, torch.Tensor]) -> bool:
    source = _source(name)
    assert source is not None
    module = _meta(source, ModelOptions(name))
    own = own_tensors(state, module, Path(name), _filter(name)).state
    return own.keys() == module.state_dict().keys()


def _with_description(options: ModelOptions, checkpoint: Checkpoint) -> ModelOptions:
    """The options with the constructor arguments and the preprocessing that the checkpoint states."""
    description = checkpoint.description
    if description.model_args and _known(description.architecture, None) == options.name.partition(".")[0]:
        options = _with_arguments(options, description.model_args)
    return _with_inputs(options, description.inputs, description.inputs_origin)


def _with_transform(options: ModelOptions) -> ModelOptions:
    """The options with the preprocessing of their transform. UsageError if it can't be expressed, or has no size."""
    if options.transform is None:
        return options
    inputs = read_transform(options.transform)
    if inputs.size is None and options.imgsz is None:
        raise UsageError(
            "the transform neither resizes nor crops, so it doesn't tell the size of the network's images",
            fix="Pass their height and width in pixels as imgsz",
        )
    return _with_inputs(replace(options, transform=None), inputs, "the transform")


def _with_inputs(options: ModelOptions, inputs: InputOptions, origin: str) -> ModelOptions:
    """The options with the preprocessing that is stated elsewhere, where they leave it open."""
    stated = {"imgsz" if name == "size" else name: value for name, value in inputs.stated.items()}
    if "img_size" in options.model_args:
        stated.pop("imgsz", None)
    new = {name: value for name, value in stated.items() if getattr(options, name) is None}
    if not new:
        return options
    words = {
        "imgsz": "x".join(map(str, inputs.size or ())),
        "crop_mode": f"crop {inputs.crop_mode}",
        "takes_bgr": "BGR",
    }
    listed = ", ".join(words.get(key) or f"{key} {_short(value)}" for key, value in new.items())
    return _noting(replace(options, **new), f"preprocessing: {listed}, from {origin}")


def _short(value: object) -> str:
    if isinstance(value, tuple):
        return ",".join(f"{number:g}" for number in value)
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _with_arguments(options: ModelOptions, arguments: ModelArgs) -> ModelOptions:
    return replace(options, model_args={**arguments, **options.model_args})


def _classes(options: ModelOptions, source: ModelSource, checkpoint: Checkpoint, path: Path) -> int | None:
    """Number of classes of the checkpoint's head, if that differs from the architecture's own."""
    try:
        module = _meta(source, options)
        if getattr(module, "num_classes", None) == 0:
            # An architecture that is published without a classifier gets one to compare with.
            module = _meta(source, _with_arguments(options, {"num_classes": 2}))
    except EdgekitError:
        return None  # loading reports the reason
    state = own_tensors(checkpoint.state, module, path, _filter(options.name)).state
    return classes_of_head(state, module)


def _meta(source: ModelSource, options: ModelOptions) -> nn.Module:
    with torch.device("meta"):
        return source.build_meta(options)


def _filter(name: str) -> Rename | None:
    model = name.partition(".")[0]
    if name.startswith(TORCHVISION):
        return present_names(model.removeprefix(TORCHVISION))
    return checkpoint_filter(model)


def _unknown_architecture(path: Path, stated: str | None, origin: str, command: Sequence[str]) -> ModelError:
    """The error for a checkpoint whose architecture edgekit doesn't know, with the command that names one."""
    said = f"says that it belongs to '{stated}' ({origin}), which is no name of timm's or torchvision's"
    names = [*timm.list_models(), *(f"{TORCHVISION}{name}" for name in torchvision_models())]
    similar = difflib.get_close_matches((stated or path.stem).lower(), names)
    examples = f", such as {', '.join(similar)}," if similar else ""
    return ModelError(
        f"'{path}' is a checkpoint that {said if stated else 'does not say which network it belongs to'}",
        valid=f"a name of timm's or torchvision's{examples} with `--weights FILE`, or module:factory for your own code",
        fix=f"Name the network: {_corrected(command, path, similar[0] if similar else 'ARCHITECTURE')}",
    )


def _corrected(command: Sequence[str], path: Path, name: str) -> str:
    """The user's command with the network's name, and the checkpoint as its weights."""
    given = list(command) or ["deploy", str(path), "--data", "PHOTOS"]
    try:
        place = given.index(str(path))
    except ValueError:
        return f"edgekit deploy {name} --weights {shlex.quote(str(path))} --data PHOTOS"
    return f"edgekit {shlex.join([*given[:place], name, '--weights', str(path), *given[place + 1 :]])}"


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
