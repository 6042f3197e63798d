"""Check this machine for what edgekit needs, with the fix for each problem. Needs neither torch nor a runtime."""

import importlib.util
import platform
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from edgekit import __version__
from edgekit.config.compatibility import KnownBad, known_bad
from edgekit.config.runtimes import COMPILER_DISTRIBUTIONS, RUNTIMES, Runtime
from edgekit.devices.check import MACHINES, NEWEST_PYTHON, OLDEST_GLIBC, OLDEST_PYTHON, wheel_problem
from edgekit.devices.probe_result import ProbeResult, read_probe
from edgekit.support.child_process import run_python
from edgekit.support.distribution import install_command, installed_version, pip_command, pip_install, release
from edgekit.support.probe import probe

Status = Literal["ok", "warning", "broken"]
Installed = Callable[[str], str | None]
"""Returns the installed version of a distribution, or None."""
HUB = "https://huggingface.co"
TIMEOUT_S = 3.0
IMPORT_TIMEOUT_S = 60
ENOUGH_MEMORY = 4 << 30
"""Free memory in bytes. Making bundles takes 2 GB for a small model, and several times the weights of a larger one."""
ENOUGH_DISK = 5 << 30
"""Free disk space in bytes for bundles: six of them take several times the model's weights."""
BUILD_DISK = 6_300_000_000
"""Disk space in bytes that the extra `build` takes with the CUDA build of torch, while it isn't installed."""
DOT_PRODUCT_FEATURES = frozenset(("asimddp", "avx512_vnni", "avx_vnni", "amx_int8"))


@dataclass(frozen=True)
class Finding:
    """The result of one check."""

    name: str
    """Subject of the check."""
    status: Status
    """Whether it is in order; "broken" means that edgekit can't be used on this machine."""
    found: str
    """Finding of the check."""
    fix: str | None = None
    """Fix, as an imperative sentence without a final period; None if the status is "ok"."""


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """The document of `edgekit doctor`."""

    schema_version: Literal[1] = 1
    """Version of this document's format."""
    edgekit: str = __version__
    """Version of edgekit."""
    healthy: bool
    """Whether no check found anything broken."""
    findings: tuple[Finding, ...]
    """Results of all checks, in the order in which they ran."""


def examine(root: Path = Path("/"), hub: str = HUB, installed: Installed = installed_version) -> Diagnosis:
    """Check this machine. `root` is the folder that contains proc and sys, `hub` the address of published weights."""
    facts = read_probe(probe(root))
    findings = (
        *_system(facts),
        *_runtimes(facts, installed),
        _building(installed),
        *_outdated(installed),
        *_known_bad(facts, installed),
        *_room(facts, installed),
        _hub(hub),
    )
    return Diagnosis(healthy=all(finding.status != "broken" for finding in findings), findings=findings)


def _system(facts: ProbeResult) -> Iterator[Finding]:
    version, python = sys.version_info[:2], platform.python_version()
    oldest, newest = (".".join(map(str, limit)) for limit in (OLDEST_PYTHON, NEWEST_PYTHON))
    if OLDEST_PYTHON <= version <= NEWEST_PYTHON:
        yield Finding("Python", "ok", python)
    else:
        fix = f"Make an environment with Python {oldest} to {newest}: the runtimes publish no wheels for other versions"
        yield Finding("Python", "broken", python, fix)
    supported = facts.machine in MACHINES
    fix = f"Measure on another device with --device: the runtimes publish wheels for {' and '.join(MACHINES)} only"
    processor = f"{facts.cpu or 'unknown'}, {facts.machine}"
    yield Finding("processor", "ok" if supported else "broken", processor, None if supported else fix)
    fits = facts.glibc is not None and release(facts.glibc, parts=2) >= OLDEST_GLIBC
    oldest_glibc = ".".join(map(str, OLDEST_GLIBC))
    fix = f"Use a Linux with glibc {oldest_glibc} or newer, such as Debian 11; systems with musl are not supported"
    yield Finding("glibc", "ok" if fits else "broken", facts.glibc or "none", None if fits else fix)
    yield _device_class(facts)
    if DOT_PRODUCT_FEATURES.isdisjoint(facts.features or ()):
        fix = "Expect little speedup from INT8 on this machine, and measure on the device that you ship to"
        yield Finding("int8 instructions", "warning", "no dot product", fix)


def _device_class(facts: ProbeResult) -> Finding:
    features = " ".join(facts.noted_features or ()) or "no relevant features"
    if facts.matching_class:
        return Finding("device class", "ok", f"{facts.matching_class} ({features})")
    fix = "Name the device class to make bundles for with --device-class; `edgekit targets` lists them"
    return Finding("device class", "warning", f"none matches ({features})", fix)


def _runtimes(facts: ProbeResult, installed: Installed) -> list[Finding]:
    """A finding for each runtime, and one more if none works."""
    findings = [_runtime(runtime, facts, installed) for runtime in RUNTIMES.values()]
    if not any(finding.status == "ok" for finding in findings):
        fix = "Install one of the runtimes: each runtime's finding has the command"
        findings.append(Finding("runtimes", "broken", "none works", fix))
    return findings


