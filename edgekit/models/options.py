"""The options that choose a network and its preprocessing, and the text of `--model-args`."""

import ast
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from edgekit.errors import UsageError

if TYPE_CHECKING:
    from torch import nn

ModelArgs: TypeAlias = dict[str, Any]
"""Keyword arguments of a model's constructor, as parsed from `--model-args`: Python literals."""

ONNX_SUFFIX = ".onnx"
TORCHVISION = "torchvision:"
"""Prefix of the names of torchvision's models."""
TRANSFORMERS = "transformers:"
"""Prefix of the names of transformers' models."""
RESCALING = ("inception_v3", "googlenet")
"""torchvision's models that rescale their input if they are built with published weights."""
HUB_PREFIXES = ("hf_hub:", "hf-hub:")
"""Prefixes of the names of repositories on the Hugging Face hub, of which timm uses the first two."""
PREFIXES = ("open_clip:", TORCHVISION, TRANSFORMERS, *HUB_PREFIXES)
"""Prefixes of names that name no module of the user's."""
CHECKPOINT_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".tar")
"""Suffixes of checkpoint files, in lower case."""


@dataclass(frozen=True)
class InferredNote:
    """A sentence for the user about what was inferred from the files of a network."""

    text: str
    doubtful: bool = False
    """Whether it is a warning, which is also printed when quiet."""


@dataclass(frozen=True)
class ModelOptions:
    """Options that choose a network and its preprocessing; None keeps the model's own value.

    `name` is a timm name (`convnextv2_atto.fcmae_ft_in1k`), `torchvision:NAME`, `open_clip:NAME`, `hf_hub:USER/MODEL`,
    `module:factory`, which may begin with the module's folder, or the path of a `.onnx` file, of a checkpoint or of a
    folder that save_pretrained wrote.
    """

    name: str
    weights: str | None = None
    """Path of a checkpoint file or saved folder, "random" for seeded random weights (not for factories), or None for
    the source's own weights: timm's default tag for a name without one."""
    model_args: ModelArgs = field(default_factory=dict)
    imgsz: int | tuple[int, int] | None = None
    """Input size in pixels: one side of a square, or (height, width)."""
    mean: tuple[float, ...] | None = None
    """Means of red, green and blue, or of grey, in 0-1."""
    std: tuple[float, ...] | None = None
    """Standard deviations of red, green and blue, or of grey, in 0-1."""
    interpolation: str | None = None
    crop_pct: float | None = None
    crop_mode: str | None = None
    """One of `CROP_MODES`."""
    takes_bgr: bool | None = None
    """Whether a network of transformers in memory takes blue before green and red; its transform tells it."""
    trained_from_scratch: bool = False
    """Whether the weights of a file are known not to be derived from published ones, whose licence could apply."""
    headless: bool = False
    """Whether to leave out the classifier where the source can: timm's, torchvision's and open_clip's. `num_classes` in
    `model_args` comes first."""
    labels: Path | tuple[str, ...] | None = None
    """File with one class name per line, in the order of the logits, or the names themselves."""
    module: "nn.Module | None" = None
    """A network in memory, of which edgekit makes a copy; `name` then only names it."""
    transform: Any = None
    """The network's evaluation transform (of torchvision, timm or transformers), from which the preprocessing is taken
    where the other options leave it open."""
    notes: tuple[InferredNote, ...] | None = None
    """What `identify` inferred from the network's files; None for options that it has not completed yet."""

    @property
    def is_checkpoint(self) -> bool:
        """Whether the name is the path of a checkpoint file or of a folder with a saved model, which need not exist."""
        name, path = self.name.lower(), Path(self.name)
        if self.module is not None or ":" in name or name.endswith(ONNX_SUFFIX):
            return False
        return self.has_checkpoint_suffix or is_saved(path)

    @property
    def has_checkpoint_suffix(self) -> bool:
        """Whether the name ends like that of a file: `resnet18.pth` isn't the tag `pth` of timm's resnet18."""
        return self.name.lower().endswith(CHECKPOINT_SUFFIXES)

    @property
    def run_name(self) -> str:
        """The name for the run folder: without the suffix of a checkpoint file."""
        name = self.short_name
        return Path(name).stem if self.is_checkpoint and self.has_checkpoint_suffix else name

    @property
    def short_name(self) -> str:
        """The name without the folders of a file: reports are shared, and must not reveal them."""
        if self.is_checkpoint:
            return Path(self.name).resolve().name
        if folder := folder_of(self.name):
            return self.name.removeprefix(f"{folder}/")
        return Path(self.name).name if self.name.lower().endswith(ONNX_SUFFIX) else self.name


def folder_of(name: str) -> str:
    """The folder of a factory's module, as in code/my_models:build; empty for a name without one."""
    module, colon, _ = name.partition(":")
    return module.rpartition("/")[0] if colon else ""


def in_folder(folder: Path, text: str) -> str:
    """The path of a file or saved model in a folder, or of a factory whose module is there; another text as it is."""
    module, colon, _ = text.partition(":")
    top = folder / module.partition(".")[0]
    is_module = colon and not text.startswith(PREFIXES) and (top.with_suffix(".py").is_file() or top.is_dir())
    return str(folder / text) if is_module or is_saved(folder / text) else text


def is_saved(path: Path) -> bool:
    """Whether a path is that of a file, or of a folder with a model that save_pretrained wrote."""
    return path.is_file() or (path / "config.json").is_file()


_EXAMPLE = "num_classes=10,dims=(32,64,128,288),conv_mlp=False"


def parse_model_args(text: str) -> ModelArgs:
    """Parse `patch_size=2,dims=(32,64),conv_mlp=False`: each value is a Python literal, so strings need quotes.

    Empty text gives an empty dict. Raises UsageError for any other syntax, naming the key if there is one. Nothing is
    evaluated: the text is parsed as the keywords of a call, which splits at the commas outside brackets and quotes.
    """
    try:
        call = ast.parse(f"dict({text.strip()})", mode="eval").body
    # Besides SyntaxError, ast raises ValueError on a null byte and the others on thousands of nested brackets.
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise _not_arguments(text) from None
    # Text such as "a=1)(b=2" also parses, but into a call of a call.
    plain = isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and not call.args
    if not isinstance(call, ast.Call) or not plain:
        raise _not_arguments(text)
    values: ModelArgs = {}
    for keyword in call.keywords:
        if keyword.arg is None:
            raise _not_arguments(text)
        if keyword.arg in values:
            raise UsageError(f"--model-args sets '{keyword.arg}' twice", fix=f"Set '{keyword.arg}' once")
        values[keyword.arg] = _literal(keyword.arg, keyword.value)
    return values


def _literal(key: str, node: ast.expr) -> Any:
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, MemoryError, RecursionError):
        raise UsageError(
            f"--model-args sets '{key}' to {ast.unparse(node)}, which is not a literal",
            valid="a number, True, False, None, a string in quotes, or a tuple, list or dict of these",
            fix=f"Put a string in quotes, as in {key}='…'",
        ) from None


def _not_arguments(text: str) -> UsageError:
    return UsageError(
        f"--model-args is '{text[:100]}'", valid="KEY=VALUE,KEY=VALUE", fix=f"Write it like `--model-args {_EXAMPLE}`"
    )
