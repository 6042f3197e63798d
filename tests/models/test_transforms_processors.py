"""Preprocessing from the files of transformers' image processors, compared with what these processors compute."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edgekit.images.preprocess import Preprocessing
from edgekit.models.transforms import processor_inputs

PLAIN = {
    "do_resize": True,
    "do_normalize": True,
    "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225],
}
HALF = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}
# As the files of published models have them, with smaller sizes; those of old versions have one number as the size.
FILES: dict[str, dict[str, Any]] = {
    "vit": {"image_processor_type": "ViTImageProcessor", "size": 96, "resample": 2, **PLAIN, **HALF},
    "convnext": {
        "feature_extractor_type": "ConvNextFeatureExtractor",
        "size": 84,
        "crop_pct": 0.875,
        "resample": 3,
        **PLAIN,
    },
    "convnext-384": {
        "image_processor_type": "ConvNextImageProcessor",
        "size": 384,
        "crop_pct": 0.95,
        "resample": 3,
        **PLAIN,
    },
    "convnextv2": {
        "image_processor_type": "ConvNextImageProcessor",
        "size": {"shortest_edge": 84},
        "crop_pct": 0.875,
        "resample": 3,
        **PLAIN,
    },
    "deit": {
        "image_processor_type": "DeiTImageProcessor",
        "size": 128,
        "do_center_crop": True,
        "crop_size": 112,
        "resample": 3,
        **PLAIN,
    },
    "beit": {
        "image_processor_type": "BeitImageProcessor",
        "size": {"height": 128, "width": 128},
        "do_center_crop": True,
        "crop_size": {"height": 112, "width": 112},
        "resample": 2,
        **PLAIN,
        **HALF,
    },
    "bit": {
        "image_processor_type": "BitImageProcessor",
        "size": {"shortest_edge": 120},
        "do_center_crop": True,
        "crop_size": {"height": 96, "width": 96},
        "resample": 3,
        **PLAIN,
    },
    "poolformer": {
        "image_processor_type": "PoolFormerImageProcessor",
        "size": {"shortest_edge": 90},
        "crop_pct": 0.9,
        "do_center_crop": True,
        "crop_size": {"height": 90, "width": 90},
        "resample": 3,
        **PLAIN,
    },
    "levit": {
        "image_processor_type": "LevitImageProcessor",
        "size": {"shortest_edge": 84},
        "do_center_crop": True,
        "crop_size": {"height": 84, "width": 84},
        "resample": 3,
        **PLAIN,
    },
    "efficientnet": {
        "image_processor_type": "EfficientNetImageProcessor",
        "size": {"height": 96, "width": 96},
        "resample": 0,
        "include_top": True,
        **PLAIN,
        "image_std": [0.478, 0.473, 0.474],
    },
    "scaled": {
        "image_processor_type": "ViTImageProcessor",
        "size": 96,
        "resample": 2,
        "rescale_factor": 1 / 127.5,
        **PLAIN,
    },
    "not scaled": {"image_processor_type": "ViTImageProcessor", "size": 96, "resample": 2, "do_normalize": False},
}


@pytest.mark.parametrize("name", FILES)
def test_images_are_what_transformers_makes_of_them(name: str, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="needs transformers")
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(FILES[name]))
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path, local_files_only=True)
    blurred = np.random.default_rng(0).integers(0, 256, (40, 56, 3), dtype=np.uint8)
    photos = [Image.fromarray(blurred).resize(size, Image.Resampling.BICUBIC) for size in ((300, 200), (180, 260))]
    for config in (FILES[name], processor.to_dict()):
        inputs = processor_inputs(config)
        assert inputs.size is not None
        assert inputs.mean is not None
        assert inputs.std is not None
        preprocessing = Preprocessing(
            *inputs.size,
            str(inputs.interpolation),
            inputs.crop_pct or 0,
            str(inputs.crop_mode),
            inputs.mean,
            inputs.std,
        )
        for photo in photos:
            expected = processor(photo, return_tensors="np")["pixel_values"]
            assert preprocessing(photo).shape == expected.shape
            # transformers resizes tensors with torch, whose values differ by one or two of 255 from Pillow's.
            levels = np.abs(preprocessing(photo) - expected) * 255 * np.reshape(inputs.std, (3, 1, 1))
            assert np.percentile(levels, 99) <= 3


def test_what_a_file_does_not_say() -> None:
    inputs = processor_inputs({"do_resize": False})
    assert (inputs.size, inputs.mean, inputs.interpolation, inputs.crop_mode) == (None, None, None, None)