def _runtime(runtime: Runtime, facts: ProbeResult, installed: Installed) -> Finding:
    """Import the runtime in another process, because one compiled for another processor is killed by a signal."""
    module = next((name for name in runtime.import_names if _is_installed(name)), None)
    if module is None:
        if problem := wheel_problem(runtime.name, facts):
            return Finding(
                runtime.title, "warning", f"not installed: {problem}", "Use another runtime or a newer Linux"
            )
        return Finding(runtime.title, "warning", "not installed", f"Run: {install_command(runtime.extra)}")
    version = next(filter(None, map(installed, runtime.distributions)), "")
    found, failure = f"{_package(module)} {version}", _import_failure(module)
    if failure is None:
        return Finding(runtime.title, "ok", found)
    fix = f"Install it again: {pip_install('--force-reinstall', runtime.requirement)}"
    return Finding(runtime.title, "broken", f"{found} {failure}", fix)


def _is_installed(module: str) -> bool:
    # Looking up a module inside a package would import the package.
    return importlib.util.find_spec(_package(module)) is not None


def _package(module: str) -> str:
    return module.partition(".")[0]


def _import_failure(module: str) -> str | None:
    """Problem of importing a module, or None if it can be imported."""
    try:
        done = run_python(["-c", f"import {module}"], timeout=IMPORT_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        return f"can't be imported within {IMPORT_TIMEOUT_S} s"
    if done.returncode == 0:
        return None
    if done.returncode == -4:
        return "ends with an illegal instruction: it was compiled for a newer processor"
    lines = done.stderr.strip().splitlines()
    return f"can't be imported: {lines[-1] if lines else f'exit status {done.returncode}'}"


def _building(installed: Installed) -> Finding:
    names = (
        *COMPILER_DISTRIBUTIONS,
        *(name for runtime in RUNTIMES.values() for name in runtime.compiler_distributions),
    )
    versions = {name: installed(name) for name in names}
    missing = [name for name, version in versions.items() if version is None]
    if not missing:
        return Finding("making bundles", "ok", ", ".join(f"{name} {version}" for name, version in versions.items()))
    fix = f"To make bundles on this machine, run: {install_command('build')}"
    return Finding("making bundles", "warning", f"not installed: {', '.join(missing)}", fix)


def _outdated(installed: Installed) -> Iterator[Finding]:
    """Runtimes that are installed in an older version than edgekit requires."""
    for runtime in RUNTIMES.values():
        distribution = runtime.distributions[0]
        version = installed(distribution)
        if version and release(version) < release(runtime.oldest_version):
            fix = f"Run: {pip_install(runtime.requirement)}"
            yield Finding(f"{distribution} {version}", "warning", f"edgekit requires {runtime.requirement}", fix)


def _known_bad(facts: ProbeResult, installed: Installed) -> Iterator[Finding]:
    """Known-bad combinations that apply to this machine."""
    for row in known_bad():
        versions = row.applies(installed, facts.machine, facts.board, platform.python_version())
        if versions is not None:
            packages = ", ".join(f"{name} {version}" for name, version in versions.items())
            yield Finding(row.name, row.status, f"{packages}: {row.effect}", _cure(row))


def _cure(row: KnownBad) -> str:
    """The cure with the commands that carry it out in this environment."""
    commands = []
    if row.uninstall:
        commands.append(pip_command("uninstall", *row.uninstall))
    if row.install:
        commands.append(pip_install(*row.install))
    if row.extra:
        commands.append(install_command(row.extra))
    return f"{row.cure}: {' && '.join(commands)}"


def _room(facts: ProbeResult, installed: Installed) -> Iterator[Finding]:
    disk = ENOUGH_DISK if installed("torch") else ENOUGH_DISK + BUILD_DISK
    for name, free, enough, fix in (
        ("free memory", facts.memory_available_bytes, ENOUGH_MEMORY, "Close programs, or make bundles elsewhere"),
        ("free disk", facts.disk_free_bytes, disk, f"Free {disk / 1e9:.0f} GB of disk space before making bundles"),
    ):
        if free is None:
            yield Finding(name, "warning", "unknown", fix)
        else:
            scarce = free < enough
            yield Finding(name, "warning" if scarce else "ok", f"{free / 1e9:.1f} GB", fix if scarce else None)


def _hub(address: str) -> Finding:
    """Whether published weights can be downloaded. The wait is short, for machines without a network."""
    try:
        with urlopen(Request(address, method="HEAD"), timeout=TIMEOUT_S):
            pass
    except HTTPError:
        pass  # the server answered
    except (OSError, ValueError) as error:
        fix = "Download weights on another machine, and pass the file with --weights FILE"
        return Finding("hub", "warning", f"{address} can't be reached ({str(error)[:100]})", fix)
    return Finding("hub", "ok", address)
