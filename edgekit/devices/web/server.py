"""The server of edgekit's page for one browser, with the files that it needs, and the messages between them.

The server runs in a separate thread and passes requests to the page. Messages are JSON: a request has an `operation`,
and an answer has its `id`.
"""

import asyncio
import concurrent.futures
import hashlib
import queue
import secrets
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from ssl import SSLContext
from typing import Any, Literal, TypeVar

import msgspec
from aiohttp import WSCloseCode, WSMsgType, web
from msgspec import Struct

from edgekit.errors import BrowserError, EngineError, FrozenError

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


@dataclass(frozen=True)
class Download:
    """A file for the page."""

    url: str
    """Address, relative to the page."""
    sha256: str
    """SHA-256 that the page checks."""


@dataclass(frozen=True)
class Build:
    """The build of LiteRT.js to run."""

    script: str
    """Address of its script, relative to the page."""
    wasm: Download
    """Its WebAssembly."""
    threads: int
    """Number of threads that it computes with."""


@dataclass(frozen=True, kw_only=True)
class OpenRequest:
    """Asks for the times to load a bundle and to run it once, in a new worker. The answer is `Opened`."""

    operation: Literal["open"] = "open"
    build: Build
    models: tuple[Download]


@dataclass(frozen=True, kw_only=True)
class PageImages:
    """Images for a model, and how to normalize them, unless it takes pixels."""

    pixels: Download
    """Bytes [count,H,W,C]."""
    count: int
    """Number of images."""
    shape: tuple[int, ...]
    """Shape of an image as the model's input: [C,H,W] if it is normalized, and [H,W,C] for pixels."""
    table: tuple[tuple[float, ...], ...]
    """For each channel, the normalized value of each of the 256 bytes, as float32; empty for pixels."""


@dataclass(frozen=True, kw_only=True)
class LogitsRequest:
    """Asks for the logits of a model. The answer is float32 [count,classes] in binary."""

    operation: Literal["logits"] = "logits"
    build: Build
    models: tuple[Download]
    images: tuple[PageImages]
    before: int
    """Number of images of earlier requests, which the page counts as done."""


@dataclass(frozen=True, kw_only=True)
class TimesRequest:
    """Asks to time models in turns, each on its first image. The answer is `RawTimes`."""

    operation: Literal["times"] = "times"
    build: Build
    models: tuple[Download, ...]
    images: tuple[PageImages, ...]
    """Images of each model."""
    warmup: int
    """Number of rounds before the timed ones."""
    rounds: int
    """Number of timed rounds."""
    turn: int
    """Number of timed rounds of a model in a row."""
    lead_runs: int
    """Most runs before them that aren't timed."""
    lead_ms: float
    """Milliseconds after which no other one of these runs begins."""
    clock_ms: float
    """Step of the clock: a timed batch takes 50 of them at least."""


@dataclass(frozen=True, kw_only=True)
class Shown:
    """What the page shows: while it waits or works, or (`end`) for good. There is no answer."""

    operation: Literal["show", "end"] = "show"
    state: Literal["waiting", "working", "done", "failed"]
    title: str
    text: str = ""
    done: int | None = None
    """Number of steps done, or None if they aren't counted."""
    total: int | None = None
    """Number of steps, or None if they aren't counted."""


Request = OpenRequest | LogitsRequest | TimesRequest


class DotProducts(Struct, frozen=True):
    """Results of relaxed SIMD's integer dot product for operands that tell its implementations apart."""

    small: tuple[int, int, int, int]
    """Sums of one -128 x 1 each."""
    large: tuple[int, int, int, int]
    """Sums of four -128 x -1 each."""


class PageFacts(Struct, frozen=True, kw_only=True):
    """What a page knows about its browser and processor; empty where the browser doesn't tell."""

    user_agent: str
    brands: tuple[tuple[str, str], ...]
    """Names and versions of the browser."""
    platform: str
    platform_version: str
    architecture: str
    model: str
    cores: int
    """Number of logical processors."""
    secure: bool
    """Whether the page came over HTTPS or from the same machine."""
    isolated: bool
    """Whether the page may use threads."""
    simd: bool
    """Whether the browser has WebAssembly SIMD."""
    dot_products: DotProducts | None
    """None if the browser has no relaxed SIMD."""
    clock_ms: float
    """Step of the page's clock, in milliseconds."""


class Joined(Struct, frozen=True):
    """A page's first message."""

    browser: str
    """Random name that a page keeps when it is loaded again."""
    facts: PageFacts


class Opened(Struct, frozen=True):
    """Times of a bundle in a new worker, in milliseconds."""

    load_ms: float
    first_ms: float


class RawTimes(Struct, frozen=True):
    """Times of several models in turns."""

    times: tuple[tuple[float, ...], ...]
    """Milliseconds of each model and round."""
    batches: tuple[int, ...]
    """Number of inferences whose mean is one time, for each model."""
    hidden: bool
    """Whether the page was hidden meanwhile."""


class PageAnswer(Struct, frozen=True):
    """An answer, or the number of steps done so far. Binary answers have no `result`."""

    id: int
    done: int | None = None
    result: dict[str, object] | None = None
    error: str | None = None


