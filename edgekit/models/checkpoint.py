"""Checkpoint files: read without running code, renamed to the model's layout, fitted strictly."""

import argparse
import hashlib
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import safetensors.torch
import torch
from torch import Tensor, nn

from edgekit.errors import WeightsError

State: TypeAlias = dict[str, Tensor]
Rename: TypeAlias = Callable[[State, nn.Module], State]

# Where training scripts put the state dict; the averaged weights first, since published accuracies are theirs.
_WRAPPERS = ("state_dict_ema", "model_ema", "state_dict", "model", "model_state_dict")
# What DataParallel, torch.compile and Lightning put before every name.
_PREFIXES = ("module.", "_orig_mod.", "model.")
_SHOWN = 3


def read_checkpoint(path: Path) -> State:
    """The tensors of a checkpoint file by name, in the file's own layout and dtypes.

    `.safetensors`, or what torch.save wrote (read with weights_only=True: no code in it runs), plain or wrapped as
    training scripts do; of averaged (EMA) and raw weights the averaged ones. Raises WeightsError when it can't be read.
    """
    if not path.is_file():
        state = "is a folder" if path.is_dir() else "doesn't exist"
        raise WeightsError(f"weights file '{path}' {state}: give a checkpoint file, or 'random', with --weights")
    found = _unwrap(_read_file(path))
    if not isinstance(found, Mapping) or not any(isinstance(value, Tensor) for value in found.values()):
        inside = f"a dict with {_some(list(found))}" if isinstance(found, Mapping) else f"a {type(found).__name__}"
        raise WeightsError(f"weights file '{path}' holds no tensors by name but {inside}: save model.state_dict()")
    others = [name for name, value in found.items() if not _is_plain(value)]
    if others:
        raise WeightsError(f"weights file '{path}' holds entries that aren't plain tensors: {_some(others)}")
    return {str(name): value for name, value in found.items()}


def fit_weights(module: nn.Module, state: State, path: Path, rename: Rename | None = None) -> None:
    """Load a checkpoint's tensors into a float32 module; other precisions are converted.

    `rename` maps another layout's state dict to the module's; it is tried when the tensors don't fit as they are.
    Raises WeightsError naming `path` when names, shapes or types don't fit.
    """
    state = _strip_prefixes(state, module)
    if rename is not None and _shapes(state) != _shapes(module.state_dict()):
        state = _rename(state, module, rename, path)
    problems = _wrong_tensors(state, module)
    if not problems:
        # Not strict only to collect the names for our own message: none may be missing or left over.
        missing, unexpected = module.load_state_dict(state, strict=False)
        problems = _listed("missing", missing) + _listed("unexpected", unexpected)
    else:
        wanted = module.state_dict()
        problems += _listed("missing", [name for name in wanted if name not in state])
        problems += _listed("unexpected", [name for name in state if name not in wanted])
    if problems:
        raise WeightsError(f"weights '{path}' don't fit the model: {'; '.join(problems)}.{_hint(state, module)}")


def check_finite(module: nn.Module, source: str) -> None:
    """Raise WeightsError naming the first tensor that holds NaN or infinity; `source` says whose weights they are."""
    for name, value in module.state_dict().items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            count = int((~torch.isfinite(value)).sum())
            raise WeightsError(
                f"weights '{source}': tensor '{name}' holds NaN or infinity ({count} of {value.numel()} values): "
                "the checkpoint is damaged or its training diverged, give another with --weights FILE"
            )


def state_sha256(module: nn.Module) -> str:
    """SHA-256 of a module's state dict: name, dtype, shape and values of each tensor, sorted by name."""
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        digest.update(f"{name} {value.dtype} {list(value.shape)}\n".encode())
        digest.update(value.contiguous().numpy().tobytes())
    return digest.hexdigest()


def _unwrap(found: Any) -> Any:
    for _ in _WRAPPERS:  # a bound: a file may hold a dict that holds itself
        inner = [found[key] for key in _WRAPPERS if isinstance(found, Mapping) and isinstance(found.get(key), Mapping)]
        if not inner:
            break
        found = inner[0]
    return found


def _is_plain(value: object) -> bool:
    return isinstance(value, Tensor) and value.layout == torch.strided and not value.is_quantized


