"""Models named `open_clip:NAME`: an image tower with a classification head, or alone for embeddings.

Without a trained head, the text tower builds one from the names of the classes.
"""

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, TypeAlias
from unittest.mock import patch

import torch
from timm.models import PretrainedCfg
from torch import Tensor, nn
from torch.nn import functional as F

from edgekit.errors import HubError, ModelError, UsageError, WeightsError
from edgekit.models.checkpoint import fetch, hub_error, open_checkpoint, randomize
from edgekit.models.description import IMAGENET_CLASSES, read_labels, resolve_labels
from edgekit.models.network import LoadedModule, ModelSource, State, fit_weights
from edgekit.models.options import InferredNote, ModelOptions
from edgekit.models.transforms import size_of_model
from edgekit.support.files import file_sha256
from edgekit.support.libraries import first_line, import_needed

PREFIX = "open_clip:"
# Our crop modes for open_clip's ways to resize. No published weights have its third, "longest".
_CROP_MODES = {"shortest": "center", "squash": "squash"}
Config: TypeAlias = dict[str, Any]
"""A model's configuration, as in open_clip's JSON files."""


class Attention(nn.Module):
    """nn.MultiheadAttention built of Linear layers, so that the exporter and the recipes see each layer."""

    def __init__(self, attention: nn.MultiheadAttention) -> None:
        super().__init__()
        self.heads, width = attention.num_heads, attention.embed_dim
        packed = attention.in_proj_weight
        separate = (attention.q_proj_weight, attention.k_proj_weight, attention.v_proj_weight)
        weights = packed.chunk(3) if packed is not None else separate
        biases = attention.in_proj_bias.chunk(3)
        self.query, self.key, self.value = (_linear(weight, bias) for weight, bias in zip(weights, biases, strict=True))
        self.projection = _linear(attention.out_proj.weight, attention.out_proj.bias)
        self.width = width

    def forward(self, query: Tensor, key: Tensor, value: Tensor, **_: Any) -> tuple[Tensor, None]:
        """Attend from [N,L,C] to keys and values [N,S,K]; returns [N,L,C]. Image towers use no masks or weights."""
        mixed = F.scaled_dot_product_attention(
            self._split(self.query(query)), self._split(self.key(key)), self._split(self.value(value))
        )
        return self.projection(mixed.transpose(1, 2).flatten(2)), None

    def _split(self, x: Tensor) -> Tensor:
        return x.reshape(x.shape[0], x.shape[1], self.heads, self.width // self.heads).transpose(1, 2)


class ImageClassifier(nn.Module):
    """Logits [N,classes] = head(normalized features), which is what zero-shot heads and CLIP fine-tunes expect.

    Without a head, it returns the features [N,embed_dim] as they are.
    """

    def __init__(self, visual: nn.Module, head: nn.Linear | None) -> None:
        super().__init__()
        self.visual, self.head = visual, head

    def forward(self, images: Tensor) -> Tensor:
        output = self.visual(images)
        features: Tensor = output[0] if isinstance(output, tuple) else output
        if self.head is None:
            return features
        logits: Tensor = self.head(F.normalize(features, dim=-1))
        return logits


@torch.no_grad()
def deployable(module: ImageClassifier) -> ImageClassifier:
    """Use fewer operations for the same function: only the first of CoCa's 256 pooling queries reaches the logits."""
    # By name, because a list of the layers would keep the old ones: a fourth of CoCa's weights.
    for name in [name for name, layer in module.named_modules() if isinstance(layer, nn.MultiheadAttention)]:
        layer = module.get_submodule(name)
        assert isinstance(layer, nn.MultiheadAttention)
        module.set_submodule(name, Attention(layer))
    keep_first_query(module.visual)
    return module


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias is not None, device="meta")
    layer.weight = nn.Parameter(weight.detach().clone())
    if bias is not None:
        layer.bias = nn.Parameter(bias.detach().clone())
    return layer


