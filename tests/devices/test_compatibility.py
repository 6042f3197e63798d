"""Compatible and known-bad versions: each row on a machine to which it applies, and on one to which it does not."""

from dataclasses import replace

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from edgekit.config.runtimes import RUNTIMES, Wheels
from edgekit.devices.doctor import known_bad
from edgekit.devices.setup import MACHINES, NEWEST_PYTHON, OLDEST_GLIBC, OLDEST_PYTHON
from edgekit.support.libraries import release
from tests.helpers import fake_runtime
from tests.helpers.runtimes import registered

ROWS = {row.name: row for row in known_bad()}
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
    assert all((row.runtime, row.packages, row.effect, row.cure, row.sources))
    assert row.uninstall or row.install or row.extra


def test_a_new_runtime_brings_its_platforms() -> None:
    """No file besides its row names them."""
    wheels = Wheels(machine="aarch64", pythons=("3.13",), glibc="2.36")
    with registered(replace(fake_runtime.ROW, wheels=(wheels,))):
        assert RUNTIMES["fake"].wheels_on("aarch64") is wheels
        assert RUNTIMES["fake"].wheels_on("x86_64") is None


def test_platforms_are_what_devices_are_checked_for() -> None:
    rows = [wheels for runtime in RUNTIMES.values() for wheels in runtime.wheels]
    assert {row.machine for row in rows} == set(MACHINES)
    assert min(release(row.glibc, parts=2) for row in rows) == OLDEST_GLIBC
    pythons = [f"{OLDEST_PYTHON[0]}.{minor}" for minor in range(OLDEST_PYTHON[1], NEWEST_PYTHON[1] + 1)]
    assert all(list(row.pythons) == pythons for row in rows)
    known = [runtime for runtime in RUNTIMES.values() if runtime.wheels]
    assert all(runtime.wheels_on(machine) for runtime in known for machine in MACHINES)


def test_every_requirement_can_be_parsed() -> None:
    for row in known_bad():
        assert all(map(Requirement, (*row.packages, *row.uninstall, *row.install)))
        SpecifierSet(row.python)
