"""What this machine has of what edgekit needs, and the fix for what is broken. Needs neither torch nor a runtime."""

import importlib.metadata
import importlib.util
import platform
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from edgekit import __version__
from edgekit.config.runtimes import COMPILER_DISTRIBUTIONS, RUNTIMES, Runtime
from edgekit.devices.check import MACHINES, NEWEST_PYTHON, OLDEST_GLIBC, OLDEST_PYTHON
from edgekit.devices.probed_facts import ProbedFacts, facts_of
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


@dataclass(frozen=True)
class Finding:
    """One thing that was examined. A broken one prevents any use of edgekit here."""

    name: str
    status: Status
    found: str
    fix: str | None = None
    """What to do where the status is not "ok"."""


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """The document of `edgekit doctor`."""

    schema_version: Literal[1] = 1
    edgekit: str = __version__
    healthy: bool
    """Nothing is broken."""
    findings: tuple[Finding, ...]


def examine(root: Path = Path("/"), hub: str = HUB) -> Diagnosis:
    """Examine this machine. `root` is where proc and sys are; `hub` is the address of the hub with weights."""
    facts = facts_of(probe(root))
    findings = (*_system(facts), *_runtimes(), _building(), *_outdated(), *_combinations(), *_room(facts), _hub(hub))
    return Diagnosis(healthy=all(each.status != "broken" for each in findings), findings=findings)


def _system(facts: ProbedFacts) -> Iterator[Finding]:
    version, python = sys.version_info[:2], platform.python_version()
    oldest, newest = (".".join(map(str, each)) for each in (OLDEST_PYTHON, NEWEST_PYTHON))
    if OLDEST_PYTHON <= version <= NEWEST_PYTHON:
        yield Finding("Python", "ok", python)
    else:
        fix = f"make an environment with Python {oldest} to {newest}: for others the runtimes have no packages"
        yield Finding("Python", "broken", python, fix)
    known = facts.machine in MACHINES
    fix = f"the runtimes are published for {' and '.join(MACHINES)}: measure on such a device with --device"
    processor = f"{facts.cpu or 'unknown'}, {facts.machine}"
    yield Finding("processor", "ok" if known else "broken", processor, None if known else fix)
    fits = facts.glibc is not None and release(facts.glibc, parts=2) >= OLDEST_GLIBC
    fix = f"use a Linux with glibc {'.'.join(map(str, OLDEST_GLIBC))} or newer, such as Debian 11: musl won't do"
    yield Finding("glibc", "ok" if fits else "broken", facts.glibc or "none", None if fits else fix)
    cls, noted = facts.matching_class, " ".join(facts.noted_features or ()) or "none of note"
    if cls:
        yield Finding("device class", "ok", f"{cls} ({noted})")
    else:
        fix = "name what to make bundles for with --device-class; `edgekit targets` lists the classes"
        yield Finding("device class", "warning", f"none fits ({noted})", fix)
    if not {"asimddp", "avx512_vnni", "avx_vnni", "amx_int8"}.intersection(facts.features or ()):
        fix = "expect little speed from INT8 here: measure on the device that you ship to"
        yield Finding("int8 instructions", "warning", "no dot product", fix)


def _runtimes() -> list[Finding]:
    """A finding for each runtime, and one more if none works."""
    findings = [_runtime(runtime) for runtime in RUNTIMES.values()]
    if not any(each.status == "ok" for each in findings):
        extras = " or ".join(runtime.extra for runtime in RUNTIMES.values())
        findings.append(Finding("runtimes", "broken", "none works", f"install one of them: the extra {extras}"))
    return findings


def _runtime(runtime: Runtime) -> Finding:
    """Import the runtime in another process, since one that is built for other instructions dies by a signal."""
    module = next((each for each in runtime.import_names if _is_installed(each)), None)
    if module is None:
        return Finding(runtime.title, "warning", "not installed", install_command(runtime.extra))
    version = next(filter(None, map(_version, runtime.distributions)), "")
    found, died = f"{_package(module)} {version}", _dies(module)
    if died is None:
        return Finding(runtime.title, "ok", found)
    repair = f'it is installed and unusable: pip install --force-reinstall "{runtime.requirement}"'
    return Finding(runtime.title, "broken", f"{found}{died}", repair)


def _is_installed(module: str) -> bool:
    # Finding a module inside a package would import the package.
    return importlib.util.find_spec(_package(module)) is not None


def _package(module: str) -> str:
    return module.partition(".")[0]


def _outdated() -> Iterator[Finding]:
    """Runtimes whose installed version is older than edgekit requires."""
    for runtime in RUNTIMES.values():
        distribution = runtime.distributions[0]
        version = _version(distribution)
        if version and release(version) < release(runtime.oldest_version):
            fix = f'pip install "{runtime.requirement}"'
            yield Finding(f"{distribution} {version}", "warning", f"edgekit requires {runtime.requirement}", fix)


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
    own = [each for runtime in RUNTIMES.values() for each in runtime.compiler_distributions]
    versions = {each: _version(each) for each in (*COMPILER_DISTRIBUTIONS, *own)}
    missing = [distribution for distribution, version in versions.items() if version is None]
    if not missing:
        found = ", ".join(f"{distribution} {version}" for distribution, version in versions.items())
        return Finding("making bundles", "ok", found)
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


def _room(facts: ProbedFacts) -> Iterator[Finding]:
    memory, disk = facts.memory_available_bytes, facts.disk_free_bytes
    for name, free, enough, fix in (
        ("free memory", memory, ENOUGH_MEMORY, "close programs, or make bundles on a larger machine"),
        ("free disk", disk, ENOUGH_DISK, "make room before bundles are made"),
    ):
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
