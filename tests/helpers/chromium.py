"""Chromium without a window: opens a page, and lets a test act in it."""

import asyncio
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import aiohttp

from tests.helpers.waiting import DEADLINE_S


@contextmanager
def browsing(chromium: str, url: str, folder: Path, *options: str) -> Iterator[None]:
    """Open a page in the browser while the block runs."""
    command = [
        chromium, "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync",
        "--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage",
        f"--user-data-dir={folder / 'profile'}", *options, url,
    ]  # fmt: skip
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            yield
        finally:
            process.terminate()


class Tab:
    """A page, through the browser's DevTools protocol."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket, self._sent = socket, 0

    async def call(self, method: str, **parameters: object) -> dict[str, Any]:
        """The result of a method of the protocol."""
        self._sent += 1
        await self._socket.send_json({"id": self._sent, "method": method, "params": parameters})
        while (answer := await self._socket.receive_json(timeout=DEADLINE_S)).get("id") != self._sent:
            pass  # an event
        assert "error" not in answer, answer
        result: dict[str, Any] = answer["result"]
        return result

    async def evaluate(self, expression: str) -> Any:
        """The value of an expression in JavaScript, which may be a promise."""
        answer = await self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    async def wait_for(self, condition: str) -> None:
        """Wait until an expression is true."""
        async with asyncio.timeout(DEADLINE_S):
            while not await self.evaluate(condition):
                await asyncio.sleep(0.05)

    async def choose(self, selector: str, *files: Path) -> None:
        """Choose files in an input."""
        root = (await self.call("DOM.getDocument"))["root"]["nodeId"]
        node = (await self.call("DOM.querySelector", nodeId=root, selector=selector))["nodeId"]
        await self.call("DOM.setFileInputFiles", nodeId=node, files=[str(file) for file in files])


@asynccontextmanager
async def opened_tab(chromium: str, url: str, folder: Path, *options: str) -> AsyncIterator[Tab]:
    """Open a page to act in while the block runs."""
    told = folder / "profile" / "DevToolsActivePort"
    with browsing(chromium, "about:blank", folder, "--remote-debugging-port=0", *options):
        async with aiohttp.ClientSession() as session, asyncio.timeout(DEADLINE_S):
            while not told.exists() or not (lines := told.read_text().split()):
                await asyncio.sleep(0.05)
            async with session.get(f"http://127.0.0.1:{lines[0]}/json") as answer:
                tabs = await answer.json()
            address = next(tab["webSocketDebuggerUrl"] for tab in tabs if tab["type"] == "page")
            async with session.ws_connect(address, max_msg_size=0) as socket:
                tab = Tab(socket)
                await tab.call("Page.navigate", url=url)
                await tab.wait_for("document.readyState === 'complete'")
                yield tab
