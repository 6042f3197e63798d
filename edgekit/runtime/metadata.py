"""What a model file says about itself, to edgekit and to programs that have the file without its bundle."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edgekit import __version__
from edgekit.config.runtimes import Activation, InputDtype
from edgekit.images.preprocess import Preprocessing

RESIZES = {"center": "crop", "squash": "standard", "border": "fit_to_window_letterbox"}
"""ModelAPI's resizes, by edgekit's crop modes."""
FILTERS = {"nearest": "NEAREST", "bilinear": "LINEAR", "bicubic": "CUBIC"}
"""ModelAPI's filters, by Pillow's. It has no others."""


@dataclass(frozen=True, kw_only=True)
class Metadata:
    """The description of a network in its model file.

    Each format has places in which other programs look for class names and normalization. edgekit's own JSON has what
    these can't say.
    """

    target: str
    """Runtime that the file is for."""
    precision: str
    """Whether the network is quantized ("int8") or not ("float")."""
    scheme: str
    """`Manifest.scheme`."""
    preprocessing: Preprocessing
    """Resizing, cropping and normalization of images."""
    labels: tuple[str, ...] = ()
    """Names of the classes, in the order of the outputs."""
    input_dtype: InputDtype = "float32"
    """Type of the file's input: normalized images, or pixels."""
    activation: Activation = "softmax"
    """What turns the outputs into scores or a vector."""
    model: str | None = None
    """Name of the network."""
    version: str = __version__
    """Version of edgekit that made the file."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes; none if the outputs are a vector."""
        return self.labels if self.activation in ("softmax", "sigmoid") else ()

    @property
    def normalization(self) -> tuple[list[float], list[float]]:
        """Mean and standard deviation of each channel, in levels from 0 to 255. A file of pixels has 0 and 1."""
        preprocessing = self.preprocessing
        if self.input_dtype == "uint8":
            return [0.0] * preprocessing.channels, [1.0] * preprocessing.channels
        mean, std = ([round(255 * value, 6) for value in values] for values in (preprocessing.mean, preprocessing.std))
        return mean, std

    def own(self, **more: Any) -> str:
        """edgekit's JSON, in ASCII, with more entries."""
        values = {
            "edgekit": self.version,
            "target": self.target,
            "precision": self.precision,
            "scheme": self.scheme,
            "preprocessing": self.preprocessing.to_dict(),
            "dtype": self.input_dtype,
            "model": self.model,
        }
        return json.dumps(values | more)

    def model_info(self) -> Mapping[str, str]:
        """The entries by which OpenVINO's ModelAPI and DL Streamer configure themselves.

        Names of classes stand between spaces, so each space in a name becomes an underscore. DL Streamer converts its
        images to RGB; ModelAPI must be given RGB. The key by which it would convert them, reverse_input_channels, isn't
        there, because OpenVINO 2026.4 computes the IR of edgekit's demo as if it weren't.
        """
        preprocessing, (mean, std) = self.preprocessing, self.normalization
        info = {
            "mean_values": " ".join(map(str, mean)),
            "resize_type": RESIZES[preprocessing.crop_mode],
            "scale_values": " ".join(map(str, std)),
        }
        if preprocessing.interpolation in FILTERS:
            info["interpolation_mode"] = FILTERS[preprocessing.interpolation]
        if preprocessing.crop_mode == "border":
            info["pad_value"] = str(round(255 * sum(preprocessing.mean) / preprocessing.channels))
        if preprocessing.channels == 3:
            info["color_space"] = "RGB"
        if self.classes:
            info["labels"] = " ".join(re.sub(r"[\s\x00-\x1f]+", "_", name) for name in self.classes)
            info["model_type"] = "Classification"
            # By these, ModelAPI returns all scores, and DL Streamer takes the softmax of the outputs.
            info["multilabel" if self.activation == "sigmoid" else "output_raw_scores"] = "True"
        return dict(sorted(info.items()))
