"""Checkpoint files: reads them without running code, renames tensors to the model's layout and loads them strictly."""

import argparse
import hashlib
import re
import warnings
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from edgekit.errors import WeightsError
from edgekit.models.class_names import StoredNames, stored_names

State: TypeAlias = dict[str, Tensor]
Rename: TypeAlias = Callable[[State, nn.Module], State]

# Keys under which training scripts store the state dict. Averaged weights come first: published accuracies are theirs.
_WRAPPERS = ("state_dict_ema", "model_ema", "state_dict", "model", "model_state_dict")
# Prefixes that DataParallel, torch.compile and Lightning put before every name.
_PREFIXES = ("module.", "_orig_mod.", "model.")
_SHOWN = 3


@dataclass(frozen=True)
class Checkpoint:
    """The content of a checkpoint file that edgekit uses."""

    state: State
    """Tensors by name, in the file's own layout and dtypes."""
    class_names: tuple[StoredNames, ...]
    """Lists of class names in the file."""


def read_checkpoint(path: Path) -> State:
    """The tensors of a checkpoint file by name. Raises the errors of `open_checkpoint`."""
    return open_checkpoint(path).state


def open_checkpoint(path: Path) -> Checkpoint:
    """Read the tensors and class names of a checkpoint file. The tensors are mapped from it where possible.

    Reads `.safetensors` and files of torch.save (with weights_only=True, so that no code in them runs), plain or
    wrapped as training scripts do. Where a file has both averaged (EMA) and raw weights, the averaged ones are used.
    Raises WeightsError if the file can't be read.
    """
    if not path.is_file():
        problem = "is a folder" if path.is_dir() else "doesn't exist"
        raise WeightsError(
            f"weights file '{path}' {problem}",
            valid="a checkpoint file, or `random`",
            fix="Correct the path after `--weights`",
        )
    whole, metadata = _read_file(path)
    content = _unwrap(whole)
    if not isinstance(content, Mapping) or not any(isinstance(value, Tensor) for value in content.values()):
        kind = f"a dict with {_some(list(content))}" if isinstance(content, Mapping) else f"a {type(content).__name__}"
        raise WeightsError(
            f"weights file '{path}' contains {kind} instead of named tensors", fix="Save model.state_dict() to the file"
        )
    others = [name for name, value in content.items() if not _is_plain(value)]
    if others:
        raise WeightsError(
            f"weights file '{path}' contains entries that aren't plain tensors: {_some(others)}",
            fix="Save model.state_dict() alone to the file",
        )
    names = stored_names(metadata)
    return Checkpoint({str(name): value for name, value in content.items()}, names)


def fit_weights(module: nn.Module, state: State, path: Path, rename: Rename | None = None) -> None:
    """Load a checkpoint's tensors into a float32 module, converting other precisions.

    `rename` maps the state dict of another layout to the module's; it is called only if the tensors don't fit as they
    are. Raises WeightsError with `path` if names, shapes or types don't fit.
    """
    state = _strip_prefixes(state, module)
    if rename is not None and _shapes(state) != _shapes(module.state_dict()):
        state = _rename(state, module, rename, path)
    problems = _wrong_tensors(state, module)
    if not problems:
        # strict=False only collects the names for our own message: missing or unexpected tensors are errors below.
        missing, unexpected = module.load_state_dict(state, strict=False)
        problems = _listed("missing", missing) + _listed("unexpected", unexpected)
    else:
        wanted = module.state_dict()
        problems += _listed("missing", [name for name in wanted if name not in state])
        problems += _listed("unexpected", [name for name in state if name not in wanted])
    if problems:
        raise WeightsError(f"weights '{path}' don't fit the model: {'; '.join(problems)}", fix=_fix(state, module))


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


def _unwrap(content: Any) -> Any:
    for _ in _WRAPPERS:  # bounded, because a dict in a file may contain itself
        if not isinstance(content, Mapping):
            break
        inner = [content[key] for key in _WRAPPERS if isinstance(content.get(key), Mapping)]
        if not inner:
            break
        content = inner[0]
    return content


def _is_plain(value: object) -> bool:
    return isinstance(value, Tensor) and value.layout == torch.strided and not value.is_quantized


