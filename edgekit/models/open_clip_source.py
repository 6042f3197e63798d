"""Models named `open_clip:NAME`: an image tower with a classification head.

Without a trained head, the text tower builds one from the names of the classes.
"""

import difflib
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any, ClassVar, TypeAlias

import torch
from timm.models import PretrainedCfg
from torch import nn

from edgekit.compat.open_clip import build_vision_tower
from edgekit.errors import ModelError, UsageError, WeightsError
from edgekit.models.checkpoint import open_checkpoint
from edgekit.models.hub import fetch, hub_error
from edgekit.models.image_tower import ImageClassifier, deployable
from edgekit.models.inputs import size_of_model
from edgekit.models.labels import IMAGENET_CLASSES, resolve_labels
from edgekit.models.options import ModelOptions
from edgekit.models.random_weights import randomize
from edgekit.models.source import LoadedModule
from edgekit.models.state_dict import State, fit_weights, state_sha256
from edgekit.support.hashes import file_sha256
from edgekit.support.libraries import import_needed

PREFIX = "open_clip:"
COCA_2B = "coca_2b"
_FILE = "open_clip_pytorch_model.bin"
Config: TypeAlias = dict[str, Any]
"""A model's configuration, as in open_clip's JSON files."""


class OpenClipSource:
    """Source of open_clip's image towers with a classifier head, named `open_clip:MODEL` or `open_clip:MODEL.TAG`."""

    name: ClassVar[str] = "open_clip"

    def recognizes(self, name: str) -> bool:
        return name.startswith(PREFIX)

    def input_size(self, options: ModelOptions) -> tuple[int, int] | None:
        return size_of_model(options)

    def load(self, options: ModelOptions, seed: int) -> LoadedModule:
        """Build an image classifier in float32 on the CPU.

        `options.weights` is None for published weights, "random", or a file. For a checkpoint of both towers it builds
        a zero-shot head from the class names (`labels`, or ImageNet's); a checkpoint with `visual.*` and `head.*` has
        its own head. `model_args` may only contain `num_classes`. Raises ModelError, WeightsError, UsageError, HubError
        or MissingExtraError.
        """
        library = import_needed("open_clip", "open-clip")
        model, _, tag = options.name.removeprefix(PREFIX).partition(".")
        config = _config(library, options)
        if unknown := set(options.model_args) - {"num_classes"}:
            raise UsageError(
                f"--model-args sets {', '.join(sorted(unknown))}, which {PREFIX} models don't have", valid="num_classes"
            )
        classes = options.model_args.get("num_classes")
        if options.weights == "random":
            module = _untrained(library, config, classes or IMAGENET_CLASSES)
            randomize(module, _side(config))
            return _loaded(library, deployable(module), config, "random", None)
        published = _published(library, model, tag) if options.weights is None else None
        path = _download(published) if published is not None else Path(str(options.weights))
        checkpoint = open_checkpoint(path)
        state, names = checkpoint.state, checkpoint.class_names
        if any(key.startswith("head.") for key in state):
            module = _untrained(library, config, classes or _classes_of(state))
            fit_weights(module, state, path)
        else:
            # Such a head is built from the class names that it then has, so other names in the file don't matter.
            module, names = _zero_shot(library, model, config, state, path, options.labels, classes), ()
        weights = str(published.tag if published is not None else options.weights)
        return replace(_loaded(library, deployable(module), config, weights, path), class_names=names)

    def build_meta(self, options: ModelOptions) -> nn.Module:
        """Build the image tower and a head."""
        library = import_needed("open_clip", "open-clip")
        config = _config(library, options)
        classes = options.model_args.get("num_classes") or IMAGENET_CLASSES
        return _with_preprocessing(library, deployable(_untrained(library, config, classes)), config)


def _config(library: Any, options: ModelOptions) -> Config:
    """open_clip's configuration of a model, with the requested input size."""
    model, _, _ = options.name.removeprefix(PREFIX).partition(".")
    register_coca_2b(library)
    config: Config | None = library.get_model_config(model)
    if config is None:
        similar = difflib.get_close_matches(model, library.list_models(), n=4, cutoff=0.5)
        raise ModelError(
            f"unknown model '{PREFIX}{model}'",
            valid=f"names of open_clip's models, such as {', '.join(similar) or 'coca_ViT-B-32'}",
            fix=f"Correct the name after {PREFIX}",
        )
    if (size := size_of_model(options)) is not None:
        config["vision_cfg"]["image_size"] = size
    return config


def register_coca_2b(library: Any) -> None:
    """Tell open_clip, which has smaller versions, about `coca_2b`, the largest model of Yu et al., arXiv 2205.01917.

    Its image tower has the published width, layers, heads and patches. The paper doesn't state the heads of the
    poolers, of which there are as many as in the encoder. The weights are not public.
    """
    if COCA_2B not in library.list_models():
        library.add_model_config(files("edgekit") / "_assets" / f"{COCA_2B}.json")


