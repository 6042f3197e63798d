"""A network: its module, preprocessing and labels, its identity, by which results are stored, and its logits.

A source recognizes one kind of model name, and loads or plans the networks so named. A state dict may have other
tensors and names than a network: its own are found, renamed to the network's layout and loaded strictly.
"""

import copy
import hashlib
import pickle
import sys
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.machinery import PathFinder
from pathlib import Path
from queue import SimpleQueue
from typing import Any, ClassVar, Protocol, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.fx import GraphModule

from edgekit import __version__
from edgekit.compiler.execution import at_once, side_by_side
from edgekit.compiler.graph import copy_sharing, trace
from edgekit.errors import ModelError, WeightsError
from edgekit.images.preprocess import Preprocessing
from edgekit.models.description import StoredNames
from edgekit.models.options import InferredNote, ModelOptions
from edgekit.models.transforms import size_of_model
from edgekit.support.files import digest
from edgekit.support.libraries import first_line, versions_of

State: TypeAlias = dict[str, Tensor]
Rename: TypeAlias = Callable[[State, nn.Module], State]

# Prefixes that DataParallel, torch.compile and Lightning put before every name, in whichever layout the names are.
_PREFIXES = ("module.", "_orig_mod.", "model.", "net.")
# Counters of those who average weights.
_COUNTERS = ("n_averaged", "num_updates")
_SHOWN = 3
ALIGNMENT = 64
"""Bytes to whose multiples torch aligns the values of tensors, in memory and in files of torch.save."""


@dataclass(frozen=True)
class OwnTensors:
    """The tensors of a state dict that belong to a network, by the names that the network gives them."""

    state: State
    others: tuple[str, ...] = ()
    """Names of the tensors that belong to something else, such as a loss."""
    head: str | None = None
    """Name of the weight beside the network that was taken as its classifier's."""


def own_tensors(state: State, module: nn.Module, path: Path, rename: Rename | None = None) -> OwnTensors:
    """Find the tensors of a module in a checkpoint's state dict.

    What was saved may have the network as an attribute, as in Lightning; its other tensors are left out. If the network
    there ends before the classifier, and exactly one linear layer next to it fits, that layer is taken as the
    classifier. `rename` maps the state dict of another layout to the module's. It is called only if the tensors don't
    fit as they are. Raises WeightsError if `rename` fails.
    """
    wanted = module.state_dict()
    prefix = _prefix(state, wanted)
    if prefix is None:
        state = _strip_prefixes(state, wanted)
        others: list[str] = []
    else:
        others = [name for name in state if not name.startswith(prefix)] if prefix else []
        beside = {name: state[name] for name in others}
        state = _under(prefix, state)
        if (head := _head_beside(state, beside, wanted)) is not None:
            return OwnTensors(*head)
    if rename is not None and _shapes(state) != _shapes(wanted):
        state = _rename(state, module, rename, path)
    return OwnTensors(state, tuple(name for name in others if name not in _COUNTERS))


def fit_weights(
    module: nn.Module, state: State, path: Path, rename: Rename | None = None, assign: bool = False
) -> OwnTensors:
    """Load a checkpoint's tensors into a float32 module, converting other precisions. Returns what `own_tensors` found.

    With `assign`, tensors that torch would store in the same way become the module's own instead of being copied.
    Raises WeightsError with `path` if names, shapes or types don't fit.
    """
    own = own_tensors(state, module, path, rename)
    if problems := _wrong_types(own.state, module) or _load(own.state, module, assign):
        raise WeightsError(f"weights '{path}' don't fit the model: {'; '.join(problems)}", fix=_fix(own.state, module))
    return own


def with_versions(state: Mapping[str, Tensor], versions: Mapping[str, Any] | None) -> State:
    """A state dict with the versions of its modules, by which torch knows the layout that each was saved in."""
    versioned = OrderedDict(state)
    if versions is not None:
        versioned._metadata = {name: dict(version) for name, version in versions.items()}  # type: ignore[attr-defined]
    return versioned


def versions_of_modules(state: object) -> Mapping[str, Any] | None:
    """The versions that torch has attached to a state dict; None for one from elsewhere, such as a .safetensors."""
    return getattr(state, "_metadata", None)


def leaving_out(beginnings: tuple[str, ...], rename: Rename | None) -> Rename:
    """The function that renames a state dict, if need be, and leaves out tensors with these beginnings.

    Those that the network has stay.
    """

    def used(state: State, module: nn.Module) -> State:
        own, renamed = module.state_dict().keys(), rename(state, module) if rename else state
        values = {name: value for name, value in renamed.items() if name in own or not name.startswith(beginnings)}
        return with_versions(values, versions_of_modules(state))

    return used