class OpenClipSource(ModelSource):
    """Source of open_clip's image towers with a classifier head, named `open_clip:MODEL` or `open_clip:MODEL.TAG`."""

    name: ClassVar[str] = "open_clip"

    def recognizes(self, options: ModelOptions) -> bool:
        return options.name.startswith(PREFIX)

    def load(self, options: ModelOptions, seed: int) -> LoadedModule:
        """Build an image classifier in float32 on the CPU.

        `options.weights` is None for published weights, "random", or a file. For a checkpoint of both towers it builds
        a zero-shot head from the class names (`labels`, or ImageNet's); a checkpoint with `visual.*` and `head.*` has
        its own head. `model_args` may only contain `num_classes`; 0 leaves out the head. Raises ModelError,
        WeightsError, UsageError, HubError or MissingExtraError.
        """
        library = import_needed("open_clip", "open-clip")
        config = _config(library, options)
        if unknown := set(options.model_args) - {"num_classes"}:
            raise UsageError(
                f"--model-args sets {', '.join(sorted(unknown))}, which {PREFIX} models don't have", valid="num_classes"
            )
        classes = options.model_args.get("num_classes", 0 if options.headless else None)
        classifies = classes != 0
        if options.weights == "random":
            module = _untrained(library, config, IMAGENET_CLASSES if classes is None else classes)
            randomize(module, _side(config))
            module = _with_preprocessing(library, deployable(module), options, config)
            return LoadedModule.of(module, "random", has_classifier=classifies)
        tag = _tag(library, options)
        path = Path(options.weights) if options.weights else _download(library, options, tag)
        checkpoint = open_checkpoint(path)
        state, names = checkpoint.state, checkpoint.class_names
        if not classifies:
            module = _untrained(library, config, 0)
            fit_weights(module, state, path, lambda tensors, tower: _tower_alone(library, tensors, tower))
        elif any(key.startswith("head.") for key in state):
            rows = (value.shape[0] for key, value in state.items() if key.endswith("head.weight"))
            module = _untrained(library, config, classes or next(rows, IMAGENET_CLASSES))
            fit_weights(module, state, path)
        else:
            # Such a head is built from the class names that it then has, so other names in the file don't matter.
            module, names = _zero_shot(library, options, config, state, path), ()
        module = _with_preprocessing(library, deployable(module), options, config)
        notes = _note_on_tag(library, options)
        weights, sha256 = options.weights or tag, file_sha256(path)
        return LoadedModule(module, weights, sha256, class_names=names, notes=notes, has_classifier=classifies)

    def build_meta(self, options: ModelOptions) -> nn.Module:
        """Build the image tower, and its head if it has one."""
        library = import_needed("open_clip", "open-clip")
        config = _config(library, options)
        classes = options.model_args.get("num_classes", 0 if options.headless else IMAGENET_CLASSES)
        return _with_preprocessing(library, deployable(_untrained(library, config, classes)), options, config)


def _config(library: Any, options: ModelOptions) -> Config:
    """open_clip's configuration of a model, with the requested input size, and the activation of the weights."""
    model, named = _parse(options)
    config: Config | None = library.get_model_config(model)
    if config is None:
        similar = difflib.get_close_matches(model, library.list_models(), n=4, cutoff=0.5)
        raise ModelError(
            f"unknown model '{PREFIX}{model}'",
            valid=f"names of open_clip's models, such as {', '.join(similar) or 'coca_ViT-B-32'}",
            fix=f"Correct the name after {PREFIX}",
        )
    if named and not _entry(library, options):
        raise _unpublished(library, options)
    if (size := size_of_model(options)) is not None:
        config["vision_cfg"]["image_size"] = size
    # open_clip only warns of weights that were trained with another activation than the model's. From a file, it loads
    # them into the model as it is.
    if named or options.weights in (None, "random"):
        config["quick_gelu"] = bool(config.get("quick_gelu") or _entry(library, options).get("quick_gelu"))
    return config


def _parse(options: ModelOptions) -> tuple[str, str]:
    """The model and the tag of its weights, which may be empty."""
    model, _, tag = options.name.removeprefix(PREFIX).partition(".")
    return model, tag


def _tag(library: Any, options: ModelOptions) -> str:
    """The tag of the published weights, by default the first of the model's, or none."""
    model, tag = _parse(options)
    return tag or next(iter(library.list_pretrained_tags_by_model(model)), "")


