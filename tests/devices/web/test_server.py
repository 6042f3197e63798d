"""The server of a page, with clients that play the browser: requests, interruptions, refusals and the end."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import aiohttp.web
import pytest

from edgekit.devices.registry import Device
from edgekit.devices.web import server as module
from edgekit.devices.web.browser import Browser
from edgekit.devices.web.server import Build, Download, OpenRequest, PageServer, Shown
from edgekit.errors import BrowserError, EngineError, FrozenError
from edgekit.support.progress import Reporter
from tests.helpers.pages import FACTS

REQUEST = OpenRequest(build=Build("a.js", Download("a.wasm", "0"), 1), models=(Download("model", "1"),))
Page = aiohttp.ClientWebSocketResponse


@pytest.fixture
def server(tmp_path: Path) -> Iterator[PageServer]:
    (tmp_path / "litert.js").write_text("// a script")
    started = PageServer("web", tmp_path)
    try:
        yield started
    finally:
        started.close()


def address(server: PageServer) -> str:
    return f"http://127.0.0.1:{server.port}{server.path}"


@asynccontextmanager
async def opened(server: PageServer, browser: str = "phone", **changes: Any) -> AsyncIterator[Page]:
    """A page that has joined."""
    async with aiohttp.ClientSession() as session, session.ws_connect(f"{address(server)}socket") as page:
        await page.send_json({"browser": browser, "facts": FACTS | changes})
        yield page


async def received(page: Page, operation: str) -> dict[str, Any]:
    """The next message with this operation."""
    while True:
        message: dict[str, Any] = await page.receive_json(timeout=20)
        if message["operation"] == operation:
            return message


def play(server: PageServer, page: Callable[[], Coroutine[Any, Any, None]]) -> Any:
    """The answer to REQUEST while a coroutine plays the page."""
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(server.ask, REQUEST)
        asyncio.run(page())
        return asked.result(20)


def test_answers_are_json_or_binary(server: PageServer) -> None:
    async def json_page() -> None:
        async with opened(server) as page:
            request = await received(page, "open")
            assert request["models"] == [{"url": "model", "sha256": "1"}]
            await page.send_json({"id": request["id"] - 1, "result": {"of": "another request"}})
            await page.send_json({"id": request["id"], "done": 3})
            await page.send_json({"id": request["id"], "result": {"load_ms": 2.5}})

    async def binary_page() -> None:
        async with opened(server) as page:
            request = await received(page, "open")
            await page.send_bytes(request["id"].to_bytes(4, "little") + b"logits")

    assert play(server, json_page) == {"load_ms": 2.5}
    assert play(server, binary_page) == b"logits"


def test_a_browser_that_comes_back_gets_its_request_again(server: PageServer) -> None:
    async def page() -> None:
        async with opened(server) as before:
            first = await received(before, "open")
        async with opened(server) as after:
            again = await received(after, "open")
            assert again == first
            await after.send_json({"id": again["id"], "result": {}})

    assert play(server, page) == {}


def test_a_page_that_is_loaded_again_while_its_old_connection_ends(
    server: PageServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`close` of a connection that is closing already returns at once, before its handler has ended."""

    async def closing_already(socket: aiohttp.web.WebSocketResponse, **options: object) -> bool:
        return False

    async def page() -> None:
        async with opened(server) as before:
            first = await received(before, "open")
            with monkeypatch.context() as patched:
                patched.setattr(aiohttp.web.WebSocketResponse, "close", closing_already)
                async with opened(server) as after:
                    again = await received(after, "open")
                    assert again == first
                    await after.send_json({"id": again["id"], "result": {}})

    assert play(server, page) == {}


