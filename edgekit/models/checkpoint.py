"""Checkpoints: the tensors of a file or of a saved folder, and what it says about its network.

No code that pickles may contain is run.
"""

import argparse
import re
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from edgekit.errors import WeightsError
from edgekit.models.description import CONFIG, Description, describe, describe_folder, weight_files
from edgekit.models.labels import StoredNames, stored_names
from edgekit.models.state_dict import State, some, versions_of_modules, with_versions
from edgekit.support.files import digest, file_sha256

_CODE = re.compile(r"GLOBAL (\S+)")


class _Ignored:
    """A stand-in for an object in a checkpoint that edgekit doesn't use: it takes any arguments, and does nothing."""

    def __new__(cls, *_: object) -> Self:
        return super().__new__(cls)

    def __setstate__(self, _: object) -> None: ...


# What training scripts store next to the weights: scores that numpy computed, paths, and Lightning's dict of
# hyperparameters. The file gets our stand-ins for them, so nothing of theirs runs.
_STAND_INS: tuple[Any, ...] = (
    argparse.Namespace,  # plain attributes: timm's, torchvision's and the ConvNeXt repository's scripts save one
    *(
        (_Ignored, f"{module}.{name}")
        for module, names in {
            "numpy": ("dtype", "ndarray"),
            "numpy.core.multiarray": ("scalar", "_reconstruct"),
            "numpy._core.multiarray": ("scalar", "_reconstruct"),
            "pathlib": ("PosixPath", "PurePosixPath", "WindowsPath", "PureWindowsPath"),
            "pathlib._local": ("PosixPath", "PurePosixPath", "WindowsPath", "PureWindowsPath"),
        }.items()
        for name in names
    ),
    *(
        (dict, f"{module}.AttributeDict")
        for module in (
            "lightning.fabric.utilities.data",
            "lightning_fabric.utilities.data",
            "pytorch_lightning.utilities.parsing",
            "lightning.pytorch.utilities.parsing",
        )
    ),
)


def read_file(path: Path) -> tuple[Any, object]:
    """The content of a checkpoint file, and the dicts that may describe it: those of torch.save are the content itself.

    Reads `.safetensors` and files of torch.save, with weights_only=True. The tensors are mapped from the file where
    possible. Raises WeightsError if the file can't be read.
    """
    try:
        if path.suffix.lower() == ".safetensors":
            with safetensors.safe_open(path, "pt") as file:
                metadata = file.metadata()
            return safetensors.torch.load_file(path), metadata
        content = _load(path, _STAND_INS)
        return content, content
    # On damaged files torch's unpickler raises almost anything: EOFError, KeyError, struct.error, RuntimeError.
    except Exception as error:
        blocked = _CODE.search(str(error))
        if blocked:
            raise WeightsError(
                f"weights file '{path}' contains code or objects besides tensors ({blocked[1]}), which edgekit never "
                "loads",
                fix=_how_to_save(path),
            ) from error
        # torch's own message explains at length how to switch the protection off; the cause comes last.
        cause = re.search(r"WeightsUnpickler error:\s*(.*)", str(error))
        reason = (cause[1] if cause else str(error).strip().split("\n")[0])[:200]
        raise WeightsError(
            f"weights file '{path}' can't be read as a checkpoint ({type(error).__name__}: {reason})",
            valid="a .safetensors file, or a .pth, .pt, .bin or .ckpt file of torch.save",
            fix="If the file was downloaded, download it again; otherwise save model.state_dict() to a new one",
        ) from error


def has_tensors(value: object) -> bool:
    """Whether this is a dict with tensors among its values."""
    return isinstance(value, Mapping) and any(isinstance(inner, Tensor) for inner in value.values())


def _load(path: Path, safe: tuple[Any, ...]) -> Any:
    # torch warns of pickle formats that it may fail on; if it does fail, `read_file` reports it.
    with torch.serialization.safe_globals(list(safe)), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))


def _how_to_save(path: Path) -> str:
    """The two lines of Python that save the weights of a file with code in it."""
    target = f"{path.stem}-weights.pth"
    return (
        "If you trust the file, save its weights alone in Python, where its code can be imported:\n"
        f"  import torch; content = torch.load({str(path)!r}, map_location='cpu', weights_only=False)\n"
        f"  torch.save({_weights_in(path)}, {target!r})"
    )