def _entry(library: Any, options: ModelOptions) -> Config:
    """open_clip's entry of the published weights: where they are, their preprocessing and activation. May be empty."""
    entry: Config = library.pretrained.get_pretrained_cfg(_parse(options)[0], _tag(library, options))
    return entry


def _side(config: Config) -> tuple[int, int]:
    size = config["vision_cfg"]["image_size"]
    return (size, size) if isinstance(size, int) else tuple(size)


def _untrained(library: Any, config: Config, classes: int) -> ImageClassifier:
    """The image tower and a head, without other towers: those of a CoCa would need twice its memory."""
    if classes < 2 and classes != 0:
        raise UsageError(
            f"--model-args sets num_classes={classes}",
            valid="a whole number from 2, or 0 for embeddings without a head",
        )
    visual = build_vision_tower(library, config)
    return ImageClassifier(visual, nn.Linear(config["embed_dim"], classes) if classes else None)


def _tower_alone(library: Any, state: State, module: nn.Module) -> State:
    """The tensors of the image tower, as open_clip gives them to a model."""
    tower = {name: value for name, value in state.items() if name.startswith("visual.")}
    present = present_layout(library, tower or state, module)
    return {name: value for name, value in present.items() if name.startswith("visual.")}


@torch.no_grad()
def _zero_shot(library: Any, options: ModelOptions, config: Config, state: State, path: Path) -> ImageClassifier:
    """Build a head whose rows are the text tower's embeddings of the class names, times the learned scale."""
    labels, classes = options.labels, options.model_args.get("num_classes")
    if not any(key.startswith(("text.", "transformer.", "module.text.", "module.transformer.")) for key in state):
        raise WeightsError(
            f"weights '{path}' have neither a head (head.weight) nor a text tower to build one from",
            valid="a fine-tuned checkpoint with visual.* and head.*, or open_clip's own with both towers",
            fix="Choose such a checkpoint with `--weights FILE`, or deploy the tower alone with `--task embedding`",
        )
    names = resolve_labels(labels, classes or (len(read_labels(labels)) if labels else IMAGENET_CLASSES))
    if labels is None and len(names) != IMAGENET_CLASSES:
        raise UsageError(
            f"a zero-shot head is built from class names, but there are none for num_classes={classes}",
            fix="Name the classes with `--labels FILE`, one per line",
        )
    model, _ = _parse(options)
    try:
        both = library.create_model(
            model,
            pretrained_text=False,
            force_image_size=_side(config),
            force_quick_gelu=bool(config.get("quick_gelu")),
        ).eval()
        tokenizer = library.get_tokenizer(model)
    except OSError as error:  # of transformers, which has some text towers and tokenizers
        raise HubError(
            f"can't download the text tower's configuration or tokenizer of '{options.name}' ({first_line(error)})",
            fix="Deploy it once on a machine with a network, and copy the hub's cache",
        ) from error
    fit_weights(both, state, path, lambda tensors, module: present_layout(library, tensors, module))
    templates = library.OPENAI_IMAGENET_TEMPLATES if labels is None else library.SIMPLE_IMAGENET_TEMPLATES
    rows = library.build_zero_shot_classifier(both, tokenizer, names, templates).T
    head = nn.Linear(rows.shape[1], rows.shape[0], bias=False)
    head.weight.copy_(rows * both.logit_scale.exp())
    return ImageClassifier(both.visual, head)


def _with_preprocessing(
    library: Any, module: ImageClassifier, options: ModelOptions, config: Config
) -> ImageClassifier:
    """Store the preprocessing of the weights in the module's attribute that timm's code, and so ours, reads."""
    own = _preprocessing(library, _entry(library, options))
    pretrained_cfg: Any = {
        "input_size": (3, *_side(config)),
        "mean": own["mean"],
        "std": own["std"],
        "interpolation": own["interpolation"],
        "crop_pct": 1.0,
        "crop_mode": _CROP_MODES[own["resize_mode"]],
    }
    module.pretrained_cfg = pretrained_cfg
    return module


def _preprocessing(library: Any, entry: Config) -> Config:
    """open_clip's preprocessing for an entry of published weights, or its default for an empty one."""
    preprocessing: Config = library.transform.merge_preprocess_dict(library.transform.PreprocessCfg(), entry)
    return preprocessing


