"""Weights of networks: those of a checkpoint, seeded random ones that behave like trained ones, and downloads.

A checkpoint is a file or a saved folder; no code that its pickles may contain is run. A constructor initializes
parameters that a checkpoint then replaces. For a giant, that costs as much memory as its weights, and minutes. The
tensors of a large checkpoint therefore become its parameters, mapped from the file. Downloads go through the hub's
cache; an error explains how to get the files another way.
"""

import argparse
import re
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import safetensors
import safetensors.torch
import torch
from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import EntryNotFoundError
from timm.models import PretrainedCfg
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from edgekit.config import runtimes
from edgekit.errors import HubError, ModelError, WeightsError
from edgekit.images.preprocess import CHANNELS
from edgekit.models.description import (
    CONFIG,
    PREPROCESSOR,
    Description,
    StoredNames,
    describe,
    describe_folder,
    stored_names,
    weight_files,
)
from edgekit.models.network import (
    LoadedModule,
    OwnTensors,
    Rename,
    State,
    fit_weights,
    some,
    versions_of_modules,
    with_versions,
)
from edgekit.models.options import InferredNote, ModelOptions
from edgekit.models.transforms import resolve_size, size_of_model
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


def load_weights(build: Callable[[], nn.Module], weights: str, rename: Rename | None = None) -> LoadedModule:
    """Build a float32 module with the weights of a checkpoint file or saved folder.

    Raises the errors of `build`, `open_checkpoint` and `fit_weights`.
    """
    path = Path(weights)
    checkpoint = open_checkpoint(path)
    module, own = build_fitted(build, checkpoint.state, path, rename)
    file, notes = str(checkpoint.files[0]) if path.is_dir() else weights, _notes_on(own, checkpoint, path)
    return LoadedModule(module, file, checkpoint.sha256, class_names=checkpoint.class_names, notes=notes)


def build_fitted(
    build: Callable[[], nn.Module], state: State, path: Path, rename: Rename | None = None
) -> tuple[nn.Module, OwnTensors]:
    """Build a float32 module and load a checkpoint's tensors into it, as `fit_weights` does.

    With `sizes.BUILT_APART_FROM` parameters or more, the module gets the tensors themselves if they are float32. Raises
    the errors of `build` and of `fit_weights`.
    """
    if sum(value.numel() for value in state.values()) >= runtimes.BUILT_APART_FROM:
        with torch.random.fork_rng(devices=[]):
            fitted = _build_on_tensors(build, state, path, rename)
        if fitted is not None:
            return fitted
    module = build()
    return module, fit_weights(module, state, path, rename)


def _build_on_tensors(
    build: Callable[[], nn.Module], state: State, path: Path, rename: Rename | None
) -> tuple[nn.Module, OwnTensors] | None:
    """The module on the checkpoint's tensors; None if it also needs initial values, or if they don't fit."""
    try:
        with parameters_without_memory():
            module = build()
        if len(list(module.named_parameters(remove_duplicate=False))) > len(list(module.parameters())):
            return None  # layers share parameters, which separate tensors would not
        own = fit_weights(module, state, path, rename, assign=True)
    except Exception:  # code that reads values may raise anything; the other way reports what doesn't fit
        return None
    return None if any(part.is_meta for part in (*module.parameters(), *module.buffers())) else (module, own)


@contextmanager
def parameters_without_memory() -> Iterator[None]:
    """Move each parameter to the meta device when a module registers it. Buffers keep their values."""

    def on_meta(_: nn.Module, __: str, parameter: nn.Parameter | None) -> nn.Parameter | None:
        if parameter is None or parameter.is_meta:
            return None  # no change
        return nn.Parameter(parameter.to("meta"), parameter.requires_grad)

    hook = register_module_parameter_registration_hook(on_meta)  # type: ignore[arg-type]  # it may return a parameter
    try:
        yield
    finally:
        hook.remove()


def _notes_on(own: OwnTensors, checkpoint: Checkpoint, path: Path) -> tuple[InferredNote, ...]:
    """Sentences on averaged weights, on a classifier beside the network, and on tensors that don't belong to it."""
    notes = []
    if checkpoint.averaged:
        notes.append(InferredNote(f"weights: '{checkpoint.averaged}' in '{path.name}', the averaged (EMA) ones"))
    if own.head:
        notes.append(
            InferredNote(f"classifier: '{own.head}' in '{path.name}', which is taken as the network's last layer")
        )
    if own.others:
        unused = f"tensors of '{path.name}' outside the network are unused: {some(own.others)}"
        notes.append(
            InferredNote(f"{unused}. If your code computes with them, deploy it as module:factory", doubtful=True)
        )
    return tuple(notes)


BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
"""Layers whose running statistics are measured on random images."""


@torch.no_grad()
def randomize(module: nn.Module, size: tuple[int, int]) -> None:
    """Fill a module with random weights from torch's current seed, in place; `size` is (height, width) in pixels.

    The constructor's own initialization is meant for training and degenerate otherwise: GRN starts at zero, so it and
    its rewrites do nothing; a LayerNorm's affine is the identity; layer-scale starts at 1e-6, so that a block adds
    nothing; a BatchNorm's statistics come from no data. Such a network hides errors, because a compiler that drops a
    GRN gives the same numbers, and it is too easy to quantize. Where activations fade, all images give the same output,
    and comparing predictions shows nothing. We therefore make norms, GRN, layer-scale and biases random, scale dense
    weights so that the variance stays the same from layer to layer, and measure BatchNorm's statistics on random
    images, so that outputs vary between images. Accuracy remains meaningless. Raises ModelError if the network can't
    run at `size`.
    """
    for name, parameter in module.named_parameters():
        if parameter.ndim > 1:
            if name.endswith("weight"):
                nn.init.kaiming_normal_(parameter, nonlinearity="linear")
        elif name.endswith("bias"):
            nn.init.normal_(parameter, 0, 0.05)
        elif "grn" in name:
            nn.init.normal_(parameter, 0, 0.5)
        else:
            nn.init.uniform_(parameter, 0.5, 1.5)
    _measure_batch_norms(module, size)


def with_random_weights(module: nn.Module, options: ModelOptions) -> LoadedModule:
    """The module with random weights. Raises the errors of `randomize`."""
    randomize(module, resolve_size(module, size_of_model(options)))
    return LoadedModule.of(module, "random")


def check_classes(name: str, published: int, classes: int) -> None:
    """Raise WeightsError if a network has another number of classes than its published weights."""
    if classes != published:
        raise WeightsError(
            f"the published weights of '{name}' have {published} classes, but --model-args sets {classes}: an "
            "untrained head would be meaningless",
            fix="Pass a fine-tuned checkpoint with `--weights FILE`",
        )


def _measure_batch_norms(module: nn.Module, size: tuple[int, int]) -> None:
    """Set each BatchNorm's mean and variance to those of its inputs for random images."""
    norms = [norm for norm in module.modules() if isinstance(norm, BATCH_NORMS) and norm.track_running_stats]
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # for torch, None means a plain average over the batches
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # fixes the order of sums, so that every machine gets the same statistics
    module.train()
    params = sum(parameter.numel() for parameter in module.parameters())
    count = 8 if params <= runtimes.EIGHT_RANDOM_IMAGES_UP_TO else 2
    try:
        run_on_rgb_or_grey(module, lambda channels: random_images(count, size, channels))
    finally:
        torch.set_num_threads(threads)
    module.eval()
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


def random_images(count: int, size: tuple[int, int], channels: int = 3) -> Tensor:
    """Normalized float32 images [count,C,H,W] of soft blotches, a tint and some noise, from torch's current seed."""
    blotches = nn.functional.interpolate(torch.randn(count, channels, 6, 6), size=size, mode="bicubic")
    return blotches + 0.5 * torch.randn(count, channels, 1, 1) + 0.3 * torch.randn(count, channels, *size)


def run(module: nn.Module, images: Tensor) -> Any:
    """Return `module(images)`; any exception of its code becomes a ModelError with the images' shape."""
    try:
        return module(images)
    # A network may raise anything on an input size that it doesn't support.
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        raise ModelError(
            f"the model can't run on images {list(images.shape)} ({type(error).__name__}: {reason})",
            fix="Correct `--imgsz`, `--model-args` or its forward, which gets float32 on the CPU",
        ) from error


