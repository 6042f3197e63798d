"""Image classifiers of transformers, and its networks without a head, named `transformers:TYPE`: folders that it saved.

`identify` gives a folder such a name, and its config.json as the constructor arguments.
"""

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from edgekit.errors import ModelError, WeightsError
from edgekit.models.checkpoint import files_sha256, with_random_weights
from edgekit.models.description import CLASSIFIES, PREPROCESSOR, describe_folder, weight_files
from edgekit.models.network import LoadedModule, ModelSource, some
from edgekit.models.options import TRANSFORMERS, InferredNote, ModelOptions
from edgekit.models.transforms import InputOptions, processor_inputs, resolve_preprocessing
from edgekit.support.libraries import first_line, import_needed, quiet

# Its tensors are resized by torch, whose values are within two of 255 levels of Pillow's.
_TOLERANCE = 4 / 255


class ImageNetwork(nn.Module):
    """A network of transformers that returns its logits [N,classes] alone, or the pooled features [N,K] of images."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.takes_bgr = False
        self.pretrained_cfg: Any = _sized(model)

    def forward(self, images: Tensor) -> Tensor:
        output = self.model(pixel_values=images.flip(1) if self.takes_bgr else images)
        logits: Tensor | None = getattr(output, "logits", None)
        if logits is not None:
            return logits
        if getattr(output, "pooler_output", None) is None:
            raise ValueError(f"a {type(self.model).__name__} returns neither logits nor pooled features")
        features: Tensor = output.pooler_output.flatten(1)
        return features


class TransformersSource(ModelSource):
    """Source of transformers' image classifiers, and of its networks for images without a head."""

    name: ClassVar[str] = "transformers"

    def recognizes(self, options: ModelOptions) -> bool:
        return options.name.startswith(TRANSFORMERS)

    def load(self, options: ModelOptions, seed: int) -> LoadedModule:
        """Build a network in float32 on the CPU. `options.weights` is a folder that save_pretrained wrote, or "random".

        Raises ModelError for a configuration that transformers refuses, WeightsError if the weights aren't there or
        don't fit, and MissingExtraError.
        """
        if options.weights == "random":
            return with_random_weights(self.build_meta(options), options)
        folder = Path(options.weights or "")
        if not options.weights or not folder.is_dir():
            raise WeightsError(
                f"'{folder}' is no folder" if options.weights else f"'{options.name}' says nothing about weights",
                valid=f"for {options.name}, a folder that save_pretrained wrote",
                fix="Name the folder in place of the model",
            )
        module = _wrapped(_pretrained(_kind(options), folder, _config(options)), options)
        notes = take_preprocessing(module, folder)
        names = describe_folder(folder)[1]
        sha256 = files_sha256(weight_files(folder))
        return LoadedModule(module, str(folder), sha256, class_names=names, notes=notes)

    def build_meta(self, options: ModelOptions) -> nn.Module:
        kind, config = _kind(options), _config(options)
        try:
            with quiet():
                model = kind.from_config(config, dtype=torch.float32)
        except Exception as error:  # a configuration can make a constructor raise anything
            raise _refused(options, error) from error
        return _wrapped(model, options)


def _library() -> Any:
    return import_needed("transformers", "transformers")


def _classifies(options: ModelOptions) -> bool:
    """Whether the configuration is that of a classifier, and not of a network without a head."""
    names = options.model_args.get("architectures") or ()
    return not names or any(CLASSIFIES in name for name in names)


def _kind(options: ModelOptions) -> Any:
    """transformers' class that chooses the network of a configuration."""
    library = _library()
    return library.AutoModelForImageClassification if _classifies(options) else library.AutoModel


def _wrapped(model: Any, options: ModelOptions) -> ImageNetwork:
    """The network. Raises ModelError if it is none for images, such as a text encoder or a pair of towers."""
    if model.main_input_name != "pixel_values":
        raise _refused(
            options, ValueError(f"a {type(model).__name__} takes {model.main_input_name} and no images alone")
        )
    return ImageNetwork(model)


def _config(options: ModelOptions) -> Any:
    try:
        return _library().AutoConfig.for_model(options.name.removeprefix(TRANSFORMERS), **options.model_args)
    except Exception as error:  # as above
        raise _refused(options, error) from error


def _refused(options: ModelOptions, error: Exception) -> ModelError:
    return ModelError(
        f"transformers can't build '{options.name}' ({type(error).__name__}: {first_line(error)})",
        valid="the folder of a network for images that the installed version of transformers has",
        fix="Upgrade transformers, or deploy the model from your own code as module:factory",
    )


def _pretrained(kind: Any, folder: Path, config: Any) -> nn.Module:
    """The network with its weights. transformers makes up those that the folder lacks, which we refuse."""
    try:
        with quiet():
            model, info = kind.from_pretrained(
                folder, config=config, dtype=torch.float32, local_files_only=True, output_loading_info=True
            )
    except Exception as error:  # of its code, on any files
        raise WeightsError(
            f"transformers can't load '{folder}' ({type(error).__name__}: {first_line(error)})",
            fix="Save the model again with model.save_pretrained(FOLDER)",
        ) from error
    lacking = sorted(map(str, (*info["missing_keys"], *info["mismatched_keys"])))
    if lacking:
        raise WeightsError(
            f"'{folder}' lacks weights of the network, or has them in another shape: {some(lacking)}",
            fix="Name the folder of a fine-tuned classifier",
        )
    network: nn.Module = model
    return network


def _sized(model: Any) -> dict[str, Any]:
    size = getattr(model.config, "image_size", None) or 224
    height, width = size if isinstance(size, list | tuple) else (size, size)
    return {"input_size": (3, height, width)}


def take_preprocessing(module: ImageNetwork, folder: Path) -> tuple[InferredNote, ...]:
    """Store the preprocessing of the folder's image processor in the module, and compare it with what that computes.

    A repository of the hub whose files were downloaded before stands for its folder; OSError if there is none.
    """
    if folder.is_dir() and not (folder / PREPROCESSOR).is_file():
        return ()
    with quiet():
        processor = _library().AutoImageProcessor.from_pretrained(folder, local_files_only=True)
    config = processor.to_dict() | {"do_normalize": processor.do_normalize}  # the dict lacks what is None
    stated = processor_inputs(config).stated
    module.takes_bgr = stated.pop("takes_bgr", False)
    if "size" in stated:
        stated["input_size"] = (3, *stated.pop("size"))
    module.pretrained_cfg = {**_sized(module.model), **stated}
    preprocessing = resolve_preprocessing(module, InputOptions(), 3)
    coarse = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    photo = Image.fromarray(coarse).resize((400, 300), Image.Resampling.BICUBIC)
    ours = preprocessing(photo)
    try:
        own = np.asarray(processor(photo, return_tensors="np")["pixel_values"])[:, :: -1 if module.takes_bgr else 1]
    except Exception:  # of a processor whose settings contradict each other
        own = np.empty(0)
    scale = np.reshape(preprocessing.std, (1, -1, 1, 1))
    if own.shape == ours.shape and np.percentile(np.abs(own - ours) * scale, 99) <= _TOLERANCE:
        return ()
    return (
        InferredNote(
            f"the {type(processor).__name__} of '{folder.name}' prepares images in a way that edgekit can't repeat, so "
            "accuracies are not those of transformers. Check --imgsz, --mean, --std, --interpolation and --crop-pct",
            doubtful=True,
        ),
    )
