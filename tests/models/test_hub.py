"""Published weights, downloaded by timm from a small hub on loopback."""

import hashlib
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
import safetensors.torch
import timm
import torch

from edgekit.errors import HubError, WeightsError
from edgekit.models.loading import load_network
from edgekit.models.options import ModelOptions
from tests.helpers.refusals import refuses

REPOSITORY = "timm/convnextv2_atto.fcmae_ft_in1k"
SMALL: dict[str, Any] = {
    "dims": (8, 16, 24, 32),
    "depths": (1, 1, 1, 1),
}  # the published model, small so that tests are fast


class Hub(BaseHTTPRequestHandler):
    """Serves `files` as a hub does: with a commit, an ETag and the bytes."""

    files: dict[str, bytes]
    requests: list[str]

    def do_HEAD(self) -> None:
        self.respond(with_body=False)

    def do_GET(self) -> None:
        self.respond(with_body=True)

    def respond(self, *, with_body: bool) -> None:
        if "/resolve/" in self.path:  # the client also makes requests of its own
            self.requests.append(f"{self.command} {self.path}")
        body = self.files.get(self.path)
        self.send_response(404 if body is None else 200)
        self.send_header("X-Repo-Commit", "0" * 40)
        if body is None:
            self.send_header("X-Error-Code", "EntryNotFound")
            body = b""
        else:
            self.send_header("ETag", f'"{hashlib.sha256(body).hexdigest()}"')
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if with_body:
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing."""


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, while no server listens at the hub's address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}"
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    set_address(monkeypatch, address)
    return tmp_path


@pytest.fixture
def hub(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Hub]]:
    """A hub without files."""
    handler = type("EmptyHub", (Hub,), {"files": {}, "requests": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    set_address(monkeypatch, f"http://127.0.0.1:{server.server_port}")
    yield handler
    server.shutdown()
    server.server_close()
    thread.join()


def set_address(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    template = address + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", address)
    monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)


def unknown_name(*args: object, **options: object) -> None:
    raise socket.gaierror(-2, "Name or service not known")


def published(seed: int) -> tuple[dict[str, torch.Tensor], bytes]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        state = timm.create_model("convnextv2_atto", **SMALL).state_dict()
    return state, safetensors.torch.save(state)


def test_published_weights_are_downloaded_once_and_then_work_without_the_hub(
    hub: type[Hub], monkeypatch: pytest.MonkeyPatch
) -> None:
    state, data = published(seed=3)
    hub.files[f"/{REPOSITORY}/resolve/main/model.safetensors"] = data
    network = load_network(ModelOptions("convnextv2_atto", model_args=SMALL, imgsz=32))
    assert network.weights == "fcmae_ft_in1k"
    assert "cc-by-nc-4.0, which forbids commercial use" in str(network.license_note)
    assert all(torch.equal(value, state[name]) for name, value in network.module.state_dict().items())
    assert network.labels[0] == "tench"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        set_address(monkeypatch, f"http://127.0.0.1:{free.getsockname()[1]}")
    again = load_network(ModelOptions("convnextv2_atto.fcmae_ft_in1k", model_args=SMALL, imgsz=32))
    assert again.weights_sha256 == network.weights_sha256
    assert [request.split()[0] for request in hub.requests].count("GET") == 1


def test_published_weights_that_model_args_do_not_fit(hub: type[Hub]) -> None:
    hub.files[f"/{REPOSITORY}/resolve/main/model.safetensors"] = published(seed=0)[1]
    with refuses(WeightsError, "'convnextv2_atto'", "patch_size"):
        load_network(ModelOptions("convnextv2_atto", model_args={**SMALL, "patch_size": 2}, imgsz=32))


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize("name_resolves", [True, False])
def test_an_unreachable_hub_fails_at_once_with_the_file_and_the_option(
    name_resolves: bool, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def sleep(_: float) -> None:
        pytest.fail("the request is tried again")

    monkeypatch.setattr(time, "sleep", sleep)
    if not name_resolves:
        set_address(monkeypatch, "http://hub.invalid")
        monkeypatch.setattr(socket, "getaddrinfo", unknown_name)
    with pytest.raises(HubError) as caught:
        load_network(ModelOptions("convnextv2_atto"))
    assert "ConnectError" in caught.value.problem
    assert f"model.safetensors of the hub repository {REPOSITORY}" in caught.value.fix
    assert "`--weights FILE`" in caught.value.fix
    assert "Retry" not in capfd.readouterr().err


def test_a_hub_without_the_file_is_asked_for_the_other_name_too(hub: type[Hub]) -> None:
    with refuses(HubError, REPOSITORY):
        load_network(ModelOptions("convnextv2_atto"))
    assert [request.rsplit("/", 1)[1] for request in hub.requests] == ["model.safetensors", "pytorch_model.bin"]


def test_published_weights_with_nan_are_refused(hub: type[Hub]) -> None:
    state, _ = published(seed=0)
    state["head.fc.bias"][3] = float("nan")
    hub.files[f"/{REPOSITORY}/resolve/main/model.safetensors"] = safetensors.torch.save(state)
    with refuses(WeightsError, "'head.fc.bias'", "NaN"):
        load_network(ModelOptions("convnextv2_atto", model_args=SMALL, imgsz=32))


@pytest.mark.usefixtures("cache")
def test_weights_at_a_plain_url_are_named_by_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(socket, "getaddrinfo", unknown_name)
    with refuses(HubError, "--weights FILE") as caught:
        load_network(ModelOptions("legacy_seresnet18"))
    assert "/seresnet18-4bb0ce65.pth" in caught.value.fix