def _note_on_tag(library: Any, options: ModelOptions) -> tuple[InferredNote, ...]:
    """A warning about a file that may come from any of the model's published weights, if those aren't used alike."""
    model, named = _parse(options)
    tags = library.list_pretrained_tags_by_model(model)
    entries = [library.pretrained.get_pretrained_cfg(model, tag) for tag in tags]
    uses = {str((_preprocessing(library, entry), bool(entry.get("quick_gelu")))) for entry in entries}
    if named or not options.weights or len(uses) < 2:
        return ()
    return (
        InferredNote(
            f"'{Path(options.weights).name}' doesn't say which weights it was trained from: it gets the activation of "
            f"{model} and the preprocessing of the tag {tags[0]}, and other tags have others. Add the right tag to the "
            f"name, such as {PREFIX}{model}.{tags[-1]}",
            doubtful=True,
        ),
    )


def _unpublished(library: Any, options: ModelOptions) -> WeightsError:
    model, named = _parse(options)
    tags = library.list_pretrained_tags_by_model(model)
    weights = f"no weights '{named}'" if tags else "no weights"
    return WeightsError(
        f"open_clip publishes {weights} for '{PREFIX}{model}'",
        valid=", ".join(f"{PREFIX}{model}.{tag}" for tag in tags),
        fix="Pass a checkpoint with `--weights FILE`, or measure speed alone with `--weights random`",
    )


def _download(library: Any, options: ModelOptions, tag: str) -> Path:
    """Download the published file; return its path in the hub's cache. Raises WeightsError or HubError."""
    entry, model = _entry(library, options), f"{PREFIX}{_parse(options)[0]}"
    if not entry:
        raise _unpublished(library, options)
    repository, _, name = (entry.get("hf_hub") or "").rpartition("/")
    file = name or library.constants.HF_WEIGHTS_NAME
    safe = f"{Path(name).stem}.safetensors" if name else library.constants.HF_SAFE_WEIGHTS_NAME
    published = PretrainedCfg(
        architecture=model,
        tag=tag,
        url=entry.get("url") or "",
        hf_hub_id=repository or None,
        hf_hub_filename=file,
    )
    path = fetch(published, (safe, file))
    if path is None:
        raise hub_error(published, OSError("open_clip publishes them at a plain URL only"))
    return path


def build_vision_tower(library: Any, config: Mapping[str, Any]) -> nn.Module:
    """Build the untrained image tower of a model's configuration on torch's default device.

    Checked with open_clip_torch 3.3. `_build_vision_tower` is private. The public `create_model` builds all towers,
    which for a CoCa need twice the memory of the image tower.
    """
    tower: nn.Module = library.model._build_vision_tower(
        config["embed_dim"], dict(config["vision_cfg"]), bool(config.get("quick_gelu"))
    )
    return tower


def present_layout(library: Any, state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """A checkpoint's tensors as open_clip gives them to a model of both towers, or to one with the image tower `visual`
    alone: renamed, and resized to its image size.

    Checked with open_clip_torch 3.3, whose `load_checkpoint` reads a file and converts its tensors in one step.
    """
    converted: dict[str, Tensor] = {}

    is_alone = {name for name, _ in model.named_children()} <= {"visual", "head"}  # without what belongs to both towers

    class Receiver:
        def __getattr__(self, name: str) -> Any:
            return getattr(model, name, None) if is_alone else getattr(model, name)

        def load_state_dict(self, state: dict[str, Tensor], strict: bool) -> None:
            converted.update(state)

    with patch.object(library.factory, "load_state_dict", lambda *_, **__: state):
        library.load_checkpoint(Receiver(), "")
    return converted


@torch.no_grad()
def keep_first_query(visual: nn.Module) -> None:
    """Drop all pooling queries but the first, in place, if the others don't influence the logits.

    Checked with open_clip_torch 3.3. Its VisionTransformer has the attributes `attn_pool`, `attn_pool_contrastive`,
    `pool_type` and `query`. A CoCa pools with 256 queries, and a classifier uses only the first.
    """
    pool: Any = getattr(visual, "attn_pool", None)
    if pool is not None and visual.attn_pool_contrastive is None and visual.pool_type == "tok":
        pool.query = nn.Parameter(pool.query[:1].clone())