class PageServer:
    """A page for one browser, under an address that contains a random token. `close` ends it.

    It is served to this machine, or with the host 0.0.0.0 to the networks that the machine is in. Methods may be
    called from any thread, but only one request is in progress at a time. `runtime` is the folder of LiteRT.js.
    """

    def __init__(self, name: str, runtime: Path, host: str = "127.0.0.1", tls: SSLContext | None = None) -> None:
        self.name, self._folder = name, runtime
        self.path = f"/{secrets.token_urlsafe(16)}/"
        """Path of the page, which contains the token."""
        self._offered: dict[str, bytes | Path] = {}
        self._shown = Shown(state="waiting", title="Connected", text="edgekit is preparing the measurement.")
        self._socket: web.WebSocketResponse | None = None
        self._joined: Joined | None = None
        self._here, self._answers = threading.Event(), queue.Queue[PageAnswer | bytes | None]()
        self._asked, self._closing, self._starting = 0, False, threading.Lock()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, daemon=True, name=f"page of {name}")
        self._thread.start()
        self.port: int = self._wait(self._start(host, tls))
        """TCP port that the server listens on."""

    def offer(self, content: bytes | Path) -> Download:
        """Serve a file until `withdraw`."""
        data = content if isinstance(content, bytes) else content.read_bytes()
        digest = hashlib.sha256(data).hexdigest()
        self._offered[digest] = content
        return Download(f"files/{digest}", digest)

    def withdraw(self, offered: Download) -> None:
        """Stop serving a file."""
        self._offered.pop(offered.sha256, None)

    def joined(self, limit_s: float = JOIN_S) -> Joined:
        """Wait for a browser to open the page; BrowserError if none does within the time limit."""
        here = self._here.wait(limit_s)
        if self._closing:
            raise self._left("edgekit was stopped")
        if here and self._joined is not None:
            return self._joined
        if self._joined is not None:
            raise self._left("its tab was closed, or its connection was lost")
        raise BrowserError(
            f"{self.name}: no browser opened the page within {limit_s / 60:.0f} minutes",
            fix="Run the same command again. A phone without a cable needs `--web-network`, the same network as "
            "this machine, and a firewall that lets it in",
        )

    def ask(self, request: Request, on_step: Callable[[int], None] = lambda done: None) -> dict[str, object] | bytes:
        """Send a request and wait for its answer. A browser that comes back after an interruption gets it again.

        Raises EngineError if the request fails, BrowserError if the browser leaves, and FrozenError if it falls silent.
        """
        self._asked += 1
        while True:
            self.joined(RETURN_S)
            self._wait(self._send(request, id=self._asked))
            while (answer := self._next_answer()) is not None:
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

    def _next_answer(self) -> PageAnswer | bytes | None:
        """The next message of the browser; None if its connection was lost."""
        try:
            return self._answers.get(timeout=SILENCE_S)
        except queue.Empty:
            raise FrozenError(
                f"{self.name}: the page sent no message for {SILENCE_S} s",
                fix="Keep the page in front and the screen on, then run the same command again",
            ) from None

    def show(self, shown: Shown) -> None:
        """Show a state on the page, also after it was loaded again."""
        self._shown = shown
        self._wait(self._send(shown))

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
        self._here.set()
        self._answers.put(None)  # for who waits
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
        router = application.router
        router.add_get(f"{self.path}socket", self._serve_socket)
        router.add_get(f"{self.path}files/{{sha256}}", self._serve_offered)
        router.add_static(f"{self.path}runtime/", self._folder)  # in gzip, whose file is next to it
        router.add_get(self.path, _serve_index)
        router.add_static(self.path, PAGE)
        router.add_route("*", "/{other:.*}", _unknown_address)
        application.on_response_prepare.append(_add_headers)
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

    async def _send(self, message: Request | Shown, **more: object) -> None:
        if self._socket is not None and not self._socket.closed:
            with suppress(ConnectionError):  # which its handler notices, too
                await self._socket.send_str(msgspec.json.encode({**msgspec.to_builtins(message), **more}).decode())

    def _left(self, how: str) -> BrowserError:
        return BrowserError(f"{self.name}: the browser left: {how}", fix="Run the same command again")

    async def _serve_offered(self, request: web.Request) -> web.StreamResponse:
        content = self._offered.get(request.match_info["sha256"])
        if content is None:
            raise web.HTTPNotFound()
        return web.Response(body=content) if isinstance(content, bytes) else web.FileResponse(content)

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
        if (before := self._socket) is not None:  # the page was loaded again before its old connection ended
            await before.close()
            self._lost(before)
        self._socket, self._joined = socket, joined
        try:
            await self._send(self._shown)
            self._here.set()
            async for message in socket:
                if message.type == WSMsgType.BINARY:
                    self._answers.put(message.data)
                elif message.type == WSMsgType.TEXT:
                    self._answers.put(self._read(message.data))
        finally:
            self._lost(socket)
        return socket

    def _lost(self, socket: web.WebSocketResponse) -> None:
        """Have a request that went through this connection wait for the browser to come back."""
        if self._socket is socket:
            self._socket = None
            self._here.clear()
            self._answers.put(None)

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