def classes_of_head(state: State, module: nn.Module) -> int | None:
    """Number of classes of a state dict that fits a module but for the number of its classes; None for any other."""
    wanted = module.state_dict()
    differing = [name for name in wanted.keys() | state.keys() if _shape(state, name) != _shape(wanted, name)]
    if not differing or not all(name in state and name in wanted for name in differing):
        return None
    same_features = all(state[name].shape[1:] == wanted[name].shape[1:] for name in differing)
    classes = {tuple(state[name].shape[:1]) for name in differing}
    return classes.pop()[0] if same_features and len(classes) == 1 and () not in classes else None


def check_finite(module: nn.Module, source: str) -> None:
    """Raise WeightsError with the first tensor that contains NaN or infinity; `source` names the weights.

    A single infinite value that isn't trained may be a limit for clipping.
    """
    limits = {name for name, value in module.named_buffers() if value.numel() == 1 and bool(torch.isinf(value))}
    for name, value in module.state_dict().items():
        if name not in limits and value.is_floating_point() and not _is_finite(value):
            count = int((~torch.isfinite(value)).sum())
            raise WeightsError(
                f"tensor '{name}' of weights '{source}' contains NaN or infinity ({count} of {value.numel()} values): "
                "the checkpoint is damaged or its training diverged",
                fix="Choose another checkpoint with `--weights FILE`",
            )


def _is_finite(value: Tensor) -> bool:
    """Whether all values are finite. Unlike torch.isfinite, this makes no temporary tensors as large as the value."""
    return value.numel() == 0 or all(bool(torch.isfinite(limit)) for limit in torch.aminmax(value))


def state_sha256(module: nn.Module) -> str:
    """SHA-256 of a module's state dict: name, dtype, shape and values of each tensor, sorted by name."""
    return tensors_sha256(module.state_dict())


