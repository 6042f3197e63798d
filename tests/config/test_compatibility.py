"""Compatible and known-bad versions: each row on a machine to which it applies, and on one to which it does not."""

import tomllib
from collections.abc import Callable
from dataclasses import replace

import pytest

from edgekit.config.compatibility import KnownBad, load_compatibility, parse
from edgekit.config.runtimes import COMPILER_DISTRIBUTIONS, RUNTIMES, Wheels
from edgekit.devices.check import MACHINES, NEWEST_PYTHON, OLDEST_GLIBC, OLDEST_PYTHON
from edgekit.errors import ProfileError
from edgekit.support.distribution import release
from tests.helpers import fake_runtime
from tests.helpers.runtimes import registered
from tests.helpers.tiny import ROOT

ROWS = {row.name: row for row in load_compatibility().known_bad}
PI_4 = ("aarch64", "Raspberry Pi 4 Model B Rev 1.4", "3.11.2")
PI_5 = ("aarch64", "Raspberry Pi 5 Model B Rev 1.0", "3.13.5")
PC = ("x86_64", None, "3.11.2")
Place = tuple[str, str | None, str]
Installed = dict[str, str]

CASES: dict[str, tuple[tuple[Place, Installed], list[tuple[Place, Installed]]]] = {
    "ONNX Runtime 1.21.0 on a Raspberry Pi 4": (
        (PI_4, {"onnxruntime": "1.21.0"}),
        [(PI_4, {"onnxruntime": "1.22.0"}), (PI_4, {"onnxruntime": "1.20.1"}), (PI_5, {"onnxruntime": "1.21.0"})],
    ),
    "OpenVINO 2026.0 in f16 on Arm": (
        (PI_5, {"openvino": "2026.0.1"}),
        [(PC, {"openvino": "2026.0.1"}), (PI_5, {"openvino": "2026.4.1"})],
    ),
    "litert-lm 0.10.1 on a Raspberry Pi 4": (
        (PI_4, {"litert-lm": "0.10.1"}),
        [(PI_5, {"litert-lm": "0.10.1"}), (PI_4, {"litert-lm-builder": "0.10.1"})],
    ),
    "PyTorch 2.6.0 on a Raspberry Pi 4": (
        (PI_4, {"torch": "2.6.0+cpu"}),
        [(PC, {"torch": "2.6.0+cpu"}), (PI_4, {"torch": "2.13.0+cpu"})],
    ),
    "torch older than 2.12 with torchao": (
        (PC, {"torch": "2.11.0", "torchao": "0.18.0"}),
        [(PC, {"torch": "2.11.0"}), (PC, {"torch": "2.12.0", "torchao": "0.18.0"})],
    ),
    "onnxruntime beside onnxruntime-gpu": (
        (PC, {"onnxruntime": "1.32.0", "onnxruntime-gpu": "1.32.0"}),
        [(PC, {"onnxruntime": "1.32.0"}), (PC, {"onnxruntime-gpu": "1.32.0"})],
    ),
    "tflite-runtime with NumPy 2": (
        (PI_4, {"tflite-runtime": "2.14.0", "numpy": "2.4.6"}),
        [(PI_4, {"tflite-runtime": "2.14.0", "numpy": "1.26.4"}), (PI_4, {"numpy": "2.4.6"})],
    ),
    "tflite-runtime 2.14 or older": (
        (PC, {"tflite-runtime": "2.14.0"}),
        [(PC, {"tflite-runtime": "2.15.0"}), (PC, {})],
    ),
    "edgekit beside edgekit-deploy": (
        (PC, {"edgekit": "0.1.1", "edgekit-deploy": "0.1.0"}),
        [(PC, {"edgekit-deploy": "0.1.0"})],
    ),
}


def test_every_row_has_a_case() -> None:
    assert CASES.keys() == ROWS.keys()


@pytest.mark.parametrize("name", CASES)
def test_a_row_applies_where_its_packages_and_machine_are(name: str) -> None:
    (place, installed), others = CASES[name]
    assert ROWS[name].applies(installed.get, *place) == installed
    for place, installed in others:
        assert ROWS[name].applies(installed.get, *place) is None, (place, installed)