def _side(config: Config) -> tuple[int, int]:
    size = config["vision_cfg"]["image_size"]
    return (size, size) if isinstance(size, int) else tuple(size)


def _untrained(library: Any, config: Config, classes: int) -> ImageClassifier:
    """The image tower alone and a head: a CoCa's other towers would need twice its memory."""
    if classes < 2:
        raise UsageError(f"--model-args sets num_classes={classes}", valid="a whole number from 2")
    visual = build_vision_tower(library, config)
    return ImageClassifier(visual, nn.Linear(config["embed_dim"], classes))


def _classes_of(state: State) -> int:
    return next((value.shape[0] for key, value in state.items() if key.endswith("head.weight")), IMAGENET_CLASSES)


@torch.no_grad()
def _zero_shot(
    library: Any,
    model: str,
    config: Config,
    state: State,
    path: Path,
    labels: Path | None,
    classes: int | None,
) -> ImageClassifier:
    """Build a head whose rows are the text tower's embeddings of the class names, times the learned scale."""
    if not any(key.startswith(("text.", "transformer.", "module.text.", "module.transformer.")) for key in state):
        raise WeightsError(
            f"weights '{path}' have neither a head (head.weight) nor a text tower to build one from",
            valid="a fine-tuned checkpoint with visual.* and head.*, or open_clip's own with both towers",
            fix="Choose such a checkpoint with `--weights FILE`",
        )
    names = resolve_labels(labels, classes or (_count_lines(labels) if labels else IMAGENET_CLASSES))
    if labels is None and len(names) != IMAGENET_CLASSES:
        raise UsageError(
            f"a zero-shot head is built from class names, but there are none for num_classes={classes}",
            fix="Name the classes with `--labels FILE`, one per line",
        )
    both = library.create_model(model, pretrained=None, load_weights=False, force_image_size=_side(config)).eval()
    fit_weights(both, state, path)
    templates = library.OPENAI_IMAGENET_TEMPLATES if labels is None else library.SIMPLE_IMAGENET_TEMPLATES
    rows = library.build_zero_shot_classifier(both, library.get_tokenizer(model), names, templates).T
    head = nn.Linear(rows.shape[1], rows.shape[0], bias=False)
    head.weight.copy_(rows * both.logit_scale.exp())
    return ImageClassifier(both.visual, head)


def _count_lines(labels: Path) -> int:
    try:
        return len(labels.read_text(encoding="utf-8-sig").rstrip().split("\n"))
    except (OSError, UnicodeDecodeError):
        return IMAGENET_CLASSES  # resolve_labels reports what is wrong with the file


def _loaded(library: Any, module: ImageClassifier, config: Config, weights: str, path: Path | None) -> LoadedModule:
    _with_preprocessing(library, module, config)
    return LoadedModule(module, weights, state_sha256(module) if path is None else file_sha256(path), None)


def _with_preprocessing(library: Any, module: ImageClassifier, config: Config) -> ImageClassifier:
    """Store the preprocessing in the module's attribute that timm's code, and so ours, reads."""
    pretrained_cfg: Any = {
        "input_size": (3, *_side(config)),
        "mean": library.OPENAI_DATASET_MEAN,
        "std": library.OPENAI_DATASET_STD,
        "interpolation": "bicubic",
        "crop_pct": 1.0,
    }
    module.pretrained_cfg = pretrained_cfg
    return module


def _published(library: Any, model: str, tag: str) -> PretrainedCfg:
    tags = library.list_pretrained_tags_by_model(model)
    if not tags or (tag and tag not in tags):
        weights = f"no weights '{tag}'" if tags else "no weights"
        raise WeightsError(
            f"open_clip publishes {weights} for '{PREFIX}{model}'",
            valid=", ".join(f"{PREFIX}{model}.{name}" for name in tags),
            fix="Pass a checkpoint with `--weights FILE`, or measure speed alone with `--weights random`",
        )
    entry = library.pretrained.get_pretrained_cfg(model, tag or tags[0])
    repository = (entry.get("hf_hub") or "").rstrip("/")
    return PretrainedCfg(
        architecture=f"{PREFIX}{model}", tag=tag or tags[0], url=entry.get("url") or "",
        hf_hub_id=repository or None, hf_hub_filename=_FILE,
    )  # fmt: skip


def _download(config: PretrainedCfg) -> Path:
    """Download the published file; return its path in the hub's cache."""
    from huggingface_hub import try_to_load_from_cache

    if not config.hf_hub_id:
        raise hub_error(config, OSError("open_clip publishes them at a plain URL only"))
    fetch(config)
    file = try_to_load_from_cache(config.hf_hub_id, _FILE)
    if not isinstance(file, str):
        raise hub_error(config, OSError(f"{_FILE} is not in the hub's cache after the download"))
    return Path(file)