def _read_file(path: Path) -> Any:
    try:
        if path.suffix.lower() == ".safetensors":
            return safetensors.torch.load_file(path)
        # timm's and the ConvNeXt repository's training scripts save their arguments beside the weights. torch warns of
        # forms of pickle that it may fail on; whether it does is told below.
        with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            return torch.load(path, map_location="cpu", weights_only=True)
    # On damaged files torch's unpickler raises almost anything (EOFError, KeyError, struct.error, RuntimeError …).
    except Exception as error:
        blocked = re.search(r"GLOBAL (\S+)", str(error))
        if blocked:
            raise WeightsError(
                f"weights file '{path}' holds code or objects besides tensors ({blocked[1]}), which are never loaded: "
                "save model.state_dict() alone, best as .safetensors"
            ) from error
        # torch's own message is an essay on switching the protection off, with the cause at its end.
        cause = re.search(r"WeightsUnpickler error:\s*(.*)", str(error))
        reason = (cause[1] if cause else str(error).strip().split("\n")[0])[:200]
        raise WeightsError(
            f"weights file '{path}' is not a checkpoint that can be read ({type(error).__name__}: {reason}): "
            "give .safetensors, or a .pth, .pt or .bin that torch.save wrote"
        ) from error


def _strip_prefixes(state: State, module: nn.Module) -> State:
    wanted = module.state_dict()
    for prefix in _PREFIXES * 2:  # they nest in either order
        if all(name.startswith(prefix) for name in state) and not any(name.startswith(prefix) for name in wanted):
            state = {name.removeprefix(prefix): value for name, value in state.items()}
    return state


def _rename(state: State, module: nn.Module, rename: Rename, path: Path) -> State:
    # Some renaming code reshapes Linear weights to 1x1 convolutions and fails on those of another model. Given as 1x1
    # convolutions they need no reshaping, so the renaming finishes and the mismatch is reported by name.
    convolutions = {name: v[..., None, None] if v.ndim == 2 else v for name, v in state.items()}
    for layout in (state, convolutions):
        try:
            return rename(dict(layout), module)
        # The renaming code is the library's and presumes a file that fits: on others it looks up what isn't there.
        except (KeyError, IndexError, RuntimeError, ValueError):
            continue
        except (AttributeError, TypeError) as error:
            raise WeightsError(
                f"the library's own code that renames the tensors of checkpoints failed on weights '{path}' "
                f"({type(error).__name__}: {error}): it may have a mistake, or not know the layout of this file. Give "
                "a checkpoint whose tensors have the names that the model gives them: save model.state_dict()"
            ) from error
    return state


def _shapes(state: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in state.items()}


def _wrong_tensors(state: State, module: nn.Module) -> list[str]:
    wanted = module.state_dict()
    common = [(name, state[name], wanted[name]) for name in wanted if name in state]
    shapes = [
        f"{name}: file {list(given.shape)}, model {list(own.shape)}"
        for name, given, own in common
        if given.shape != own.shape
    ]
    kinds = [
        f"{name}: file {given.dtype}, model {own.dtype}"
        for name, given, own in common
        if own.is_floating_point() and not given.is_floating_point()
    ]
    return _listed("of another shape", shapes) + _listed("of another type", kinds)


def _hint(state: State, module: nn.Module) -> str:
    """What to do when the file fits but for its number of classes."""
    wanted = module.state_dict()
    differing = [name for name in wanted.keys() | state.keys() if _shape(state, name) != _shape(wanted, name)]
    if not all(name in state and name in wanted for name in differing):
        return ""
    same_features = all(state[name].shape[1:] == wanted[name].shape[1:] for name in differing)
    classes = {tuple(state[name].shape[:1]) for name in differing}
    if not same_features or len(classes) != 1 or () in classes:
        return ""
    return f" Only the classifier differs: give --model-args num_classes={classes.pop()[0]}"


def _shape(state: Mapping[str, Tensor], name: str) -> torch.Size | None:
    return state[name].shape if name in state else None


def _listed(what: str, names: list[str]) -> list[str]:
    return [f"{len(names)} {what} ({_some(names)})"] if names else []


def _some(names: Sequence[object]) -> str:
    rest = len(names) - _SHOWN
    return ", ".join(map(str, names[:_SHOWN])) + (f" and {rest} more" if rest > 0 else "")
