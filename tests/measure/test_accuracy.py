"""Answers of models for images, and the signal-to-noise ratio of their outputs."""

from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest

from edgekit.errors import EngineError
from edgekit.images.dataset import LabelledCrops, LabelledImage
from edgekit.measure import accuracy
from edgekit.measure.accuracy import EvaluationImages, evaluated_classes, predict, snr_db
from edgekit.measure.task import MOST_CLASSES, Outputs
from edgekit.measure.tasks import Embedding, SingleLabel
from edgekit.report.document import EvaluatedClass
from edgekit.runtime.bundle import Bundle
from tests.helpers.refusals import refuses


def test_the_answers_of_many_images_are_those_of_each(monkeypatch: pytest.MonkeyPatch) -> None:
    outputs = np.random.default_rng(0).normal(size=(7, 4)).astype(np.float32)
    whole = predict(Embedding(), lambda image: image, [row[None] for row in outputs])
    monkeypatch.setattr(accuracy, "BLOCK", 3)
    parts = predict(Embedding(), lambda image: image, [row[None] for row in outputs])
    assert isinstance(whole, Outputs)
    assert isinstance(parts, Outputs)
    assert np.array_equal(whole.values, parts.values)
    assert len(parts) == 7


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_predict_refuses_outputs_that_are_not_finite(value: float) -> None:
    images = [np.array([[0.0, x]], np.float32) for x in (1.0, value)]
    with refuses(EngineError, "image 1"):
        predict(SingleLabel(), lambda image: image, images)
    with refuses(EngineError, "'cat/2.png'"):
        predict(SingleLabel(), lambda image: image, images, ["cat/1.png", "cat/2.png"])


def test_signal_to_noise() -> None:
    logits = np.array([[3, 4], [0, 5]], np.float32)
    assert snr_db(logits, logits + np.float32(0.5) * np.array([[1, 1], [1, 1]], np.float32)) == pytest.approx(
        10 * np.log10(50 / 1)
    )
    assert snr_db(logits, logits * np.float32(1.1)) == pytest.approx(20, abs=1e-3)
    assert snr_db(logits, logits) == np.inf
    assert snr_db(np.zeros_like(logits), logits) == -np.inf


def ratio_of(outputs: list[list[float]], reference: np.ndarray | None) -> float | None:
    """The ratio in dB that a model with these outputs has for its images, of which torch's are known for the first."""
    task, count = SingleLabel(), len(outputs)
    crops = LabelledCrops(np.zeros((count, 1, 1, 3), np.uint8), np.zeros(count, np.int64))
    answers = task.kept(np.zeros((count, 2), np.float32))
    images = EvaluationImages(task, crops, answers, (), "", logits=reference)
    bundle = cast(Bundle, SimpleNamespace(manifest=SimpleNamespace(temperature=None)))
    rows = [np.array([row], np.float32) for row in outputs]
    ratio: float | None = images.judged(bundle, lambda row: row, rows)["snr_db"]
    return ratio


def test_signal_to_noise_of_the_first_images_of_a_run() -> None:
    reference = np.array([[3, 4], [0, 5]], np.float32)
    assert ratio_of([[3, 4], [0.5, 5.5], [99, 99]], reference) == pytest.approx(20), "the third's are unknown"
    assert ratio_of([[3, 4], [0, 5]], reference) is None, "the ratio of equal logits is infinite"
    assert ratio_of([[1, 1]], None) is None


def samples(labels: np.ndarray) -> list[LabelledImage]:
    return [LabelledImage(f"{index}.png", int(label), "") for index, label in enumerate(labels)]


def test_classes_are_counted_in_the_order_of_the_outputs() -> None:
    names = [f"class {index}" for index in range(8)]
    expected = (EvaluatedClass("class 2", 3), EvaluatedClass("class 4", 1), EvaluatedClass("class 7", 2))
    assert evaluated_classes(samples(np.array([7, 2, 7, 2, 2, 4])), names) == expected
    several = [LabelledImage("0.png", 4, "", (2, 4)), LabelledImage("1.png", 2, "", (2,))]
    assert evaluated_classes(several, names) == (EvaluatedClass("class 2", 2), EvaluatedClass("class 4", 1))


def test_classes_that_are_too_many_or_unknown_are_not_counted() -> None:
    for count, known in ((MOST_CLASSES, True), (MOST_CLASSES + 1, False)):
        assert (evaluated_classes(samples(np.arange(count)), [""] * count) is not None) == known
    assert evaluated_classes(samples(np.array([-1, -1])), {}) is None
