"""Canaries: what edgekit uses of other projects beyond their public interface is still there, and still needed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

COMPILES = """
import sys
from pathlib import Path
import edgekit.runtime
edgekit.runtime.engine.import_runtime("openvino", "openvino")
import torch
import edgekit.compiler.quantize.calibrate
from edgekit.runtime.openvino.backend import Backend
from edgekit.compiler.graph import export_graph
Backend().compile(export_graph(torch.nn.Conv2d(3, 4, 3), [1, 3, 8, 8]), Path(sys.argv[1]), "{}")
"""


def run_alone(code: str, *arguments: str, home: Path) -> str:
    """Standard output of a fresh process outside of CI, where telemetry is off by itself, with `home` as its home."""
    env = {name: value for name, value in os.environ.items() if name not in ("CI", "TF_BUILD", "JENKINS_URL")}
    command = [sys.executable, "-W", "ignore", "-c", code, *arguments]
    done = subprocess.run(command, env=env | {"HOME": str(home)}, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def test_importing_edgekit_leaves_telemetry_to_the_application(tmp_path: Path) -> None:
    code = "import edgekit, edgekit.runtime, sys; print('openvino_telemetry' in sys.modules)"
    assert run_alone(code, home=tmp_path) == "False"


@pytest.mark.parametrize("first", ["import openvino_telemetry", "pass"])
def test_no_library_reports_what_edgekit_does(tmp_path: Path, first: str) -> None:
    """NNCF replaces its telemetry by itself under pytest, so only a process of its own shows what edgekit does.

    A telemetry client creates the folder `intel` in the home, with an ID, before it sends anything.
    """
    run_alone(f"{first}\n{COMPILES}", str(tmp_path), home=tmp_path)
    assert (tmp_path / "model.xml").exists()
    assert not (tmp_path / "intel").exists()


@pytest.mark.parametrize("library", ["openvino", "nncf"])
def test_hiding_telemetry_is_still_needed_and_enough(tmp_path: Path, library: str) -> None:
    """The client is replaced by one that records it was made: the real one would send from here."""
    code = """
import sys, types
made = []
class Client:
    def __init__(self, *_, **__): made.append(True)
    def send_event(self, *_, **__): pass
names = ["openvino_telemetry", "openvino_telemetry.backend"]
package, backend = (types.ModuleType(name) for name in names)
package.Telemetry, backend.backend_ga4 = Client, None
sys.modules.update(zip(names, (package, backend)))
if sys.argv[2] == "hidden":
    __import__("edgekit.compat." + sys.argv[1])
else:
    __import__(sys.argv[1])
print(bool(made), sys.modules["openvino_telemetry"] is package)
"""
    assert run_alone(code, library, "bare", home=tmp_path) == "True True"
    assert run_alone(code, library, "hidden", home=tmp_path) == "False True"
