"""Checks of this machine with its real packages and a real server, and of other machines from their files."""

import json
import platform
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from dataclasses import fields
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from edgekit import __version__
from edgekit.cli.main import main
from edgekit.config.runtimes import RUNTIMES
from edgekit.devices import doctor, setup
from edgekit.devices.doctor import known_bad
from edgekit.devices.setup import ProbeResult, read_probe
from edgekit.support.libraries import install_command, pip_command, pip_install

NOWHERE = "http://127.0.0.1:9"


class Hub(BaseHTTPRequestHandler):
    """Answers HEAD requests, with an error for the path /busy."""

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


def named(findings: Iterable[doctor.Finding]) -> dict[str, doctor.Finding]:
    return {finding.name: finding for finding in findings}


def test_a_machine_that_tests_run_on_is_healthy(hub: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "HUB", hub)
    diagnosis = doctor.diagnose()
    assert diagnosis.healthy, diagnosis
    assert diagnosis.facts["local"].machine == platform.machine()
    findings = named(diagnosis.findings)
    for name in ("Python", "processor", "glibc", "OpenVINO", "ONNX Runtime", "LiteRT", "making bundles", "hub"):
        assert findings[name].status == "ok", name
        assert findings[name].fix is None
    assert "torch 2." in findings["making bundles"].found
    assert "GB" in findings["free memory"].found


@pytest.mark.parametrize("path", ["", "/busy"])
def test_a_hub_that_answers_is_there(hub: str, path: str) -> None:
    assert doctor._hub(hub + path).status == "ok"


def test_a_hub_that_is_away_is_a_warning_with_the_option() -> None:
    finding = doctor._hub(NOWHERE)
    assert finding.status == "warning"
    assert "--weights FILE" in str(finding.fix)


