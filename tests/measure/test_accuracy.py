"""Answers of models for images, and the signal-to-noise ratio of their outputs."""

import numpy as np
import pytest

from edgekit.errors import EngineError
from edgekit.images.dataset import LabelledImage
from edgekit.measure import accuracy
from edgekit.measure.accuracy import SnrMeter, evaluated_classes, predict, snr_db
from edgekit.measure.task import MOST_CLASSES, Outputs
from edgekit.measure.tasks import Embedding, SingleLabel
from edgekit.report.document import EvaluatedClass
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


def test_signal_to_noise_of_the_first_images_of_a_run() -> None:
    reference = np.array([[3, 4], [0, 5]], np.float32)
    meter = SnrMeter(reference)
    answers = iter([reference[:1], reference[1:] + 0.5, np.full((1, 2), 99, np.float32)])
    run = meter.watched(lambda _: next(answers))
    assert meter.db is None
    run(reference)
    assert meter.db is None, "the ratio of equal logits is infinite"
    run(reference)
    assert meter.db == pytest.approx(20)
    assert run(reference)[0, 0] == 99
    assert meter.db == pytest.approx(20), "torch's logits of the third image are unknown"


def test_without_a_reference_there_is_no_signal_to_noise() -> None:
    meter = SnrMeter(None)
    meter.watched(lambda image: image)(np.ones((1, 2), np.float32))
    assert meter.db is None


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
