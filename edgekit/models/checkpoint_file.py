"""Reads checkpoint files without running the code that pickles may contain."""

import argparse
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from edgekit.errors import WeightsError

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
