"""What this machine has, and the fix for what it lacks: real packages, a real server, and files of other machines."""

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import fields
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from edgekit import __version__
from edgekit.cli.main import main
from edgekit.devices import doctor
from edgekit.devices.probed_facts import ProbedFacts, facts_of

NOWHERE = "http://127.0.0.1:9"


class Hub(BaseHTTPRequestHandler):
    """Answers HEAD, with an error where the path says so."""

    def do_HEAD(self) -> None:
        self.send_response(503 if self.path == "/busy" else 200)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def hub() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def named(found: doctor.Diagnosis) -> dict[str, doctor.Finding]:
    return {each.name: each for each in found.findings}


def test_a_machine_that_tests_run_on_is_healthy(hub: str) -> None:
    found = doctor.examine(hub=hub)
    assert found.healthy, found
    findings = named(found)
    for name in ("Python", "processor", "glibc", "OpenVINO", "ONNX Runtime", "LiteRT", "making bundles", "hub"):
        assert findings[name].status == "ok", name
        assert findings[name].fix is None
    assert "torch 2." in findings["making bundles"].found
    assert "GB" in findings["free memory"].found


@pytest.mark.parametrize("path", ["", "/busy"])
def test_a_hub_that_answers_is_there(hub: str, path: str) -> None:
    assert doctor._hub(hub + path).status == "ok"


def test_a_hub_that_is_away_is_a_warning_with_the_option() -> None:
    found = doctor._hub(NOWHERE)
    assert found.status == "warning"
    assert "--weights FILE" in str(found.fix)


def test_every_finding_that_is_not_ok_has_its_fix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that tells nothing of itself, with an old Python and no package."""
    monkeypatch.setattr(doctor, "_version", lambda package: None)
    monkeypatch.setattr("edgekit.devices.doctor.importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr(doctor, "OLDEST_PYTHON", (9, 0))
    monkeypatch.setattr(doctor, "probe", lambda root: {**FACTS, "machine": "riscv64", "glibc": None})
    found = doctor.examine(tmp_path, NOWHERE)
    assert not found.healthy
    assert {name for name, each in named(found).items() if each.status == "broken"} == {
        "Python", "processor", "glibc", "runtimes",
    }  # fmt: skip
    assert all((each.fix is None) == (each.status == "ok") for each in found.findings)
    assert "pip install" in str(named(found)["OpenVINO"].fix)


FACTS: dict[str, Any] = dict.fromkeys(each.name for each in fields(ProbedFacts)) | {
    "machine": "x86_64", "kernel": "6.1.0", "glibc": "2.36", "pythons": (), "cache": "/cache", "cache_writable": True,
    "disk_free_bytes": 10,
}  # fmt: skip
"""The probe of a machine that tells little."""


def test_old_glibc_and_little_room() -> None:
    facts = facts_of({**FACTS, "glibc": "2.17", "memory_available_bytes": 1 << 30})
    system = {each.name: each for each in doctor._system(facts)}
    assert (system["glibc"].status, system["glibc"].found) == ("broken", "2.17")
    assert "glibc 2.28 or newer" in str(system["glibc"].fix)
    assert system["int8 instructions"].status == "warning"
    memory, disk = doctor._room(facts)
    assert (memory.status, memory.found) == ("warning", "1.1 GB")
    assert disk.status == "warning"


@pytest.mark.parametrize(
    ("installed", "bad"),
    [
        ({"tflite-runtime": "2.14.0", "numpy": "2.4.0"}, {"tflite-runtime 2.14.0 with numpy 2.4.0": "broken"}),
        ({"tflite-runtime": "2.14.0", "numpy": "1.26.4"}, {}),
        ({"openvino": "2025.3.0"}, {"openvino 2025.3.0": "warning"}),
        ({"openvino": "2026.4.1"}, {}),
        (
            {"onnxruntime": "1.20.0", "onnxruntime-gpu": "1.20.0"},
            {"onnxruntime 1.20.0 with onnxruntime-gpu 1.20.0": "broken"},
        ),
        ({"edgekit": "0.1.0", "edgekit-deploy": "0.1.0"}, {"edgekit 0.1.0 with edgekit-deploy 0.1.0": "broken"}),
        ({"torch": "2.9.0", "torchao": "0.18.0"}, {"torch 2.9.0 with torchao 0.18.0": "broken"}),
    ],
)  # fmt: skip
def test_combinations_that_are_known_to_be_bad(
    installed: dict[str, str], bad: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "_version", installed.get)
    found = {each.name: each.status for each in (*doctor._outdated(), *doctor._combinations())}
    tflite_alone = {"tflite-runtime 2.14.0": "warning"} if "tflite-runtime" in installed else {}
    assert found == bad | tflite_alone


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("raise ImportError('libfoo.so: undefined symbol')", "undefined symbol"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGILL)", "built for a newer processor"),
        ("raise SystemExit(3)", "exit status 3"),
        ("pass", None),
    ],
)
def test_a_runtime_that_dies_when_it_is_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, said: str | None
) -> None:
    (tmp_path / "broken_runtime.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    found = doctor._dies("broken_runtime")
    assert found is None if said is None else said in str(found)


@pytest.mark.parametrize("healthy", [True, False])
def test_the_command(healthy: bool, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    finding = doctor.Finding("glibc", "ok", "2.41") if healthy else doctor.Finding("glibc", "broken", "2.17", "a newer")
    document = doctor.Diagnosis(healthy=healthy, findings=(finding,))
    monkeypatch.setattr(doctor, "examine", lambda: document)
    assert main(["doctor"]) == (0 if healthy else 1)
    out = capfd.readouterr().out
    assert ("fix: a newer" in out) == (not healthy)
    assert main(["doctor", "--json"]) == (0 if healthy else 1)
    shown = {"schema_version": 1, "edgekit": __version__, "healthy": healthy, "findings": [vars(finding)]}
    assert json.loads(capfd.readouterr().out) == shown


def test_it_needs_neither_torch_nor_a_runtime() -> None:
    code = "import sys, edgekit.devices.doctor as d; d.examine(hub='http://127.0.0.1:9'); " \
        "assert not {'torch', 'openvino', 'onnxruntime'} & set(sys.modules)"  # fmt: skip
    subprocess.run([sys.executable, "-c", code], check=True)
