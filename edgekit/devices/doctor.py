"""What this machine has of what edgekit needs, and the fix for what is broken. Needs neither torch nor a runtime."""

import importlib.metadata
import importlib.util
import platform
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from edgekit import __version__
from edgekit.config.device_classes import class_of
from edgekit.config.runtimes import RUNTIMES
from edgekit.devices.check import MACHINES, NEWEST_PYTHON, OLDEST_GLIBC, OLDEST_PYTHON
from edgekit.measure.probe import probe
from edgekit.support.child_process import run_python
from edgekit.support.distribution import install_command
from edgekit.support.versions import release

Status = Literal["ok", "warning", "broken"]
HUB = "https://huggingface.co"
TIMEOUT_S = 3.0
ENOUGH_MEMORY = 4 << 30
"""Bytes: making the bundles of a small model takes 2 GB, larger ones several times their weights."""
ENOUGH_DISK = 5 << 30
"""Bytes: torch and the compilers take 3 GB, six bundles some times the weights."""
MODULES = {"openvino": ("openvino",), "onnx": ("onnxruntime",), "tflite": ("ai_edge_litert", "tflite_runtime")}
PACKAGES = {
    "openvino": ("openvino",),
    "onnx": ("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino"),
    "tflite": ("ai-edge-litert", "tflite-runtime"),
}
BUILDING = ("torch", "timm", "nncf", "torchao", "litert-torch", "onnx", "onnxscript")


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at; `fix` is what to do where it isn't ok."""

    name: str
    status: Status
    found: str
    fix: str | None = None


def examine(root: Path = Path("/"), hub: str = HUB) -> dict[str, Any]:
    """The document of `edgekit doctor`. `root` is where proc and sys are; `broken` ones are in the way of any use."""
    facts = probe(root)
    findings = [*_system(facts), *_runtimes(), _building(), *_combinations(), *_room(facts), _hub(hub)]
    return {
        "schema_version": 1,
        "edgekit": __version__,
        "healthy": all(each.status != "broken" for each in findings),
        "findings": [asdict(each) for each in findings],
    }


def _system(facts: Mapping[str, Any]) -> Iterator[Finding]:
    version, python = sys.version_info[:2], platform.python_version()
    oldest, newest = (".".join(map(str, each)) for each in (OLDEST_PYTHON, NEWEST_PYTHON))
    if OLDEST_PYTHON <= version <= NEWEST_PYTHON:
        yield Finding("Python", "ok", python)
    else:
        fix = f"make an environment with Python {oldest} to {newest}: for others the runtimes have no packages"
        yield Finding("Python", "broken", python, fix)
    machine, glibc = str(facts["machine"]), facts["glibc"]
    known = machine in MACHINES
    fix = f"the runtimes are published for {' and '.join(MACHINES)}: measure on such a device with --device"
    yield Finding(
        "processor", "ok" if known else "broken", f"{facts['cpu'] or 'unknown'}, {machine}", None if known else fix
    )
    fits = glibc is not None and release(str(glibc), parts=2) >= OLDEST_GLIBC
    fix = f"use a Linux with glibc {'.'.join(map(str, OLDEST_GLIBC))} or newer, such as Debian 11: musl won't do"
    yield Finding("glibc", "ok" if fits else "broken", str(glibc or "none"), None if fits else fix)
    features = facts["features"] or ()
    cls, noted = class_of(facts["board"], features), " ".join(facts["noted_features"] or ()) or "none of note"
    if cls:
        yield Finding("device class", "ok", f"{cls} ({noted})")
    else:
        fix = "name what to make bundles for with --device-class; `edgekit targets` lists the classes"
        yield Finding("device class", "warning", f"none fits ({noted})", fix)
    if not {"asimddp", "avx512_vnni", "avx_vnni", "amx_int8"}.intersection(features):
        fix = "expect little speed from INT8 here: measure on the device that you ship to"
        yield Finding("int8 instructions", "warning", "no dot product", fix)


def _runtimes() -> Iterator[Finding]:
    """Each imported in a process of its own: one that is built for other instructions dies by a signal."""
    works = 0
    findings = []
    for name, target in RUNTIMES.items():
        version = next(filter(None, map(_version, PACKAGES[name])), None)
        module = next((each for each in MODULES[name] if importlib.util.find_spec(each)), None)
        install = install_command(target.extra)
        if module is None:
            findings.append(Finding(target.title, "warning", "not installed", install))
            continue
        died = _dies(module)
        works += died is None
        repair = f'it is installed and unusable: pip install --force-reinstall "{target.requirement}"'
        status: Status = "broken" if died else "ok"
        findings.append(
            Finding(target.title, status, f"{module} {version or ''}{died or ''}", repair if died else None)
        )
    yield from findings
    if not works:
        yield Finding("runtimes", "broken", "none works", f"{install_command('tflite')}, or another of those above")


