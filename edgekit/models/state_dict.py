"""State dicts: finds a network's own tensors in one, renames them to the network's layout and loads them strictly."""

import hashlib
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from edgekit.errors import WeightsError

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
