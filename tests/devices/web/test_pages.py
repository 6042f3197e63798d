"""Whom a page is served to, and what edgekit asks to open."""

import http.client
import socket
import ssl
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from edgekit.devices import web as module
from edgekit.devices.registry import Device, PageScheme
from edgekit.devices.web import Pages, invitation, serving
from edgekit.devices.web.server import PageServer
from edgekit.errors import BrowserError
from edgekit.support.progress import Reporter

ANOTHER_ADDRESS = "127.0.0.2"
"""Reaches this machine as a network does: what listens on 127.0.0.1 doesn't answer there."""


@pytest.mark.parametrize(
    ("network", "host", "reached"),
    [
        (None, "127.0.0.1", True),
        (None, ANOTHER_ADDRESS, False),
        ("http", ANOTHER_ADDRESS, True),
        ("https", ANOTHER_ADDRESS, True),
    ],
)
def test_only_with_web_network_does_the_network_reach_a_page(
    network: PageScheme | None, host: str, reached: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = Device.find("web", web_network=network)
    assert device is not None
    monkeypatch.setattr(module, "runtime_files", lambda package: tmp_path)
    monkeypatch.setattr(PageServer, "joined", nobody)
    reporter, said = Reporter(quiet=True), list[str]()
    monkeypatch.setattr(reporter, "prompt", said.append)
    with serving([device], reporter) as pages:
        assert isinstance(pages, Pages)
        with pytest.raises(BrowserError, match="nobody"):
            pages.browser(device, None)
        (server,) = pages._servers.values()
        path, port = server.path, server.port
        assert f"{network or 'http'}://127.0.0.1:{port}{path}" in said[0]
        assert ask(network == "https", host, port, path) == (200 if reached else None)


def nobody(server: PageServer) -> None:
    raise BrowserError("nobody came")


def ask(tls: bool, host: str, port: int, path: str) -> int | None:
    """The status of the page at a host, or None if nothing answers."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    connection = (
        http.client.HTTPSConnection(host, port, timeout=20, context=context)
        if tls
        else http.client.HTTPConnection(host, port, timeout=20)
    )
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    except ConnectionRefusedError:
        return None
    finally:
        connection.close()


def test_a_machine_in_several_networks_names_all_its_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    """The default route may be a tunnel's, which a phone doesn't reach."""
    own = [SimpleNamespace(family=socket.AF_INET, address=each) for each in ("127.0.0.1", "10.9.8.7", "192.168.7.5")]
    monkeypatch.setattr(psutil, "net_if_addrs", lambda: {"all": [*own, SimpleNamespace(family=-1, address="a MAC")]})
    assert module.own_addresses()[-2:] == ["10.9.8.7", "192.168.7.5"]


def test_the_invitation_says_how_to_open_the_page() -> None:
    here = invitation("web", "http://127.0.0.1:4321/token/")
    assert "http://127.0.0.1:4321/token/" in here
    assert "adb reverse tcp:4321 tcp:4321" in here
    assert "--web-network http" in here
    assert len(here.splitlines()) == 5, "no code to scan"
    assert "replace 192.0.2.7 with 10.0.0.3 or 10.0.0.4" in invitation(
        "web", "http://192.0.2.7:1/", ["10.0.0.3", "10.0.0.4"]
    )
    for scheme, warning in (("http", "read along"), ("https", "certificate")):
        there = invitation("web:pixel", f"{scheme}://192.0.2.7:4321/token/")
        assert f"  {scheme}://192.0.2.7:4321/token/\n" in there
        assert f"On this machine: {scheme}://127.0.0.1:4321/token/" in there
        assert warning in there
        assert "\u2580" in there, "a code to scan"