def _dies(module: str) -> str | None:
    """What happens when a module is imported, None if nothing bad."""
    try:
        done = run_python(["-c", f"import {module}"], timeout=60)
    except subprocess.TimeoutExpired:
        return ": its import takes more than 60 s"
    if done.returncode == -4:
        return ": illegal instruction: it is built for a newer processor"
    said = done.stderr.strip().splitlines()
    return None if done.returncode == 0 else f": {said[-1] if said else f'exit status {done.returncode}'}"


def _building() -> Finding:
    missing = [package for package in BUILDING if _version(package) is None]
    if not missing:
        return Finding("making bundles", "ok", ", ".join(f"{each} {_version(each)}" for each in BUILDING))
    fix = f"to make bundles: {install_command('build')}; running them needs none of it"
    return Finding("making bundles", "warning", f"not installed: {', '.join(missing)}", fix)


@dataclass(frozen=True)
class Combination:
    """Packages that are known not to work together."""

    packages: tuple[str, ...]
    is_bad: Callable[[Mapping[str, tuple[int, ...]]], bool]
    why: str
    fix: str


COMBINATIONS = (
    Combination(
        ("tflite-runtime", "numpy"), lambda found: found["numpy"] >= (2, 0),
        "tflite-runtime is built against numpy 1", 'pip install "numpy<2", or ai-edge-litert instead of tflite-runtime',
    ),
    Combination(
        ("tflite-runtime",), lambda found: found["tflite-runtime"] <= (2, 14),
        "it gives wrong numbers for dynamic-range files of other tools, and refuses some newer operations",
        "pip install ai-edge-litert, where Python is newer than 3.11 in any case",
    ),
    Combination(
        ("openvino",), lambda found: found["openvino"] < (2026, 4),
        "bundles need OpenVINO 2026.4 for their metadata", 'pip install "openvino>=2026.4,<2026.5"',
    ),
    Combination(
        ("onnxruntime", "onnxruntime-gpu"), lambda found: True,
        "both put their files in one folder", "pip uninstall onnxruntime onnxruntime-gpu, then install one of them",
    ),
    Combination(
        ("edgekit", "edgekit-deploy"), lambda found: True,
        "edgekit-deploy was once named edgekit, as an unrelated project is: both put their files in one folder",
        "pip uninstall edgekit edgekit-deploy, then install edgekit-deploy again",
    ),
    Combination(
        ("torch", "torchao"), lambda found: found["torch"] < (2, 12),
        "quantization needs torch 2.12 or newer", install_command("build"),
    ),
)  # fmt: skip


def _combinations() -> Iterator[Finding]:
    """The known-bad ones among what is installed."""
    for known in COMBINATIONS:
        versions = {package: _version(package) for package in known.packages}
        if not all(versions.values()):
            continue
        if known.is_bad({package: release(str(version), parts=2) for package, version in versions.items()}):
            name = " with ".join(f"{package} {version}" for package, version in versions.items())
            yield Finding(name, "broken" if len(versions) > 1 else "warning", known.why, known.fix)


def _room(facts: Mapping[str, Any]) -> Iterator[Finding]:
    for name, key, enough, fix in (
        ("free memory", "memory_available_bytes", ENOUGH_MEMORY, "close programs, or make bundles on a larger machine"),
        ("free disk", "disk_free_bytes", ENOUGH_DISK, "make room before bundles are made"),
    ):
        free = facts[key]
        if free is None:
            yield Finding(name, "warning", "unknown", fix)
        else:
            scarce = free < enough
            yield Finding(name, "warning" if scarce else "ok", f"{free / 1e9:.1f} GB", fix if scarce else None)


def _hub(address: str) -> Finding:
    """Whether published weights can be fetched; a short wait, for a machine without network."""
    try:
        with urlopen(Request(address, method="HEAD"), timeout=TIMEOUT_S):
            pass
    except HTTPError:
        pass  # it answered
    except (OSError, ValueError) as error:
        fix = "weights by name can't be fetched: download the file elsewhere and give it with --weights FILE"
        return Finding("hub", "warning", f"{address} can't be reached ({str(error)[:100]})", fix)
    return Finding("hub", "ok", address)


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