def run_on_rgb_or_grey(module: nn.Module, images: Callable[[int], Tensor]) -> tuple[int, Any]:
    """Run on `images(3)` or, if that fails, on `images(1)`; return the number of channels and the output.

    Raises the ModelError of the RGB images if both fail.
    """
    failure: ModelError | None = None
    for channels in CHANNELS:
        try:
            return channels, run(module, images(channels))
        except ModelError as error:
            failure = failure or error
    assert failure is not None
    raise failure


_FILES = ("model.safetensors", "pytorch_model.bin")
_TIMEOUT_S = 5.0


def fetch(config: PretrainedCfg, names: tuple[str, ...] = ()) -> Path | None:
    """Download a model's published weights into the hub's cache, unless they are there already; return the file.

    `names` are those that the file may have, by default the configuration's or timm's. Returns None if the weights are
    published at a plain URL, from which timm downloads them through torch.hub, which fails at once without a network.
    Raises HubError if the hub can't be reached or doesn't have the file.
    """
    if not config.hf_hub_id:
        return None
    names = names or ((config.hf_hub_filename,) if config.hf_hub_filename else _FILES)
    try:
        return _cached_or_downloaded(config.hf_hub_id, names)
    # The client's transport errors have no base class in common with the hub's, and come from another package in each
    # version.
    except Exception as error:
        raise hub_error(config, error) from error


def hub_error(config: PretrainedCfg, error: Exception) -> HubError:
    """The HubError for a failed download: the cause, the file to download elsewhere, and the option that reads it."""
    model = f"{config.architecture}.{config.tag}" if config.tag else str(config.architecture)
    if config.hf_hub_id:
        return download_error(
            model, f"{config.hf_hub_filename or _FILES[0]} of the hub repository {config.hf_hub_id}", error
        )
    return download_error(model, str(config.url), error)


def download_error(model: str, file: str, error: Exception) -> HubError:
    """The HubError for a failed download of a model's weights, which are in this file or at this address."""
    reason = str(error).strip().split("\n")[0][:200]
    return HubError(
        f"can't download the weights of {model} ({type(error).__name__}: {reason})",
        fix=f"Download {file} on a machine with a network, and deploy {model} with `--weights FILE`. To measure speed "
        "alone, use `--weights random`",
    )


def fetch_repository(repository: str, *, weights: bool) -> Path:
    """The folder with a saved model of the hub repository `USER/MODEL[@REVISION]`, which is downloaded if needed.

    It has the configuration and the preprocessing, and with `weights` the first of the files that the repository has.
    Raises HubError if the hub can't be reached or doesn't have the files.
    """
    for names in ((CONFIG,), _FILES) if weights else ((CONFIG,),):
        try:
            file = _cached_or_downloaded(repository, names)
        except Exception as error:  # as in `fetch`
            raise _repository_error(repository, names, error) from error
    with suppress(Exception):  # not every repository has it
        _cached_or_downloaded(repository, (PREPROCESSOR,))
    return file.parent


def _cached_or_downloaded(repository: str, names: Sequence[str]) -> Path:
    """The first of these files that a repository has. Raises anything if it can't be reached or has none.

    The file's metadata are requested first, because that request isn't retried: without a network the hub's download
    keeps trying for most of a minute, and timm then does so again for the other file name.
    """
    name, _, tag = repository.partition("@")
    revision = tag or None
    for file in names:
        if isinstance(cached := try_to_load_from_cache(name, file, revision=revision), str):
            return Path(cached)
    for file in names[:-1]:
        with suppress(EntryNotFoundError):
            return _downloaded(name, file, revision)
    return _downloaded(name, names[-1], revision)


def _downloaded(name: str, file: str, revision: str | None) -> Path:
    get_hf_file_metadata(hf_hub_url(name, file, revision=revision), timeout=_TIMEOUT_S)
    return Path(hf_hub_download(name, file, revision=revision))


def _repository_error(repository: str, files: Sequence[str], error: Exception) -> HubError:
    reason = str(error).strip().split("\n")[0][:200]
    return HubError(
        f"can't download {' or '.join(files)} of the hub repository {repository} ({type(error).__name__}: {reason})",
        valid="a repository USER/MODEL of timm's or transformers' models that this machine can reach",
        fix=f"Download {CONFIG}, {_FILES[0]} and, if it has one, {PREPROCESSOR} of {repository} into a folder on a "
        "machine with a network, and name the folder in place of the repository, or pass it with `--weights FOLDER`",
    )
