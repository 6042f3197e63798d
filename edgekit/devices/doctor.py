"""Check whether this machine or a device is ready, with the fix for each problem. Needs neither torch nor a runtime."""

import importlib.util
import platform
import subprocess
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import cache
from importlib.resources import files
from typing import Literal
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from edgekit import __version__
from edgekit.config.runtimes import COMPILER_DISTRIBUTIONS, RUNTIMES, Machine, Runtime, build
from edgekit.devices import setup
from edgekit.devices.registry import LOCAL, THIS, Device, each_device
from edgekit.devices.setup import ProbeResult
from edgekit.devices.transport import connect
from edgekit.errors import DeviceError, DevicePythonError, as_sentences, printable
from edgekit.support import child_process
from edgekit.support.child_process import run_python
from edgekit.support.libraries import install_command, installed_version, pip_command, pip_install, release
from edgekit.support.probe import probe as probe_here

Status = Literal["ok", "warning", "broken"]
Installed = Callable[[str], str | None]
"""Returns the installed version of a distribution, or None."""
FILE = "compatibility.toml"
"""File in edgekit.config with the combinations of packages and machines that are known to fail."""
HUB = "https://huggingface.co"
TIMEOUT_S = 3.0
IMPORT_TIMEOUT_S = 60
ENOUGH_MEMORY = 4 << 30
"""Free memory in bytes. Making bundles takes 2 GB for a small model, and several times the weights of a larger one."""
ENOUGH_DISK = 5 << 30
"""Free disk space in bytes for bundles: six of them take several times the model's weights."""
BUILD_DISK = 6_300_000_000
"""Disk space in bytes that the extra `build` takes with the CUDA build of torch, while it isn't installed."""
ENVIRONMENT_DISK = 400 << 20
"""Disk space in bytes that a device's environment with one runtime needs, with the wheels that it is unpacked from."""
OTHER_RUNTIME = "Use another runtime or a newer Linux"
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
    device: str = LOCAL
    """Name of the machine."""


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
    facts: Mapping[str, ProbeResult]
    """Results of the probe of each machine that could be reached, by its name."""

    def page(self, named: bool = True) -> Iterator[str]:
        """The findings with their fixes; `named` says whether each has the name of its machine."""
        for finding in self.findings:
            device = f"{finding.device}: " if named else ""
            yield f"{finding.status:<8} {device}{finding.name}: {printable(finding.found)}"
            if finding.fix:
                yield f"{'':<8} fix: {printable(finding.fix)}"
        yield "all checks passed" if self.healthy else "problems found; suggested fixes above"


def diagnose(names: Sequence[str] | None = None) -> Diagnosis:
    """Check the machines with these names, or this one. Nothing on a device is changed."""
    devices = [Device.find_machine(name) for name in dict.fromkeys(names or [LOCAL])]
    findings: list[Finding] = []
    facts: dict[str, ProbeResult] = {}
    for name, probed, results in each_device(devices, lambda device: [_examined(device)]):
        findings += [replace(finding, device=name) for finding in results]
        if probed is not None:
            facts[name] = probed
    healthy = all(finding.status != "broken" for finding in findings)
    return Diagnosis(healthy=healthy, findings=tuple(findings), facts=facts)


def _examined(device: Device) -> tuple[str, ProbeResult | None, list[Finding]]:
    """A machine's name, the result of its probe, and the findings; those of a device that can't be reached say so."""
    if device == THIS:
        facts = setup.read_probe(probe_here())
        return LOCAL, facts, list(examine_here(facts, HUB))
    try:
        with connect(device) as connection:
            facts = setup.probe(connection)
    except DeviceError as error:
        child_process.check()  # an interrupt makes the main thread close the connections, which is not an error
        fix = as_sentences(f"Needed: {error.valid}" if error.valid else "", error.fix)
        problem = error.problem.removeprefix(f"{device.name}: ")
        return device.name, None, [Finding("connection", "broken", problem, fix)]
    return device.name, facts, list(examine_device(device, facts))


