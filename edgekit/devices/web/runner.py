"""Runs models on a page: the raw times and logits that it returns, which others judge."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import islice
from typing import TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgekit.devices.web import page_messages
from edgekit.devices.web.server import PageServer
from edgekit.errors import EngineError
from edgekit.measure.latency import LEAD_MS, LEAD_RUNS, TURN
from edgekit.measure.settings import Timing
from edgekit.runtime.bundle import Bundle

CHUNK_BYTES, CHUNK_IMAGES = 2 << 20, 64
"""Largest size and number of the images of one request, which a page that was loaded again starts anew."""
T = TypeVar("T")
OnStep = Callable[[int], None]
"""Gets the number of steps that are done."""


class Runner:
    """Asks a page to run models. Every method raises a StageError if that fails."""

    def __init__(self, server: PageServer, build: page_messages.Build, clock_ms: float) -> None:
        self._server, self._build, self._clock_ms = server, build, clock_ms

    def open(self, model: page_messages.Download) -> page_messages.Opened:
        """Load a model in a new worker, and run it once."""
        return self._ask(page_messages.OpenRequest(build=self._build, models=(model,)), page_messages.Opened)

    def logits(
        self,
        bundle: Bundle,
        model: page_messages.Download,
        crops: Iterable[NDArray[np.uint8]],
        on_step: OnStep = lambda done: None,
    ) -> Iterator[NDArray[np.float32]]:
        """Logits [1,classes] of each image [H,W,C]. `on_step` gets the number of images done."""
        remaining, before = iter(crops), 0
        count = min(CHUNK_IMAGES, max(1, CHUNK_BYTES // math.prod(bundle.manifest.input_shape)))
        while chunk := list(islice(remaining, count)):
            with self._offered(bundle, np.stack(chunk)) as images:
                request = page_messages.LogitsRequest(
                    build=self._build, models=(model,), images=(images,), before=before
                )
                answer = self._ask(request, bytes, on_step)
            values = len(chunk) * bundle.manifest.classes
            if len(answer) != 4 * values:
                raise EngineError(f"'{bundle.path.name}' returned {len(answer)} bytes for {values} logits")
            before += len(chunk)
            on_step(before)
            yield from np.frombuffer(answer, "<f4").astype(np.float32).reshape(len(chunk), 1, -1)

    def times(
        self,
        models: Sequence[tuple[Bundle, page_messages.Download]],
        examples: Sequence[NDArray[np.uint8]],
        timing: Timing,
        on_step: OnStep,
    ) -> page_messages.RawTimes:
        """Times of models in turns, each on its own example [1,H,W,C]. `on_step` gets the number of rounds done."""
        with ExitStack() as stack:
            images = [
                stack.enter_context(self._offered(bundle, example))
                for (bundle, _), example in zip(models, examples, strict=True)
            ]
            request = page_messages.TimesRequest(
                build=self._build,
                models=tuple(model for _, model in models),
                images=tuple(images),
                warmup=timing.warmup,
                rounds=timing.iterations,
                turn=TURN,
                lead_runs=LEAD_RUNS,
                lead_ms=LEAD_MS,
                clock_ms=self._clock_ms,
            )
            times = self._ask(request, page_messages.RawTimes, on_step)
        if list(map(len, (times.batches, *times.times))) != [len(models), *len(models) * [timing.iterations]]:
            raise EngineError(f"the page's times are not {timing.iterations} of each of {len(models)} bundles")
        return times

    def _ask(self, request: page_messages.Request, kind: type[T], on_step: OnStep = lambda done: None) -> T:
        """The page's answer, of this type."""
        answer = self._server.ask(request, on_step)
        try:
            return msgspec.convert(answer, kind)
        except msgspec.ValidationError as error:
            raise EngineError(f"the page's answer can't be read: {error}") from error

    @contextmanager
    def _offered(self, bundle: Bundle, pixels: NDArray[np.uint8]) -> Iterator[page_messages.Images]:
        """Offer images [N,H,W,C] to the page while the block runs."""
        preprocessing = bundle.manifest.preprocessing
        levels = np.repeat(np.arange(256, dtype=np.uint8)[:, None, None], preprocessing.channels, axis=2)
        table = preprocessing.normalize(levels)[0, :, :, 0]
        download = self._server.offer(pixels.tobytes())
        try:
            yield page_messages.Images(
                pixels=download,
                count=len(pixels),
                shape=bundle.manifest.input_shape[1:],
                table=tuple(map(tuple, table.tolist())),
            )
        finally:
            self._server.withdraw(download)
