"""What the SDK returns: softmax scores, labels above their thresholds, or vectors, as the manifest says."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from threading import Event
from typing import Any, Protocol

import numpy as np
import pytest
from numpy.typing import NDArray

import edgekit
from edgekit.errors import BundleError, EngineError, ImageError, UsageError
from edgekit.runtime import LiveSession, Session
from edgekit.runtime.session import activated
from tests.helpers.refusals import refuses
from tests.helpers.tiny import CLASSES, MakeBundle, tiny_labels

IMAGE = np.random.default_rng(4).integers(0, 256, (40, 50, 3), np.uint8)
OUTPUTS = np.array([[-120.0, -1.0, 0.0, 3.0, 120.0], [0.0, 0.0, 0.0, 0.0, 0.0]], np.float32)


class OpenBundle(Protocol):
    def __call__(self, **manifest: Any) -> AbstractContextManager[Session | LiveSession]: ...


@pytest.fixture(params=[edgekit.load, edgekit.follow])
def opened(request: pytest.FixtureRequest, make_bundle: MakeBundle) -> OpenBundle:
    """Opens a bundle with this manifest, once with each of the two functions that open bundles."""

    @contextmanager
    def opening(**manifest: Any) -> Iterator[Session | LiveSession]:
        with request.param(make_bundle("onnx", **manifest), threads=1) as session:
            yield session

    return opening


def logits_of(session: Session | LiveSession) -> NDArray[np.float64]:
    current = session.current() if isinstance(session, LiveSession) else session
    outputs = current(current.preprocess(IMAGE))[0]
    return np.asarray(outputs, np.float64)


def test_the_activations_agree_with_torch() -> None:
    import torch

    logits = torch.from_numpy(OUTPUTS)
    with np.errstate(all="raise"):
        np.testing.assert_allclose(activated(OUTPUTS[:, 1:4], "softmax"), logits[:, 1:4].softmax(-1), rtol=1e-6)
    np.testing.assert_allclose(activated(OUTPUTS, "sigmoid"), logits.sigmoid(), rtol=1e-6, atol=1e-38)
    normalized = torch.nn.functional.normalize(logits, dim=-1)
    np.testing.assert_allclose(activated(OUTPUTS, "normalize"), normalized, rtol=1e-6)
    np.testing.assert_array_equal(activated(OUTPUTS, "none"), OUTPUTS)
    for activation in ("softmax", "sigmoid", "normalize", "none"):
        assert activated(OUTPUTS, activation).dtype == np.float32


def test_the_next_image_is_prepared_while_the_model_runs(opened: OpenBundle) -> None:
    images, taken = [np.full((40, 50, 3), level, np.uint8) for level in (0, 90, 200)], [Event() for _ in range(3)]

    def frames() -> Iterator[NDArray[np.uint8]]:
        for image, event in zip(images, taken, strict=True):
            event.set()
            yield image

    with opened() as session:
        with closing(session.classify_each(frames(), top=2)) as answers:
            first = next(answers)
            assert taken[1].wait(60), "the second is taken before its answer is wanted"
            assert not taken[2].is_set()
            rest = list(answers)
        assert [first, *rest] == [session.classify(image, top=2) for image in images]


def test_an_image_that_cannot_be_prepared_comes_after_the_answers_before_it(opened: OpenBundle) -> None:
    with opened() as session:
        answers = session.classify_each([IMAGE, "gone.jpg", IMAGE])
        assert next(answers) == session.classify(IMAGE)
        with refuses(ImageError, "gone.jpg"):
            next(answers)
        assert list(answers) == []
        with refuses(UsageError, "top is 0"):
            next(session.classify_each([IMAGE], top=0))


def test_several_labels_reach_their_thresholds(opened: OpenBundle) -> None:
    with opened(task="multi-label", activation="sigmoid") as session:
        probabilities = 1 / (1 + np.exp(-logits_of(session)))
        order = sorted(range(CLASSES), key=lambda index: -probabilities[index])
        expected: list[Any] = [(tiny_labels()[index], pytest.approx(probabilities[index], rel=1e-5)) for index in order]
        assert session.classify(IMAGE, threshold=0.0) == expected
        assert session.classify(IMAGE) == [
            each for each, index in zip(expected, order, strict=True) if probabilities[index] >= 0.5
        ]
        middle = float(probabilities[order[2]] + probabilities[order[3]]) / 2
        assert session.classify(IMAGE, threshold=middle) == expected[:3]
        assert session.classify(IMAGE, top=2, threshold=middle) == expected[:2]
        numpy_s: Any = np.float32(middle)
        assert session.classify(IMAGE, threshold=numpy_s) == expected[:3]
        assert session.classify(IMAGE, threshold=1) == []


def test_each_label_has_its_threshold(opened: OpenBundle) -> None:
    thresholds = tuple(0.0 if index in (3, 7) else 1.0 for index in range(CLASSES))
    with opened(task="multi-label", activation="sigmoid", thresholds=thresholds) as session:
        assert sorted(label for label, _ in session.classify(IMAGE)) == ["class 3", "class 7"]
        assert len(session.classify(IMAGE, threshold=0)) == CLASSES, "an argument replaces those of the manifest"


def test_a_threshold_leaves_out_what_a_classifier_is_not_sure_of(opened: OpenBundle) -> None:
    with opened() as session:
        everything = session.classify(IMAGE, top=99)
        assert session.classify(IMAGE) == everything[:5]
        assert session.classify(IMAGE, threshold=everything[1][1]) == everything[:2]
        assert session.classify(IMAGE, threshold=1.0) == []


@pytest.mark.parametrize("threshold", [-0.1, 1.1, float("nan"), "0.5", True])
def test_a_threshold_outside_0_to_1_is_refused(threshold: Any, opened: OpenBundle) -> None:
    for manifest in ({}, {"activation": "sigmoid"}):
        with opened(**manifest) as session, refuses(UsageError, f"threshold is {threshold!r}", "from 0 to 1"):
            session.classify(IMAGE, threshold=threshold)


def test_an_embedding_is_the_vector_and_has_length_1_if_the_manifest_says_so(opened: OpenBundle) -> None:
    with opened(task="embedding", activation="none") as session:
        outputs = logits_of(session)
        np.testing.assert_array_equal(session.embed(IMAGE), outputs)
    with opened(task="embedding", activation="normalize") as session:
        vector = session.embed(IMAGE)
    assert vector.dtype == np.float32
    assert vector.shape == (CLASSES,)
    np.testing.assert_allclose(vector, outputs / np.linalg.norm(outputs), rtol=1e-5)


def test_the_other_function_is_named(opened: OpenBundle) -> None:
    for activation in ("normalize", "none"):
        with opened(activation=activation) as session, refuses(UsageError, "vectors", "`embed`"):
            session.classify(IMAGE)
    for activation in ("softmax", "sigmoid"):
        with opened(activation=activation) as session, refuses(UsageError, "scores", "`classify`"):
            session.embed(IMAGE)


def test_outputs_that_are_not_finite_are_refused(opened: OpenBundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Session, "__call__", lambda *_: np.full((1, CLASSES), np.nan, np.float32))
    monkeypatch.setattr(Session, "verify", lambda _: None)
    for activation, method in (
        ("softmax", "classify"),
        ("sigmoid", "classify"),
        ("normalize", "embed"),
        ("none", "embed"),
    ):
        with opened(activation=activation) as session, refuses(BundleError, "NaN"):
            getattr(session, method)(IMAGE)


def test_a_closed_session_embeds_nothing(make_bundle: MakeBundle, tmp_path: Path) -> None:
    session = edgekit.load(make_bundle("onnx", activation="normalize"))
    session.close()
    with pytest.raises(EngineError):
        session.embed(IMAGE)
