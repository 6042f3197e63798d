"""The files that the server of a page serves: the page, LiteRT.js, and what edgekit offers for a request."""

import hashlib
from importlib.resources import files
from pathlib import Path

from aiohttp import web

from edgekit.devices.web.page_messages import Download
from edgekit.devices.web.runtime_package import RuntimeFiles

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
        application.router.add_get(f"{path}files/{{sha256}}", self._serve_offered)
        application.router.add_get(f"{path}runtime/{{name}}", self._serve_runtime)
        application.router.add_get(f"{path}{{name:[a-z0-9.]*}}", _serve_page)
        application.router.add_route("*", "/{other:.*}", _unknown_address)
        application.on_response_prepare.append(_add_headers)

    async def _serve_offered(self, request: web.Request) -> web.StreamResponse:
        content = self._offered.get(request.match_info["sha256"])
        if content is None:
            raise web.HTTPNotFound()
        return web.Response(body=content) if isinstance(content, bytes) else web.FileResponse(content)

    async def _serve_runtime(self, request: web.Request) -> web.StreamResponse:
        file = self._runtime.folder / request.match_info["name"]
        if file.parent != self._runtime.folder or not file.is_file():
            raise web.HTTPNotFound()
        return web.FileResponse(file)  # in gzip, whose file is next to it


async def _serve_page(request: web.Request) -> web.StreamResponse:
    page = files("edgekit.devices.web") / "page" / (request.match_info["name"] or "index.html")
    if not page.is_file():
        raise web.HTTPNotFound()
    return web.FileResponse(Path(str(page)))


async def _unknown_address(request: web.Request) -> web.StreamResponse:
    text = "This address is wrong, or its measurement is over. Open the address in edgekit's terminal again."
    raise web.HTTPNotFound(text=text)


async def _add_headers(request: web.Request, response: web.StreamResponse) -> None:
    response.headers.update(HEADERS)