def _weights_in(path: Path) -> str:
    """The Python expression for the state dict in a file's content. Every object in the file becomes a stand-in."""
    try:
        blocked = torch.serialization.get_unsafe_globals_in_checkpoint(path)
        content = _load(path, (*_STAND_INS, *((_Ignored, name) for name in blocked)))
    except Exception:  # torch refuses some modules altogether, and old formats aren't listed
        return "content.state_dict()"
    for key, value in content.items() if isinstance(content, Mapping) else ():
        if has_tensors(value) and "optim" not in str(key):
            return f"content[{key!r}]"
        if isinstance(value, _Ignored) and key in ("ema", "model", "net", "network", "module"):
            return f"content[{key!r}].state_dict()"
    return "content.state_dict()"


AVERAGED = ("state_dict_ema", "model_ema", "ema_state_dict", "ema_model", "ema")
"""Keys under which training scripts store averaged weights, which come first: published accuracies are theirs."""
RAW = ("state_dict", "model", "model_state_dict", "model_state", "net", "network", "module", "weights", "params")
"""Keys under which training scripts store the state dict."""
_WRAPPERS = AVERAGED + RAW


@dataclass(frozen=True)
class Checkpoint:
    """The content of a checkpoint that edgekit uses."""

    state: State
    """Tensors by name, in the file's dtypes."""
    class_names: tuple[StoredNames, ...]
    """Lists of class names in the file or folder."""
    description: Description
    """What the file or folder says about its network."""
    files: tuple[Path, ...]
    """The files with the tensors: several for a large model."""
    averaged: str | None = None
    """Key of the averaged weights if the file also has others, which are not used."""

    @property
    def sha256(self) -> str:
        """Hash of the files."""
        return files_sha256(self.files)


def files_sha256(files: Sequence[Path]) -> str:
    """Hash of one file, or of several together."""
    first, *others = map(file_sha256, files)
    return digest(first, *others) if others else first


def read_checkpoint(path: Path) -> State:
    """The tensors of a checkpoint file by name. Raises the errors of `open_checkpoint`."""
    return open_checkpoint(path).state


def open_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint file, or a folder that save_pretrained wrote. The tensors are mapped from it where possible.

    Reads `.safetensors` and files of torch.save (with weights_only=True, so that no code in them runs), plain or
    wrapped as training scripts do. Where a file has both averaged (EMA) and raw weights, the averaged ones are used.
    Raises WeightsError if the file can't be read, and ModelError for a folder with another configuration.
    """
    if (path / CONFIG).is_file():
        description, names = describe_folder(path)
        files = weight_files(path)
        state: State = {}
        for file in files:
            state |= _tensors(read_file(file)[0], file)
        return Checkpoint(state, names, description, files)
    if not path.is_file():
        problem = f"is a folder without {CONFIG}" if path.is_dir() else "doesn't exist"
        raise WeightsError(
            f"weights file '{path}' {problem}",
            valid="a checkpoint file, a folder that save_pretrained wrote, or `random`",
            fix="Correct the path after `--weights`",
        )
    whole, metadata = read_file(path)
    content, averaged = _unwrap(whole)
    state = _tensors(content, path)
    return Checkpoint(state, stored_names(metadata), describe(metadata, path.name), (path,), averaged)


def _tensors(content: object, path: Path) -> State:
    """The named tensors that a file contains. Raises WeightsError if it contains anything else."""
    if not isinstance(content, Mapping) or not has_tensors(content):
        kind = f"a dict with {some(list(content))}" if isinstance(content, Mapping) else f"a {type(content).__name__}"
        raise WeightsError(
            f"weights file '{path}' contains {kind} instead of named tensors", fix="Save model.state_dict() to the file"
        )
    others = [name for name, value in content.items() if not _is_plain(value)]
    if others:
        raise WeightsError(
            f"weights file '{path}' contains entries that aren't plain tensors: {some(others)}",
            fix="Save model.state_dict() alone to the file",
        )
    return with_versions({str(name): value for name, value in content.items()}, versions_of_modules(content))


def _unwrap(content: Any) -> tuple[Any, str | None]:
    """The innermost state dict, and the key of averaged weights if they were chosen over others."""
    averaged = None
    for _ in _WRAPPERS:  # bounded, because a dict in a file may contain itself
        if not isinstance(content, Mapping):
            break
        inner = [key for key in _WRAPPERS if _may_have_tensors(content.get(key))]
        if not inner:
            break
        if inner[0] in AVERAGED and any(key in RAW for key in inner):
            averaged = inner[0]
        content = content[inner[0]]
    return content, averaged


def _may_have_tensors(value: object) -> bool:
    """Whether a value is a state dict, or a dict that wraps one once more."""
    return has_tensors(value) or (isinstance(value, Mapping) and any(has_tensors(value.get(key)) for key in _WRAPPERS))


def _is_plain(value: object) -> bool:
    return isinstance(value, Tensor) and value.layout == torch.strided and not value.is_quantized
