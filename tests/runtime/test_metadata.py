"""What model files say about themselves in the places where other programs look, and what these programs make of it."""

import json
import struct
from ctypes.util import find_library
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekit.images.preprocess import Preprocessing
from edgekit.runtime.bundle import read_bundle
from edgekit.runtime.metadata import Metadata
from edgekit.runtime.session import Session
from edgekit.runtime.tflite.metadata import standard
from tests.helpers.environments import find_python, new_environment, run
from tests.helpers.missing import missing
from tests.helpers.tiny import PREPROCESSING

MEAN, STD = (0.5, 0.25, 1.0), (0.25, 0.5, 1.0)
SHARED = {
    "mean_values": "127.5 63.75 255.0",
    "scale_values": "63.75 127.5 255.0",
    "color_space": "RGB",
}


def described(crop_mode: str = "center", **changes: Any) -> Metadata:
    """Metadata of a network of two classes for RGB images of 8 pixels."""
    values: dict[str, Any] = {
        "target": "openvino",
        "precision": "int8",
        "scheme": "static",
        "preprocessing": Preprocessing(8, 8, "bicubic", 0.9, crop_mode, MEAN, STD),
        "labels": ("great white shark", "tench"),
    }
    return Metadata(**values | changes)


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        (
            described(),
            SHARED
            | {"interpolation_mode": "CUBIC", "labels": "great_white_shark tench", "model_type": "Classification"}
            | {"output_raw_scores": "True", "resize_type": "crop"},
        ),
        (
            described("squash", activation="sigmoid"),
            SHARED
            | {"interpolation_mode": "CUBIC", "labels": "great_white_shark tench", "model_type": "Classification"}
            | {"multilabel": "True", "resize_type": "standard"},
        ),
        (
            described("border", activation="normalize"),
            SHARED | {"interpolation_mode": "CUBIC", "pad_value": "149", "resize_type": "fit_to_window_letterbox"},
        ),
        (
            described(preprocessing=Preprocessing(8, 8, "lanczos", 1.0, "center", (0.5,), (0.2,)), labels=("a\n\tb",)),
            {"mean_values": "127.5", "scale_values": "51.0", "resize_type": "crop", "labels": "a_b"}
            | {"model_type": "Classification", "output_raw_scores": "True"},
        ),
        (
            described("squash", input_dtype="uint8", activation="none"),
            {"mean_values": "0.0 0.0 0.0", "scale_values": "1.0 1.0 1.0", "color_space": "RGB"}
            | {"interpolation_mode": "CUBIC", "resize_type": "standard"},
        ),
    ],
    ids=["classes", "several labels", "vector", "grey", "pixels"],
)
def test_modelapi_is_told_what_it_has_words_for(metadata: Metadata, expected: dict[str, str]) -> None:
    assert metadata.model_info() == expected


def test_the_standard_metadata_has_one_value_where_all_channels_are_alike() -> None:
    """MediaPipe reads only one value."""
    common = described(preprocessing=PREPROCESSING)
    assert standard(common)[4:8] == b"M001"
    assert standard(common).count(struct.pack("<If", 1, 127.5)) == 2
    assert struct.pack("<I3f", 3, 127.5, 63.75, 255.0) in standard(described())


MODEL_API = """
import json, sys
import numpy as np
from model_api.models import Model

model = Model.create_model(sys.argv[1], device="CPU")
answers = [model(pixels) for pixels in np.load(sys.argv[2])]
print(json.dumps([[answer.top_labels[0].name, answer.raw_scores.tolist()] for answer in answers]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("target", ["openvino", "onnx"])
def test_modelapi_classifies_with_the_file_alone(target: str, finished_run: Path, tmp_path: Path) -> None:
    """Its scores are those of edgekit for images in the size of the input, of which nothing is resized."""
    bundle = read_bundle(finished_run / f"{target}-float")
    pixels = np.random.default_rng(0).integers(0, 256, (100, *bundle.manifest.preprocessing.crop_shape), np.uint8)
    np.save(tmp_path / "pixels.npy", pixels)
    python = new_environment(tmp_path / "env", "openvino-model-api==0.4.7", "onnx")
    done = run(python, "-I", "-c", MODEL_API, bundle.model_path, tmp_path / "pixels.npy", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    answers = json.loads(done.stdout.splitlines()[-1])
    with Session(bundle, 1) as session:
        logits = np.concatenate([session(bundle.manifest.input_of(image)) for image in pixels])
    scores = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    found = np.array([row for _, row in answers])
    assert [name for name, _ in answers] == [bundle.labels[place].replace(" ", "_") for place in found.argmax(1)]
    np.testing.assert_allclose(found, scores, atol=0.05)  # ModelAPI computes in bf16 where the processor has it


TASK_LIBRARY = """
import json, sys
from tflite_support import metadata

shown = metadata.MetadataDisplayer.with_model_file(sys.argv[1])
print(json.dumps([json.loads(shown.get_metadata_json()), shown.get_associated_file_buffer("labels.txt").decode()]))
"""


@pytest.mark.slow
def test_the_library_of_tflite_metadata_reads_ours(finished_run: Path, tmp_path: Path) -> None:
    if find_library("usb-1.0") is None:
        missing("tflite-support needs libusb: apt-get install libusb-1.0-0")
    bundle = read_bundle(finished_run / "tflite-int8")
    python = new_environment(tmp_path / "env", "tflite-support==0.4.4", python=find_python("3.11"))
    done = run(python, "-I", "-c", TASK_LIBRARY, bundle.model_path, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    document, labels = json.loads(done.stdout)
    assert labels.splitlines() == list(bundle.labels)
    (graph,) = document["subgraph_metadata"]
    ((image,), (logits,)) = graph["input_tensor_metadata"], graph["output_tensor_metadata"]
    assert image["content"]["content_properties"] == {"color_space": "RGB"}
    preprocessing = bundle.manifest.preprocessing
    options = image["process_units"][0]["options"]
    np.testing.assert_allclose(options["mean"], 255 * np.array(preprocessing.mean), rtol=1e-5)
    np.testing.assert_allclose(options["std"], 255 * np.array(preprocessing.std), rtol=1e-5)
    assert logits["associated_files"] == [{"name": "labels.txt", "type": "TENSOR_AXIS_LABELS"}]