@pytest.mark.parametrize("name", CASES)
def test_a_row_tells_what_happens_what_helps_and_who_says_so(name: str) -> None:
    row = ROWS[name]
    assert all((row.runtime, row.versions, row.board, row.effect, row.cure, row.sources))
    assert row.uninstall or row.install or row.extra


def test_a_row_for_a_table() -> None:
    row = ROWS["PyTorch 2.6.0 on a Raspberry Pi 4"]
    assert row.board == "Raspberry Pi 4, Raspberry Pi Compute Module 4 (aarch64)"
    assert row.versions == "torch ==2.6.0"
    assert row.links[0] == ("pytorch/pytorch#146803", "https://github.com/pytorch/pytorch/issues/146803")
    row = ROWS["torch older than 2.12 with torchao"]
    assert (row.board, row.versions) == ("any", "torch <2.12, torchao (any version)")
    assert row.links[0][1] is None


def test_support_is_what_the_extras_require() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for row in load_compatibility().support:
        assert row.package in extras[RUNTIMES[row.runtime].extra if row.runtime else "build"]
        if row.runtime:
            assert row.package == RUNTIMES[row.runtime].requirement
        else:
            assert row.requirement.name in COMPILER_DISTRIBUTIONS


def test_a_new_runtime_brings_its_platforms() -> None:
    """No file besides its row names them."""
    wheels = Wheels(machine="aarch64", pythons=("3.13",), glibc="2.36")
    compatibility = load_compatibility()
    with registered(replace(fake_runtime.ROW, wheels=(wheels,))):
        row = compatibility.support_of("fake", "aarch64")
        assert row is not None
        assert (row.title, row.package, row.glibc) == ("Fake", fake_runtime.ROW.requirement, "2.36")
        assert compatibility.support_of("fake", "x86_64") is None
    assert compatibility.support_of("fake", "aarch64") is None


def test_support_is_what_devices_are_checked_for() -> None:
    support = load_compatibility().support
    assert {row.machine for row in support} == set(MACHINES)
    assert min(release(row.glibc, parts=2) for row in support) == OLDEST_GLIBC
    pythons = [f"{OLDEST_PYTHON[0]}.{minor}" for minor in range(OLDEST_PYTHON[1], NEWEST_PYTHON[1] + 1)]
    assert all(list(row.pythons) == pythons for row in support)
    assert all(load_compatibility().support_of(name, machine) for name in RUNTIMES for machine in MACHINES)


VALID = """
[[support]]
package = "torch>=2.12"
machine = "x86_64"
pythons = ["3.11"]
glibc = "2.28"

[[known_bad]]
name = "A pair"
runtime = "PyTorch"
packages = ["torch<2.12"]
status = "broken"
effect = "it fails"
cure = "Upgrade"
sources = ["pytorch/pytorch#1"]
"""


@pytest.mark.parametrize(
    ("change", "place"),
    [
        (lambda text: text.replace("status", "state"), "A pair: unknown key 'state'"),
        (lambda text: text.replace('"broken"', '"bad"'), "A pair: status"),
        (lambda text: text.replace('cure = "Upgrade"\n', ""), "A pair: key 'cure' is missing"),
        (lambda text: text.replace("torch<2.12", "torch=<2.12"), "A pair: "),
        (lambda text: text.replace("torch>=2.12", ">=2.12"), "support: "),
        (lambda text: text + 'python = "3.11"\n', "A pair: "),
        (lambda text: text.replace("[[support]]", "[[supported]]"), "supported"),
        (lambda text: text.replace('"x86_64"', '"riscv64"'), "support: machine"),
    ],
)
def test_a_malformed_file_is_refused(change: Callable[[str], str], place: str) -> None:
    assert isinstance(parse(VALID).known_bad[0], KnownBad)
    with pytest.raises(ProfileError) as caught:
        parse(change(VALID))
    assert place in caught.value.problem