def _read_file(path: Path) -> tuple[Any, object]:
    """The content of a file, and the dicts that may contain class names: those of torch.save are the content itself."""
    try:
        if path.suffix.lower() == ".safetensors":
            with safetensors.safe_open(path, "pt") as file:
                metadata = file.metadata()
            return safetensors.torch.load_file(path), metadata
        # timm's and the ConvNeXt repository's training scripts save an argparse.Namespace next to the weights. torch
        # warns of pickle formats that it may fail on; if it does fail, the error below reports it.
        with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
        return content, content
    # On damaged files torch's unpickler raises almost anything: EOFError, KeyError, struct.error, RuntimeError.
    except Exception as error:
        blocked = re.search(r"GLOBAL (\S+)", str(error))
        if blocked:
            raise WeightsError(
                f"weights file '{path}' contains code or objects besides tensors ({blocked[1]}), which edgekit never "
                "loads",
                fix="Save model.state_dict() alone, preferably as .safetensors",
            ) from error
        # torch's own message explains at length how to switch the protection off; the cause comes last.
        cause = re.search(r"WeightsUnpickler error:\s*(.*)", str(error))
        reason = (cause[1] if cause else str(error).strip().split("\n")[0])[:200]
        raise WeightsError(
            f"weights file '{path}' can't be read as a checkpoint ({type(error).__name__}: {reason})",
            valid="a .safetensors file, or a .pth, .pt or .bin file of torch.save",
            fix="If the file was downloaded, download it again; otherwise save model.state_dict() to a new one",
        ) from error


def _strip_prefixes(state: State, module: nn.Module) -> State:
    wanted = module.state_dict()
    for prefix in _PREFIXES * 2:  # prefixes nest in either order
        if all(name.startswith(prefix) for name in state) and not any(name.startswith(prefix) for name in wanted):
            state = {name.removeprefix(prefix): value for name, value in state.items()}
    return state


def _rename(state: State, module: nn.Module, rename: Rename, path: Path) -> State:
    # Some renaming code reshapes Linear weights to 1x1 convolutions, and fails on the weights of another model. Weights
    # that are 1x1 convolutions already need no reshaping, so the renaming completes and we report the mismatch by name.
    convolutions = {name: v[..., None, None] if v.ndim == 2 else v for name, v in state.items()}
    for layout in (state, convolutions):
        try:
            return rename(dict(layout), module)
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


def _shapes(state: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in state.items()}


def _wrong_tensors(state: State, module: nn.Module) -> list[str]:
    wanted = module.state_dict()
    common = [(name, state[name], wanted[name]) for name in wanted if name in state]
    shapes = [
        f"{name}: file {list(saved.shape)}, model {list(own.shape)}"
        for name, saved, own in common
        if saved.shape != own.shape
    ]
    kinds = [
        f"{name}: file {saved.dtype}, model {own.dtype}"
        for name, saved, own in common
        if own.is_floating_point() and not saved.is_floating_point()
    ]
    return _listed("with another shape", shapes) + _listed("with another type", kinds)


def _fix(state: State, module: nn.Module) -> str:
    """Advice to load the file if only the number of classes differs, or else to find one that fits."""
    other_checkpoint = "Choose a checkpoint of this very model, or correct MODEL and `--model-args`"
    wanted = module.state_dict()
    differing = [name for name in wanted.keys() | state.keys() if _shape(state, name) != _shape(wanted, name)]
    if not all(name in state and name in wanted for name in differing):
        return other_checkpoint
    same_features = all(state[name].shape[1:] == wanted[name].shape[1:] for name in differing)
    classes = {tuple(state[name].shape[:1]) for name in differing}
    if not same_features or len(classes) != 1 or () in classes:
        return other_checkpoint
    return f"Only the classifier differs: add `--model-args num_classes={classes.pop()[0]}`"


def _shape(state: Mapping[str, Tensor], name: str) -> torch.Size | None:
    return state[name].shape if name in state else None


def _listed(description: str, names: list[str]) -> list[str]:
    return [f"{len(names)} {description} ({_some(names)})"] if names else []


def _some(names: Sequence[object]) -> str:
    rest = len(names) - _SHOWN
    return ", ".join(map(str, names[:_SHOWN])) + (f" and {rest} more" if rest > 0 else "")