def tensors_sha256(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of the name, dtype, shape and values of each tensor, sorted by name."""
    digest = hashlib.sha256()
    for name, value in sorted(tensors.items()):
        digest.update(f"{name} {value.dtype} {list(value.shape)}\n".encode())
        digest.update(value.contiguous().flatten().view(torch.uint8).numpy().data)  # numpy has no bfloat16
    return digest.hexdigest()


def _prefix(state: State, wanted: State) -> str | None:
    """The prefix under which most of a network's names are, if it is at least half of them; averaged weights first."""
    counts: Counter[str] = Counter()
    for name in state:
        parts = name.split(".")
        for start in range(len(parts)):
            own = ".".join(parts[start:])
            if own in wanted and state[name].shape == wanted[own].shape:
                counts[name.removesuffix(own)] += 1
    best = max(counts, key=lambda prefix: (counts[prefix], "ema" in prefix, -len(prefix)), default=None)
    return best if best is not None and counts[best] >= len(wanted) / 2 else None


def _under(prefix: str, state: State) -> State:
    """The tensors and the versions of the modules below a prefix, without it."""
    own = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    versions = versions_of_modules(state)
    if versions is None:
        return own
    inside = {f"{name}.": version for name, version in versions.items() if f"{name}.".startswith(prefix)}
    return with_versions(own, {name.removeprefix(prefix).rstrip("."): version for name, version in inside.items()})


def _load(state: State, module: nn.Module, assign: bool) -> list[str]:
    """Load a state dict as torch does; return what doesn't fit."""
    values = _stored_alike(state, module) if assign else state
    try:
        try:  # strict=False only collects the names for our own message
            missing, unexpected = module.load_state_dict(values, strict=False, assign=assign)
        except ValueError:  # a module insists on a version, which only torch's own files have: then it is the current
            values = with_versions(values, versions_of_modules(module.state_dict()))
            missing, unexpected = module.load_state_dict(values, strict=False, assign=assign)
    except RuntimeError as error:
        return _mismatches(state, module) or [" ".join(str(error).split())[:300]]
    return _listed("missing", missing) + _listed("unexpected", unexpected)


def _strip_prefixes(state: State, wanted: State) -> State:
    for prefix in _PREFIXES * 2:  # prefixes nest in either order
        plain = {name: value for name, value in state.items() if name not in _COUNTERS}
        if all(name.startswith(prefix) for name in plain) and not any(name.startswith(prefix) for name in wanted):
            state = {name.removeprefix(prefix): value for name, value in plain.items()}
    return state


def _head_beside(
    state: State, beside: Mapping[str, Tensor], wanted: State
) -> tuple[State, tuple[str, ...], str] | None:
    """The state with the classifier from beside the network, the names that remain, and the name of its weight."""
    missing = [name for name in wanted if name not in state]
    weights = [name for name in missing if name.endswith(".weight") and wanted[name].ndim == 2]
    if len(weights) != 1 or set(missing) - {weights[0], weights[0].removesuffix("weight") + "bias"}:
        return None
    features = wanted[weights[0]].shape[1]
    fitting = [name for name, value in beside.items() if name.endswith("weight") and value.shape[1:] == (features,)]
    if len(fitting) != 1:
        return None
    source, target = fitting[0].removesuffix("weight"), weights[0].removesuffix("weight")
    taken = {name: name.replace(target, source, 1) for name in missing}
    if not all(name in beside for name in taken.values()):
        return None
    others = tuple(name for name in beside if name not in taken.values() and name not in _COUNTERS)
    return {**state, **{own: beside[name] for own, name in taken.items()}}, others, fitting[0]


def _rename(state: State, module: nn.Module, rename: Rename, path: Path) -> State:
    # Some renaming code reshapes Linear weights to 1x1 convolutions, and fails on the weights of another model. Weights
    # that are 1x1 convolutions already need no reshaping, so the renaming completes and we report the mismatch by name.
    convolutions = {name: v[..., None, None] if v.ndim == 2 else v for name, v in state.items()}
    for layout in (state, convolutions):
        try:
            return rename(with_versions(layout, versions_of_modules(state)), module)
        # The library's renaming code assumes a file that fits, and looks up tensors that other files don't have.
        except (KeyError, IndexError, RuntimeError, ValueError):
            continue
        except (AttributeError, TypeError) as error:
            raise WeightsError(
                f"the library's code that renames checkpoint tensors failed on weights '{path}' "
                f"({type(error).__name__}: {error}): it may have a bug, or not support the layout of this file",
                fix="Save model.state_dict(), so that the tensors have the model's own names",
            ) from error
    return state


def _stored_alike(state: State, module: nn.Module) -> State:
    """A state dict in the module's dtypes, contiguous and aligned, because kernels add in another order elsewhere."""
    kinds = {name: value.dtype for name, value in module.state_dict().items()}
    alike = {name: value.to(kinds.get(name, value.dtype)).contiguous() for name, value in state.items()}
    aligned = {name: value.clone() if value.data_ptr() % ALIGNMENT else value for name, value in alike.items()}
    return with_versions(aligned, versions_of_modules(state))


def _shapes(state: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in state.items()}


def _wrong_types(state: State, module: nn.Module) -> list[str]:
    common = [(name, state[name], own) for name, own in module.state_dict().items() if name in state]
    kinds = [
        f"{name}: file {saved.dtype}, model {own.dtype}"
        for name, saved, own in common
        if own.is_floating_point() and not saved.is_floating_point()
    ]
    return _listed("with another type", kinds)


def _mismatches(state: State, module: nn.Module) -> list[str]:
    wanted = module.state_dict()
    shapes = [
        f"{name}: file {list(state[name].shape)}, model {list(own.shape)}"
        for name, own in wanted.items()
        if name in state and state[name].shape != own.shape
    ]
    missing = [name for name in wanted if name not in state]
    unexpected = [name for name in state if name not in wanted]
    listed = _listed("with another shape", shapes), _listed("missing", missing), _listed("unexpected", unexpected)
    return [problem for problems in listed for problem in problems]


def _fix(state: State, module: nn.Module) -> str:
    """Advice to load the file if only the number of classes differs, or else to find one that fits."""
    classes = classes_of_head(state, module)
    if classes is None:
        return "Choose a checkpoint of this very model, or correct MODEL and `--model-args`"
    return f"Only the classifier differs: set it with `--model-args num_classes={classes}`"


def _shape(state: Mapping[str, Tensor], name: str) -> torch.Size | None:
    return state[name].shape if name in state else None


def _listed(description: str, names: list[str]) -> list[str]:
    return [f"{len(names)} {description} ({some(names)})"] if names else []


def some(names: Sequence[object]) -> str:
    """The first names, and the number of the others."""
    rest = len(names) - _SHOWN
    return ", ".join(map(str, names[:_SHOWN])) + (f" and {rest} more" if rest > 0 else "")


class ReferenceNetwork(Protocol):
    """Another implementation of an imported network, with which its module is compared on real images."""

    def difference(self, images: NDArray[np.float32], logits: NDArray[np.float32]) -> float:
        """Largest difference between the module's logits [N,classes] and its own, as a fraction of its largest."""
        ...


@dataclass(frozen=True)
class LoadedModule:
    """A module float32 [N,C,H,W] -> outputs [N,K] on the CPU with its weights, and the origin of the weights.

    The fields have the same meaning as those of `Network`.
    """

    module: nn.Module
    weights: str
    weights_sha256: str
    license_note: str | None = None
    reference: "ReferenceNetwork | None" = None
    class_names: tuple[StoredNames, ...] = ()
    """Lists of class names that the file of the network or of its weights contains."""
    notes: tuple[InferredNote, ...] = ()
    """What the source inferred from the files."""
    has_classifier: bool = True
    """Whether the network may end with a classifier: False for one that is known to return features."""

    @classmethod
    def of(cls, module: nn.Module, weights: str, **more: Any) -> "LoadedModule":
        """A module whose weights have no file of their own, so that their hash is that of its state dict."""
        return cls(module, weights, state_sha256(module), **more)

    def with_notes(self, *notes: InferredNote) -> "LoadedModule":
        """The same module with further notes."""
        return replace(self, notes=(*self.notes, *notes))


class ModelSource(Protocol):
    """A source of networks. `edgekit.models.loading` lists the sources; each has its own file."""

    name: ClassVar[str]
    """The source's name in reports and manifests."""

    def recognizes(self, options: ModelOptions) -> bool:
        """Whether this source is responsible for the named model, which need not exist."""
        ...

    def input_size(self, options: ModelOptions) -> tuple[int, int] | None:
        """The requested (height, width) in pixels, or None for the model's own. UsageError if it is invalid."""
        return size_of_model(options)

    def load(self, options: ModelOptions, seed: int) -> LoadedModule:
        """Build the network with the requested weights; the caller has seeded torch.

        Raises ModelError, WeightsError, HubError, UsageError or MissingExtraError.
        """
        ...

    def build_meta(self, options: ModelOptions) -> nn.Module:
        """Build the network as its constructor initializes it, on torch's default device (the meta device).

        Downloads nothing and reads no weights. Raises ModelError or UsageError for an invalid name or arguments.
        """
        ...


DISTRIBUTIONS = (
    "torch",
    "torchvision",
    "timm",
    "open_clip_torch",
    "transformers",
    "safetensors",
    "onnx2pytorch",
    "numpy",
    "pillow",
)
"""Distributions that build networks, decode images and compute torch's predictions."""
ROOMS = ("compat", "compiler", "config", "images", "models")
"""Folders of the package whose code loads and exports networks and prepares images."""


@dataclass(frozen=True)
class NetworkIdentity:
    """Identity of a network, as an input of stored results. Equal identities give equal bundles and predictions."""

    name: str
    """Name of the model."""
    weights_sha256: str
    """Hash of the file or state dict with the weights."""
    graph_sha256: str
    """Hash of the exported graph, which changes with everything that `forward` calls, in whichever file it is."""
    preprocessing: Preprocessing
    """Conversion of images to the network's input."""
    versions: Mapping[str, str]
    """Versions of `DISTRIBUTIONS`, of Python and of edgekit, and the hash of edgekit's code in `ROOMS`."""


def graph_sha256(graph: GraphModule) -> str:
    """SHA-256 of the code of an exported graph and of its weights, buffers and constants. A gigabyte takes a second."""
    code = {name: part.code for name, part in graph.named_modules() if isinstance(part, GraphModule)}
    return digest(code, tensors_sha256(tensors_of(graph)))


def tensors_of(graph: GraphModule) -> dict[str, Tensor]:
    """Weights, buffers and constants of a graph by name. The graph keeps constants of `forward` as plain attributes."""
    return {
        f"{name}.{key}": value
        for name, part in graph.named_modules(remove_duplicate=False)
        for key, value in {**vars(part), **part._parameters, **part._buffers}.items()
        if isinstance(value, Tensor)
    }


@dataclass(frozen=True)
class Network:
    """A module float32 [1,C,H,W] -> logits float32 [1,classes], on the CPU, in eval mode, without gradients.

    `source` is "timm", "torchvision", "transformers", "open_clip", "onnx" or "factory". `weights` is "random",
    "factory", the path of a file as the user wrote it, or the tag of published weights; `weights_sha256` is the
    hash of the file, or of the state dict's content if there is no file of weights alone. `license_note` is a sentence
    for the user.
    `reference` is the original of an imported network.
    """

    module: nn.Module
    name: str
    source: str
    weights: str
    weights_sha256: str
    params: int
    classes: int
    preprocessing: Preprocessing
    labels: tuple[str, ...]
    license_note: str | None
    reference: ReferenceNetwork | None = None
    labels_origin: str | None = None
    """Key under which the network's own file has the labels; None if they come from elsewhere."""
    labels_file: str = ""
    """Name of that file, if it is not the one in `weights`."""
    labels_doubt: str | None = None
    """Reason why class names in the network's own file are ignored, as a sentence for the user."""
    class_order: str | None = None
    """Order of the images' classes that its answers showed to be that of its outputs; None if names tell it."""
    notes: tuple[InferredNote, ...] = ()
    """What was inferred from the network's files."""
    has_classifier: bool = True
    """Whether the network may end with a classifier: False for one that is known to return features."""

    @cached_property
    def traced(self) -> GraphModule:
        """The graph that torch.export makes of the module, whose tensors it shares. It is shared: don't change it.

        Tracing takes as long as some inferences: about a second for a small network, ten for the largest. Raises
        ModelError if the module can't be traced.
        """
        try:
            return trace(self.module, self.preprocessing.input_shape)
        except Exception as error:  # the model's own code may raise anything while it is traced
            raise ModelError(
                f"torch.export can't trace model '{self.name}': {first_line(error)}",
                fix="Change its forward so that it doesn't depend on the values of tensors",
            ) from error

    @cached_property
    def graph_sha256(self) -> str:
        """Hash of the code and the tensors of `traced`."""
        return graph_sha256(self.traced)

    @property
    def identity(self) -> NetworkIdentity:
        """Identity of the network, as an input of stored results."""
        versions = {"edgekit": __version__, **versions_of(DISTRIBUTIONS, ROOMS)}
        return NetworkIdentity(self.name, self.weights_sha256, self.graph_sha256, self.preprocessing, versions)

    @property
    def is_portable(self) -> bool:
        """Whether another process can unpickle the module, which imports its code and has none of its local parts.

        It can't import the code of a notebook, nor that of the current folder, from which a factory may come.
        """
        tensors = (*self.module.parameters(), *self.module.buffers())
        try:
            pickle.dumps(copy.deepcopy(self.module, {id(value): value.to("meta") for value in tensors}))
        except Exception:  # of the attributes of a user's network, which may be anything
            return False
        packages = {type(part).__module__.partition(".")[0] for part in self.module.modules()}
        paths = [*filter(None, sys.path)]
        return "__main__" not in packages and all(PathFinder.find_spec(package, paths) for package in packages)

    def __getstate__(self) -> dict[str, Any]:
        """The state to pickle: without the traced graph, but with its hash, so that nobody traces again for that."""
        return {name: value for name, value in vars(self).items() if name != "traced"} | {
            "graph_sha256": self.graph_sha256
        }


BATCH = 16
"""Images whose logits are handed on together."""


def torch_logits(network: Network, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Logits [N,classes] of the float network for cropped images [N,H,W,C]. WeightsError if a value isn't finite."""
    return np.concatenate([*batched_logits(network, pixels)])


@torch.no_grad()
def batched_logits(network: Network, pixels: NDArray[np.uint8], batch: int = BATCH) -> Iterator[NDArray[np.float32]]:
    """Compute the logits of any number of images, in arrays [batch,classes]; the last one may be smaller.

    The network sees one image at a time, as in a bundle: its code may rely on that. WeightsError if a value isn't
    finite.
    """
    modules = _copies(network.module)
    for start in range(0, len(pixels), batch):
        images = torch.from_numpy(network.preprocessing.normalize(pixels[start : start + batch]))
        logits = one_by_one(modules, images)
        if not np.isfinite(logits).all():
            raise WeightsError(
                f"model '{network.name}' returns NaN or infinity for a real image: its weights are damaged",
                fix="Choose another checkpoint with `--weights FILE`",
            )
        yield logits


def one_by_one(modules: Sequence[nn.Module], images: Tensor) -> NDArray[np.float32]:
    """Logits [N,classes] of images [N,C,H,W] that run alone, as in a graph, but on each of the equal modules at once.

    A network may write into its input.
    """
    free = SimpleQueue[nn.Module]()
    for module in modules:
        free.put(module)

    def run(image: Tensor) -> NDArray[np.float32]:
        module = free.get()
        try:
            return np.asarray(module(image[None].clone()))
        finally:
            free.put(module)

    return np.concatenate([*side_by_side(run, images, len(modules))])


def _copies(module: nn.Module) -> list[nn.Module]:
    """The module, and copies that share its tensors, so that as many images can run side by side.

    Each has its own attributes, which a network's code may change while it runs.
    """
    try:
        return [module, *(copy_sharing(module) for _ in range(at_once(module) - 1))]
    except Exception:
        return [module]  # which has what can't be copied, such as a lock or an open file
