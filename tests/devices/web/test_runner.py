"""What a page is asked to run, and answers that are not what was asked for, from a stand-in for the server."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from edgekit.devices.web.browser import CHUNK_BYTES, Runner
from edgekit.devices.web.server import Build, Download, LogitsRequest, PageServer, Request
from edgekit.errors import EngineError
from edgekit.measure.settings import Timing
from edgekit.runtime.bundle import Bundle
from tests.helpers.tiny import CLASSES, tiny_manifest

FILE = Download("file", "0")
RAW = {"batches": [1], "hidden": False}


class Page:
    """A server whose page answers at once."""

    def __init__(self, answer: Callable[[Any], object]) -> None:
        self.answer, self.asked = answer, list[Any]()

    def offer(self, content: bytes) -> Download:
        return FILE

    def withdraw(self, offered: Download) -> None:
        pass

    def ask(self, request: Request, on_step: Callable[[int], None]) -> object:
        self.asked.append(request)
        return self.answer(request)


def runner(page: Page) -> Runner:
    return Runner(cast(PageServer, page), Build("a.js", FILE, 1), 0.1)


def bundle(side: int) -> Bundle:
    manifest = tiny_manifest("tflite", input_shape=(1, 3, side, side))
    return cast(Bundle, SimpleNamespace(manifest=manifest, path=Path("tflite-int8")))


def numbered(request: LogitsRequest) -> bytes:
    """Logits that are the number of each image."""
    count = request.images[0].count
    numbers = np.arange(request.before, request.before + count, dtype="<f4")
    return np.repeat(numbers, CLASSES).tobytes()


@pytest.mark.parametrize(("side", "count"), [(32, 682), (32, 64), (224, 30), (1024, 3), (32, 0)])
def test_requests_for_logits_are_small(side: int, count: int) -> None:
    page, steps = Page(numbered), list[int]()
    crops = (np.zeros((side, side, 3), np.uint8) for _ in range(count))
    logits = list(runner(page).logits(bundle(side), FILE, crops, steps.append))
    assert [float(row[0, 0]) for row in logits] == list(range(count))
    assert all(row.shape == (1, CLASSES) for row in logits)
    sizes = [request.images[0].count for request in page.asked]
    assert all(size <= 64 and (size == 1 or size * 3 * side**2 <= CHUNK_BYTES) for size in sizes)
    assert steps == list(np.cumsum(sizes))


@pytest.mark.parametrize("dtype", ["float32", "uint8"])
def test_a_page_normalizes_unless_the_model_takes_pixels(dtype: str) -> None:
    page, shapes = Page(numbered), {"float32": (3, 32, 32), "uint8": (32, 32, 3)}
    manifest = tiny_manifest("tflite", input_shape=(1, *shapes[dtype]), dtype=dtype)
    subject = cast(Bundle, SimpleNamespace(manifest=manifest, path=Path("tflite-int8")))
    list(runner(page).logits(subject, FILE, [np.zeros((32, 32, 3), np.uint8)]))
    (images,) = page.asked[0].images
    assert images.shape == shapes[dtype]
    assert [len(values) for values in images.table] == ([256] * 3 if dtype == "float32" else [])


@pytest.mark.parametrize("size", [None, 0, 4 * CLASSES - 1, 4 * CLASSES + 4, 8 * CLASSES])
def test_other_logits_than_asked_for_fail(size: int | None) -> None:
    page = Page(lambda request: {"load_ms": 1.0} if size is None else bytes(size))
    with pytest.raises(EngineError):
        list(runner(page).logits(bundle(32), FILE, [np.zeros((32, 32, 3), np.uint8)]))


@pytest.mark.parametrize(
    "answer",
    [
        b"bytes",
        RAW,
        RAW | {"times": [[1.0, None]]},
        RAW | {"times": [[1.0]]},
        RAW | {"times": [[1.0, 2.0], [1.0, 2.0]]},
        RAW | {"times": [[1.0, 2.0]], "batches": []},
    ],
)
def test_other_times_than_asked_for_fail(answer: object) -> None:
    def timed(answer: object) -> object:
        example = np.zeros((1, 32, 32, 3), np.uint8)
        timing = Timing(iterations=2)
        return runner(Page(lambda request: answer)).times([(bundle(32), FILE)], [example], timing, lambda done: None)

    assert timed(RAW | {"times": [[1.0, 2.0]]})
    with pytest.raises(EngineError):
        timed(answer)


def test_an_answer_to_opening_is_read_or_refused() -> None:
    assert runner(Page(lambda request: {"load_ms": 1.0, "first_ms": 2.0})).open(FILE).first_ms == 2.0
    for answer in ({}, {"load_ms": "soon", "first_ms": 2.0}, b"bytes"):
        with pytest.raises(EngineError, match="can't be read"):
            runner(Page(lambda request, answer=answer: answer)).open(FILE)  # type: ignore[misc]
