"""Serves edgekit's page to one browser, with the files that it needs, and runs models there.

The server runs in a separate thread and passes requests to the page. What a model returns there, raw times and logits,
others judge.
"""

import asyncio
import concurrent.futures
import hashlib
import math
import secrets
import threading
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from itertools import islice
from pathlib import Path
from ssl import SSLContext
from typing import Any, TypeVar

import msgspec
import numpy as np
from aiohttp import WSCloseCode, WSMsgType, web
from numpy.typing import NDArray

from edgekit.devices.web import page_messages
from edgekit.devices.web.page_messages import Download, Joined, PageAnswer, Request, RuntimeFiles, Shown
from edgekit.errors import BrowserError, EngineError, FrozenError
from edgekit.measure.latency import LEAD_MS, LEAD_RUNS, TURN
from edgekit.measure.settings import Timing
from edgekit.runtime.bundle import Bundle

PAGE = Path(__file__).with_name("page")
"""Folder of the page's files."""
JOIN_S = 15 * 60
"""Time within which a browser has to open the page."""
RETURN_S = 30
"""Time within which a browser whose connection was lost has to come back."""
SILENCE_S = 120
"""Time without an answer or progress after which a browser counts as frozen."""
HEARTBEAT_S = 30
SETTLE_S = 0.05
"""Time in which the loop closes aborted connections."""
T = TypeVar("T")
HEADERS = {
    # Both make the page "cross-origin isolated", which threads need.
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Content-Security-Policy": "default-src 'self'; script-src 'self' 'wasm-unsafe-eval'; img-src data:",
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class ServedFiles:
    """Files below the address of a page. `offer` may be called from any thread."""

    def __init__(self, runtime: RuntimeFiles) -> None:
        self._runtime = runtime
        self._offered: dict[str, bytes | Path] = {}

    def offer(self, content: bytes | Path) -> Download:
        """Serve a file until `withdraw`."""
        data = content if isinstance(content, bytes) else content.read_bytes()
        digest = hashlib.sha256(data).hexdigest()
        self._offered[digest] = content
        return Download(f"files/{digest}", digest)

    def withdraw(self, offered: Download) -> None:
        """Stop serving a file."""
        self._offered.pop(offered.sha256, None)

    def add_to(self, application: web.Application, path: str) -> None:
        """Serve the files below a path, and refuse every other address."""
        router = application.router
        router.add_get(f"{path}files/{{sha256}}", self._serve_offered)
        router.add_static(f"{path}runtime/", self._runtime.folder)  # in gzip, whose file is next to it
        router.add_get(path, _serve_index)
        router.add_static(path, PAGE)
        router.add_route("*", "/{other:.*}", _unknown_address)
        application.on_response_prepare.append(_add_headers)

    async def _serve_offered(self, request: web.Request) -> web.StreamResponse:
        content = self._offered.get(request.match_info["sha256"])
        if content is None:
            raise web.HTTPNotFound()
        return web.Response(body=content) if isinstance(content, bytes) else web.FileResponse(content)


class PageServer(ServedFiles):
    """A page for one browser, under an address that contains a random token. `close` ends it.

    It is served to this machine, or with the host 0.0.0.0 to the networks that the machine is in. Methods may be
    called from any thread, but only one request is in progress at a time.
    """

    def __init__(
        self, name: str, runtime: RuntimeFiles, host: str = "127.0.0.1", tls: SSLContext | None = None
    ) -> None:
        super().__init__(runtime)
        self.name = name
        self.path = f"/{secrets.token_urlsafe(16)}/"
        """Path of the page, which contains the token."""
        self._shown = Shown(state="waiting", title="Connected", text="edgekit is preparing the measurement.")
        self._socket: web.WebSocketResponse | None = None
        self._joined: Joined | None = None
        self._here, self._answers = asyncio.Event(), asyncio.Queue[PageAnswer | bytes | None]()
        self._asked, self._closing, self._starting = 0, False, threading.Lock()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, daemon=True, name=f"page of {name}")
        self._thread.start()
        self.port: int = self._wait(self._start(host, tls))
        """TCP port that the server listens on."""

    def joined(self, limit_s: float = JOIN_S) -> Joined:
        """Wait for a browser to open the page; BrowserError if none does within the time limit."""
        return self._wait(self._wait_for_browser(limit_s))

    def ask(self, request: Request, on_step: Callable[[int], None] = lambda done: None) -> dict[str, object] | bytes:
        """Send a request and wait for its answer. A browser that comes back after an interruption gets it again.

        Raises EngineError if the request fails, BrowserError if the browser leaves, and FrozenError if it falls silent.
        """
        return self._wait(self._ask(request, on_step))

    def show(self, shown: Shown) -> None:
        """Show a state on the page, also after it was loaded again."""
        self._wait(self._show(shown))

    def close(self) -> None:
        """End the server; the page keeps its result. A request in progress fails."""
        finished = self._shown.state in ("done", "failed")
        last = self._shown if finished else Shown(state="failed", title="edgekit was stopped")
        with self._starting:
            if self._closing:
                return
            stopped = asyncio.run_coroutine_threadsafe(self._stop(replace(last, operation="end")), self._loop)
            self._closing = True
        stopped.result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def _run(self) -> None:
        self._loop.run_forever()
        self._loop.close()

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        with self._starting:  # nothing may start after the loop's last work, because it would never end
            if self._closing:
                work.close()
                raise self._left("edgekit was stopped")
            future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except concurrent.futures.CancelledError:
            raise self._left("edgekit was stopped") from None
        except BaseException:
            future.cancel()
            raise

    async def _start(self, host: str, tls: SSLContext | None) -> int:
        application = web.Application()
        application.router.add_get(f"{self.path}socket", self._serve_socket)
        self.add_to(application, self.path)
        self._runner = web.AppRunner(application, access_log=None, handle_signals=False, shutdown_timeout=2)
        await self._runner.setup()
        site = web.TCPSite(self._runner, host, 0, ssl_context=tls)
        await site.start()
        port: int = self._runner.addresses[0][1]
        return port

    async def _stop(self, last: Shown) -> None:
        if self._socket is not None:
            await self._send(last)
            await self._socket.close(code=WSCloseCode.GOING_AWAY)
        server = self._runner.server
        transports = [each.transport for each in server.connections if each.transport] if server else []
        await self._runner.cleanup()
        for transport in transports:  # over TLS, they would wait for the browser's consent to the end
            transport.abort()
        await asyncio.sleep(SETTLE_S)
        for task in asyncio.all_tasks(self._loop) - {asyncio.current_task()}:
            task.cancel()

    async def _wait_for_browser(self, limit_s: float) -> Joined:
        try:
            async with asyncio.timeout(limit_s):
                await self._here.wait()
        except TimeoutError:
            if self._joined is not None:
                raise self._left("its tab was closed, or its connection was lost") from None
            raise BrowserError(
                f"{self.name}: no browser opened the page within {limit_s / 60:.0f} minutes",
                fix="Run the same command again. A phone without a cable needs `--web-network`, the same network as "
                "this machine, and a firewall that lets it in",
            ) from None
        assert self._joined is not None
        return self._joined

    async def _ask(self, request: Request, on_step: Callable[[int], None]) -> dict[str, object] | bytes:
        self._asked += 1
        while True:
            await self._wait_for_browser(RETURN_S)
            await self._send(request, id=self._asked)
            while (answer := await self._next_answer()) is not None:
                if isinstance(answer, bytes):
                    if int.from_bytes(answer[:4], "little") == self._asked:
                        return answer[4:]
                elif answer.id != self._asked:
                    continue  # of a request that was given up
                elif answer.error is not None:
                    raise EngineError(f"{self.name}: the page failed: {answer.error}")
                elif answer.result is not None:
                    return answer.result
                elif answer.done is not None:
                    on_step(answer.done)

    async def _next_answer(self) -> PageAnswer | bytes | None:
        """The next message of the browser; None if its connection was lost."""
        try:
            async with asyncio.timeout(SILENCE_S):
                return await self._answers.get()
        except TimeoutError:
            raise FrozenError(
                f"{self.name}: the page sent no message for {SILENCE_S} s",
                fix="Keep the page in front and the screen on, then run the same command again",
            ) from None

    async def _show(self, shown: Shown) -> None:
        self._shown = shown
        await self._send(shown)

    async def _send(self, message: Request | Shown, **more: object) -> None:
        if self._socket is not None and not self._socket.closed:
            with suppress(ConnectionError):  # which its handler notices, too
                await self._socket.send_str(msgspec.json.encode({**msgspec.to_builtins(message), **more}).decode())

    def _left(self, how: str) -> BrowserError:
        return BrowserError(f"{self.name}: the browser left: {how}", fix="Run the same command again")

    async def _serve_socket(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(heartbeat=HEARTBEAT_S, max_msg_size=256 << 20)
        await socket.prepare(request)
        try:
            joined = msgspec.json.decode(await socket.receive_str(timeout=HEARTBEAT_S), type=Joined)
        except (TypeError, ValueError, TimeoutError):
            return socket
        if self._joined is not None and not self._comes_back(joined, self._joined):
            refusal = Shown(
                operation="end",
                state="failed",
                title="Another browser was here first",
                text="Each address is for one browser. Start edgekit again for this one, or with "
                "`--device web:FIRST,web:SECOND` for both, which shows an address for each name.",
            )
            await socket.send_str(msgspec.json.encode(refusal).decode())
            await socket.close()
            return socket
        if self._socket is not None:  # the page was loaded again before its old connection ended
            await self._socket.close()
        self._socket, self._joined = socket, joined
        try:
            await self._send(self._shown)
            self._here.set()
            async for message in socket:
                if message.type == WSMsgType.BINARY:
                    self._answers.put_nowait(message.data)
                elif message.type == WSMsgType.TEXT:
                    self._answers.put_nowait(self._read(message.data))
        finally:
            if self._socket is socket:
                self._socket = None
                self._here.clear()
                self._answers.put_nowait(None)
        return socket

    def _comes_back(self, joined: Joined, before: Joined) -> bool:
        """Whether a page is that of the browser before, loaded again or, once that was closed, in another tab."""
        alike = msgspec.structs.replace(joined.facts, clock_ms=before.facts.clock_ms) == before.facts
        return joined.browser == before.browser or (self._socket is None and alike)

    def _read(self, text: str) -> PageAnswer:
        """An answer of the page. A message that can't be read fails the request in progress."""
        try:
            return msgspec.json.decode(text, type=PageAnswer)
        except msgspec.DecodeError as error:
            return PageAnswer(self._asked, error=f"it sent a message that edgekit can't read: {error}")


async def _serve_index(request: web.Request) -> web.StreamResponse:
    return web.FileResponse(PAGE / "index.html")


async def _unknown_address(request: web.Request) -> web.StreamResponse:
    text = "This address is wrong, or its measurement is over. Open the address in edgekit's terminal again."
    raise web.HTTPNotFound(text=text)


async def _add_headers(request: web.Request, response: web.StreamResponse) -> None:
    response.headers.update(HEADERS)


CHUNK_BYTES, CHUNK_IMAGES = 2 << 20, 64
"""Largest size and number of the images of one request, which a page that was loaded again starts anew."""
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
    def _offered(self, bundle: Bundle, pixels: NDArray[np.uint8]) -> Iterator[page_messages.PageImages]:
        """Offer images [N,H,W,C] to the page while the block runs."""
        manifest = bundle.manifest
        levels = np.repeat(np.arange(256, dtype=np.uint8)[:, None, None], manifest.preprocessing.channels, axis=2)
        table = manifest.preprocessing.normalize(levels)[0, :, :, 0] if manifest.dtype == "float32" else np.empty(0)
        download = self._server.offer(pixels.tobytes())
        try:
            yield page_messages.PageImages(
                pixels=download,
                count=len(pixels),
                shape=manifest.input_shape[1:],
                table=tuple(map(tuple, table.tolist())),
            )
        finally:
            self._server.withdraw(download)