def test_every_finding_that_is_not_ok_has_its_fix(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine about which nothing is known, with an old Python and no packages."""
    monkeypatch.setattr("edgekit.devices.doctor.importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr(setup, "OLDEST_PYTHON", (9, 0))
    facts = read_probe({**FACTS, "machine": "riscv64", "glibc": None})
    findings = named(doctor.examine_here(facts, NOWHERE, installed=lambda distribution: None))
    broken = {name for name, finding in findings.items() if finding.status == "broken"}
    assert broken == {"Python", "processor", "glibc", "runtimes"}
    assert all((finding.fix is None) == (finding.status == "ok") for finding in findings.values())
    assert install_command("openvino") in str(findings["OpenVINO"].fix)


FACTS: dict[str, Any] = dict.fromkeys(each.name for each in fields(ProbeResult)) | {
    "machine": "x86_64", "kernel": "6.1.0", "glibc": "2.36", "pythons": (), "cache": "/cache", "cache_writable": True,
    "disk_free_bytes": 10,
}  # fmt: skip
"""The probe of a machine about which little is known."""


def test_old_glibc_and_little_room() -> None:
    facts = read_probe({**FACTS, "glibc": "2.17", "memory_available_bytes": 1 << 30})
    findings = named(doctor.examine_here(facts, NOWHERE))
    assert findings["glibc"].status == "broken"
    assert "its glibc is 2.17, but the runtimes need 2.28 or newer" in findings["glibc"].found
    assert findings["int8 instructions"].status == "warning"
    assert (findings["free memory"].status, findings["free memory"].found) == ("warning", "1.1 GB")
    assert findings["free disk"].status == "warning"


def test_disk_space_counts_the_packages_that_are_not_installed_yet() -> None:
    """With torch they take 6.3 GB, as the README says."""
    facts = read_probe({**FACTS, "disk_free_bytes": 8 * 10**9})
    before, after = (
        named(doctor.examine_here(facts, NOWHERE, installed.get))["free disk"] for installed in ({}, {"torch": "2.9"})
    )
    assert (before.status, before.fix) == ("warning", "Free 12 GB of disk space before making bundles")
    assert after.status == "ok"


@pytest.mark.parametrize(("version", "bad"), [("2025.3.0", True), ("2026.4.1", False)])
def test_an_older_runtime_than_edgekit_requires(version: str, bad: bool) -> None:
    findings = list(doctor._outdated({"openvino": version}.get))
    assert [finding.name for finding in findings] == [f"openvino {version}"] * bad
    assert all(pip_install(RUNTIMES["openvino"].requirement) in str(finding.fix) for finding in findings)


def test_openvino_s_wheels_for_arm_need_a_newer_glibc_than_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgekit.devices.doctor.importlib.util.find_spec", lambda name: None)
    facts = read_probe({**FACTS, "machine": "aarch64", "glibc": "2.31"})
    findings = {finding.name: finding for finding in doctor._runtimes(facts, lambda distribution: None)}
    assert "glibc 2.35" in findings["OpenVINO"].found
    assert findings["OpenVINO"].fix
    assert install_command("onnx") in str(findings["ONNX Runtime"].fix)


PI_4 = {**FACTS, "machine": "aarch64", "board": "Raspberry Pi 4 Model B Rev 1.4"}


@pytest.mark.parametrize(
    ("facts", "installed", "status", "command"),
    [
        (PI_4, {"onnxruntime": "1.21.0"}, "broken", pip_install("onnxruntime>=1.22,<2")),
        (PI_4, {"litert-lm": "0.10.1"}, "warning", pip_command("uninstall", "litert-lm")),
        (FACTS, {"torch": "2.9.0+cpu", "torchao": "0.18.0"}, "broken", install_command("build")),
        (
            FACTS,
            {"onnxruntime": "1.20.0", "onnxruntime-gpu": "1.20.0"},
            "broken",
            f"{pip_command('uninstall', 'onnxruntime', 'onnxruntime-gpu')} && {install_command('onnx')}",
        ),
    ],
)
def test_a_known_bad_combination_is_a_finding_with_its_cure(
    facts: dict[str, Any], installed: dict[str, str], status: str, command: str
) -> None:
    findings = named(doctor.examine_here(read_probe(facts), NOWHERE, installed.get))
    (row,) = (row for row in known_bad() if row.name in findings)
    finding = findings[row.name]
    assert finding.status == status
    assert all(f"{name} {version}" in finding.found for name, version in installed.items())
    assert row.effect in finding.found
    assert finding.fix == f"{row.cure}: {command}"


def test_what_works_has_no_known_bad_finding() -> None:
    good = {"openvino": "2026.4.1", "onnxruntime": "1.32.0", "torch": "2.13.0", "torchao": "0.18.0"}
    assert list(doctor._known_bad(read_probe(PI_4), good.get)) == []


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("raise ImportError('libfoo.so: undefined symbol')", "undefined symbol"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGILL)", "compiled for a newer processor"),
        ("raise SystemExit(3)", "exit status 3"),
        ("pass", None),
    ],
)
def test_a_runtime_that_dies_when_it_is_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, message: str | None
) -> None:
    (tmp_path / "broken_runtime.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    failure = doctor._import_failure("broken_runtime")
    assert failure is None if message is None else message in str(failure)


@pytest.mark.parametrize("healthy", [True, False])
def test_the_command(healthy: bool, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    finding = doctor.Finding("glibc", "ok", "2.41") if healthy else doctor.Finding("glibc", "broken", "2.17", "a newer")
    document = doctor.Diagnosis(healthy=healthy, findings=(finding,), facts={})
    monkeypatch.setattr(doctor, "diagnose", lambda devices: document)
    assert main(["doctor"]) == (0 if healthy else 1)
    out = capfd.readouterr().out
    assert ("fix: a newer" in out) == (not healthy)
    assert main(["doctor", "--json"]) == (0 if healthy else 1)
    shown = {"schema_version": 1, "edgekit": __version__, "healthy": healthy, "findings": [vars(finding)], "facts": {}}
    assert json.loads(capfd.readouterr().out) == shown


def test_it_needs_neither_torch_nor_a_runtime() -> None:
    code = "import sys, edgekit.devices.doctor as d; d.HUB = 'http://127.0.0.1:9'; d.diagnose(); " \
        "assert not {'torch', 'openvino', 'onnxruntime'} & set(sys.modules)"  # fmt: skip
    subprocess.run([sys.executable, "-c", code], check=True)