def examine_here(facts: ProbeResult, hub: str, installed: Installed = installed_version) -> Iterator[Finding]:
    """Check this machine for what it lacks to make and measure bundles. `hub` is the address of published weights."""
    fix = f"Make an environment with {setup.PYTHONS}: the runtimes publish no wheels for other versions"
    version = platform.python_version()
    yield _judged("Python", setup.supports_python(version), version, fix, "broken")
    yield from _machine(facts)
    yield _device_class(facts, None, "Name the device class to make bundles for with --device-class")
    yield from _runtimes(facts, installed)
    yield _building(installed)
    yield from _outdated(installed)
    yield from _known_bad(facts, installed)
    memory = facts.memory_available_bytes
    yield _space("free memory", memory, ENOUGH_MEMORY, "Close programs, or make bundles elsewhere")
    needed = ENOUGH_DISK if installed("torch") else ENOUGH_DISK + BUILD_DISK
    fix = f"Free {needed / 1e9:.0f} GB of disk space before making bundles"
    yield _space("free disk", facts.disk_free_bytes, needed, fix)
    yield _hub(hub)


def examine_device(device: Device, facts: ProbeResult) -> Iterator[Finding]:
    """Check a device for what it lacks to measure bundles."""
    versions = ", ".join(python.version for python in facts.pythons) or "none"
    try:
        setup.python_of(device.name, facts)
    except DevicePythonError as error:
        yield Finding("Python", "broken", f"{versions}, but edgekit needs {error.valid}", error.fix)
    else:
        yield Finding("Python", "ok", versions)
    yield from _machine(facts)
    yield _device_class(facts, device.device_class, "Set one with `edgekit devices add --device-class`")
    for runtime in RUNTIMES.values():
        problem = setup.wheel_problem(runtime.name, facts)
        yield _judged(runtime.title, problem is None, problem or "can run", OTHER_RUNTIME)
    yield _space("free memory", facts.memory_available_bytes, 0, "Close other programs there")
    fix = f"Free {ENVIRONMENT_DISK / 1e6:.0f} MB of disk space there, which a set-up may need"
    yield _space("free disk", facts.disk_free_bytes, ENVIRONMENT_DISK, fix)
    if not facts.cache_writable:
        yield Finding("cache", "warning", f"'{facts.cache}' can't be written", "Make it writable for this user")


def _judged(name: str, fits: bool, found: str, fix: str, status: Status = "warning") -> Finding:
    """A finding that is in order, or has this status and its fix."""
    return Finding(name, "ok", found) if fits else Finding(name, status, found, fix)


def _machine(facts: ProbeResult) -> Iterator[Finding]:
    """The hardware, its present state, and the system."""
    most = f", at most {facts.clock_max_mhz:.0f} MHz" if facts.clock_max_mhz else ""
    for name, text, value in (
        ("board", "{}", facts.board),
        ("clock", f"{{:.0f}} MHz{most}", facts.clock_mhz),
        ("governor", "{}", facts.governor),
        ("temperature", "{:.0f} °C", facts.celsius),
        ("load", "{:.2f}", facts.load),
    ):
        if value is not None:
            yield Finding(name, "ok", text.format(value))
    problems = setup.platform_problems(facts)
    for name, text, fix in (
        ("processor", f"{facts.cpu}, {facts.machine}, {facts.cores} cores", "Use another device"),
        ("glibc", facts.glibc or "", "Use a newer Linux, such as Debian 12; systems with musl are not supported"),
    ):
        yield _judged(name, name not in problems, problems.get(name, text), fix, "broken")
    if facts.emulated:
        yield Finding("emulated", "warning", "by QEMU: timings are not comparable", "Measure on a real machine")
    if DOT_PRODUCT_FEATURES.isdisjoint(facts.features or ()):
        fix = "Expect little speedup from INT8 on this machine, and measure on the device that you ship to"
        yield Finding("int8 instructions", "warning", "no dot product", fix)
    if facts.throttled is not None:
        now, before = (", ".join(names) or "not" for names in (facts.throttled.now, facts.throttled.since_boot))
        fix = "Check its power supply and cooling: timings would not be representative"
        yield _judged("throttled", not facts.throttled.now, f"{now} now, {before} since boot", fix)


def _device_class(facts: ProbeResult, saved: str | None, fix: str) -> Finding:
    """The class that a device was saved with, or else the one that its hardware matches."""
    features = " ".join(facts.noted_features or ()) or "no relevant features"
    name = saved or facts.matching_class
    fix = f"{fix}; `edgekit targets` lists them"
    return _judged("device class", bool(name), f"{name or 'none matches'} ({features})", fix)


def _space(name: str, free: int | None, enough: int, fix: str) -> Finding:
    """Free memory or disk space in bytes, which is scarce if it is less than `enough`."""
    if free is None:
        return Finding(name, "warning", "unknown", fix)
    return _judged(name, free >= enough, f"{free / 1e9:.1f} GB", fix)