def test_a_browser_that_leaves(server: PageServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RETURN_S", 0.2)

    async def page_that_leaves() -> None:
        async with opened(server) as page:
            await received(page, "show")

    with ThreadPoolExecutor(1) as pool:
        joining = pool.submit(server.joined)
        asyncio.run(page_that_leaves())
        joining.result(20)
        with pytest.raises(BrowserError, match="left"):
            server.ask(REQUEST)


def test_an_error_in_the_page_costs_a_row(server: PageServer) -> None:
    async def page() -> None:
        async with opened(server) as joined:
            request = await received(joined, "open")
            await joined.send_json({"id": request["id"], "error": "files/1: the file was altered on its way here"})

    with pytest.raises(EngineError, match="altered"):
        play(server, page)


@pytest.mark.parametrize("text", ["", "no JSON", "[1]", '{"done": 1}', '{"id": 1, "done": "many"}'])
def test_a_message_that_cannot_be_read_fails_the_request_at_once(server: PageServer, text: str) -> None:
    async def page() -> None:
        async with opened(server) as joined:
            await received(joined, "open")
            await joined.send_str(text)
            await received(joined, "show")  # the connection is there still

    with ThreadPoolExecutor(1) as pool:
        playing = pool.submit(asyncio.run, page())
        with pytest.raises(EngineError, match="edgekit can't read"):
            server.ask(REQUEST)
        server.show(Shown(state="working", title="the next row"))
        playing.result(20)


def test_a_handler_that_fails_leaves_no_connection_behind(server: PageServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a browser that left: a request waits for it to come back, not for an answer."""
    monkeypatch.setattr(module, "RETURN_S", 0.2)
    monkeypatch.setattr(server, "_read", lambda text: 1 / 0)

    async def page() -> None:
        async with opened(server) as joined:
            await received(joined, "open")
            await joined.send_str("{}")

    with pytest.raises(BrowserError, match="left"):
        play(server, page)


def test_a_silent_browser(server: PageServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SILENCE_S", 0.2)

    async def page() -> None:
        async with opened(server) as joined:
            await received(joined, "open")
            await asyncio.sleep(0.5)

    with pytest.raises(FrozenError):
        play(server, page)


def test_no_browser_comes(server: PageServer) -> None:
    with pytest.raises(BrowserError, match="no browser opened the page"):
        server.joined(0.1)


def test_a_second_browser_is_refused(server: PageServer) -> None:
    async def pages() -> None:
        async with opened(server) as first, opened(server, "another phone") as second:
            refusal = await received(second, "end")
            assert refusal["state"] == "failed"
            assert "web:SECOND" in refusal["text"]
            assert (await second.receive()).type == aiohttp.WSMsgType.CLOSE
            await asyncio.to_thread(server.show, Shown(state="working", title="still here"))
            while (await received(first, "show"))["title"] != "still here":
                pass

    asyncio.run(pages())


def test_another_tab_of_the_same_browser_takes_the_place_of_one_that_was_closed(server: PageServer) -> None:
    async def pages() -> None:
        async with opened(server, "a tab") as before:
            first = await received(before, "open")
        async with opened(server, "the desktop's browser", cores=64) as other:
            assert (await received(other, "end"))["title"] == "Another browser was here first"
        async with opened(server, "another tab", clock_ms=0.2) as after:
            again = await received(after, "open")
            assert again == first
            await after.send_json({"id": again["id"], "result": {}})

    assert play(server, pages) == {}


def test_a_browser_without_simd_is_told_so(server: PageServer, tmp_path: Path) -> None:
    def measure() -> None:
        Browser(Device("web", "web"), server, tmp_path, 1, Reporter(quiet=True))

    async def page() -> None:
        async with opened(server, simd=False) as joined:
            while (shown := await received(joined, "show"))["state"] != "failed":
                pass
            assert "Firefox from 89" in shown["text"]

    with ThreadPoolExecutor(1) as pool:
        measuring = pool.submit(measure)
        asyncio.run(page())
        with pytest.raises(BrowserError, match="no WebAssembly SIMD"):
            measuring.result(20)


def test_the_end_fails_a_request_and_tells_the_page(server: PageServer) -> None:
    async def page() -> None:
        async with opened(server) as joined:
            await received(joined, "open")
            await asyncio.to_thread(server.close)
            assert (await received(joined, "end"))["title"] == "edgekit was stopped"

    with pytest.raises(BrowserError, match="stopped"):
        play(server, page)
    with pytest.raises(BrowserError, match="stopped"):
        server.show(Shown(state="working", title="too late"))


def test_only_the_page_with_its_token_and_the_offered_files_are_served(server: PageServer, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("not for the page")
    offered = server.offer(b"pixels")
    assert offered.sha256 == hashlib.sha256(b"pixels").hexdigest()

    async def statuses() -> dict[str, tuple[int, bytes]]:
        host = f"http://127.0.0.1:{server.port}"
        paths = {
            "page": server.path, "script": f"{server.path}page.js", "runtime": f"{server.path}runtime/litert.js",
            "file": f"{server.path}{offered.url}", "no file": f"{server.path}files/0", "root": "/", "no token": "/x/",
            "parent": f"{server.path}runtime/%2e%2e%2fsecret", "python": f"{server.path}server.py",
        }  # fmt: skip
        answers = {}
        async with aiohttp.ClientSession() as session:
            for name, path in paths.items():
                async with session.get(host + path) as answer:
                    answers[name] = (answer.status, await answer.read())
                    assert answer.headers["Cross-Origin-Embedder-Policy"] == "require-corp"
        return answers

    answers = asyncio.run(statuses())
    found = {name for name, (status, _) in answers.items() if status == 200}
    assert found == {"page", "script", "runtime", "file"}
    assert answers["file"][1] == b"pixels"
    assert b"measurement is over" in answers["no token"][1]
    server.withdraw(offered)
    assert asyncio.run(statuses())["file"][0] == 404