def _runtimes(facts: ProbeResult, installed: Installed) -> list[Finding]:
    """A finding for each runtime, and one more if none works."""
    findings = [_runtime(runtime, facts, installed) for runtime in RUNTIMES.values()]
    if not any(finding.status == "ok" for finding in findings):
        fix = "Install one of the runtimes: each runtime's finding has the command"
        findings.append(Finding("runtimes", "broken", "none works", fix))
    return findings


def _runtime(runtime: Runtime, facts: ProbeResult, installed: Installed) -> Finding:
    """Import the runtime in another process, because one compiled for another processor is killed by a signal."""
    # Looking up a module inside a package would import the package.
    packages = {name: name.partition(".")[0] for name in runtime.import_names}
    module = next((name for name, package in packages.items() if importlib.util.find_spec(package)), None)
    if module is None:
        problem = setup.wheel_problem(runtime.name, facts)
        fix = OTHER_RUNTIME if problem else f"Run: {install_command(runtime.extra)}"
        return Finding(runtime.title, "warning", f"not installed: {problem}" if problem else "not installed", fix)
    version = next(filter(None, map(installed, runtime.distributions)), "")
    found, failure = f"{packages[module]} {version}", _import_failure(module)
    fix = f"Install it again: {pip_install('--force-reinstall', runtime.requirement)}"
    return _judged(runtime.title, not failure, f"{found} {failure}" if failure else found, fix, "broken")


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
    missing = ", ".join(name for name, version in versions.items() if version is None)
    found = ", ".join(f"{name} {version}" for name, version in versions.items() if version)
    fix = f"To make bundles on this machine, run: {install_command('build')}"
    return _judged("making bundles", not missing, f"not installed: {missing}" if missing else found, fix)


def _outdated(installed: Installed) -> Iterator[Finding]:
    """Runtimes that are installed in an older version than edgekit requires."""
    for runtime in RUNTIMES.values():
        distribution = runtime.distributions[0]
        version = installed(distribution)
        if version and release(version) < release(runtime.oldest_version):
            fix = f"Run: {pip_install(runtime.requirement)}"
            yield Finding(f"{distribution} {version}", "warning", f"edgekit requires {runtime.requirement}", fix)


@dataclass(frozen=True, kw_only=True)
class KnownBad:
    """A combination of installed packages, and of a machine, that is known to fail."""

    name: str
    """Short title of the combination."""
    runtime: str
    """Title of the runtime or library that fails."""
    packages: tuple[str, ...]
    """Requirements that all have to be met by the installed packages."""
    machine: Machine | None = None
    """Architecture of the processor, or None if the combination fails on all of them."""
    boards: tuple[str, ...] = ()
    """Patterns of which one matches the board's name in the device tree; empty if it fails on all boards."""
    python: str = ""
    """Specifier of the Python versions on which it fails; empty for all."""
    status: Literal["warning", "broken"]
    """Whether edgekit can't be used at all ("broken") or only in part."""
    effect: str
    """Effect of the combination, as a clause."""
    cure: str
    """Cure, as an imperative sentence without a final period."""
    uninstall: tuple[str, ...] = ()
    """Packages that the cure removes first."""
    install: tuple[str, ...] = ()
    """Requirements that the cure installs."""
    extra: str | None = None
    """Extra of edgekit that the cure installs."""
    sources: tuple[str, ...]
    """Sources of the facts: issues on GitHub as owner/repository#number, or other sources in words."""

    def applies(
        self, installed: Callable[[str], str | None], machine: str, board: str | None, python: str
    ) -> dict[str, str] | None:
        """The versions of the packages that are installed in this combination here, or None if it doesn't apply.

        `installed` returns the version of a package, or None if it isn't installed.
        """
        if self.machine not in (None, machine) or not SpecifierSet(self.python).contains(python, prereleases=True):
            return None
        if self.boards and not any(fnmatchcase(board or "", pattern) for pattern in self.boards):
            return None
        versions = {}
        for requirement in map(Requirement, self.packages):
            version = installed(requirement.name)
            if version is None or not requirement.specifier.contains(version, prereleases=True):
                return None
            versions[requirement.name] = version
        return versions


@cache
def known_bad() -> tuple[KnownBad, ...]:
    """The combinations in the shipped file. Raises ProfileError for anything unknown in it."""
    tables = tomllib.loads((files("edgekit.config") / FILE).read_text("utf-8"))
    return tuple(build(KnownBad, row, f"{FILE}: {row.get('name', '')}") for row in tables["known_bad"])


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
