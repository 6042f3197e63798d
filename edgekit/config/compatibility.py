"""The platforms that edgekit runs on, and combinations of packages and machines that are known to fail.

The platforms of a runtime are in the table of runtimes, all other rows in compatibility.toml. `edgekit doctor` and the
reference page read both through this module.
"""

import re
import tomllib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from functools import cache
from importlib.resources import files
from typing import Literal

from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import InvalidSpecifier, SpecifierSet

from edgekit.config.runtimes import RUNTIMES, Machine, Wheels
from edgekit.config.toml_reader import build
from edgekit.errors import ProfileError

FILE = "compatibility.toml"
_ISSUE = re.compile(r"([\w.-]+/[\w.-]+)#(\d+)")


@dataclass(frozen=True, kw_only=True)
class Support(Wheels):
    """One package that edgekit needs, on one kind of processor."""

    runtime: str | None = None
    """Name of the runtime that the package brings, as in `RUNTIMES`; None for what makes bundles."""
    package: str
    """The package and its accepted versions, as a requirement that pip understands."""

    @property
    def title(self) -> str:
        """Purpose of the package, as a table names it."""
        return RUNTIMES[self.runtime].title if self.runtime else "Making bundles"

    @property
    def requirement(self) -> Requirement:
        """`package`, parsed."""
        return Requirement(self.package)


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

    @property
    def requirements(self) -> tuple[Requirement, ...]:
        """`packages`, parsed."""
        return tuple(Requirement(package) for package in self.packages)

    @property
    def versions(self) -> str:
        """The packages and their versions as a table shows them, such as "torch <2.12, torchao (any version)"."""
        return ", ".join(f"{r.name} {r.specifier or '(any version)'}" for r in self.requirements)

    @property
    def board(self) -> str:
        """The machines on which it fails as a table shows them, such as "Raspberry Pi 4 (aarch64)"."""
        names = ", ".join(pattern.rstrip("*") for pattern in self.boards)
        return f"{names} ({self.machine})" if names and self.machine else names or self.machine or "any"

    @property
    def links(self) -> tuple[tuple[str, str | None], ...]:
        """Each source and its address, which is None for a source in words."""
        return tuple((source, _address(source)) for source in self.sources)

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
        for requirement in self.requirements:
            version = installed(requirement.name)
            if version is None or not requirement.specifier.contains(version, prereleases=True):
                return None
            versions[requirement.name] = version
        return versions


@dataclass(frozen=True, kw_only=True)
class Compatibility:
    """The contents of compatibility.toml."""

    builders: tuple[Support, ...]
    """Packages that make bundles."""
    known_bad: tuple[KnownBad, ...]
    """Combinations that are known to fail."""

    @property
    def support(self) -> tuple[Support, ...]:
        """The packages of all runtimes in the order of the table, and those that make bundles."""
        runtimes = [
            Support(runtime=runtime.name, package=runtime.requirement, **asdict(wheels))
            for runtime in RUNTIMES.values()
            for wheels in runtime.wheels
        ]
        return (*runtimes, *self.builders)

    def support_of(self, runtime: str, machine: str) -> Support | None:
        """The row of a runtime on a kind of processor, or None if it has no wheels there."""
        return next((row for row in self.support if (row.runtime, row.machine) == (runtime, machine)), None)


@cache
def load_compatibility() -> Compatibility:
    """Read the shipped file."""
    return parse((files("edgekit.config") / FILE).read_text(encoding="utf-8"))


def parse(text: str) -> Compatibility:
    """Read the text of such a file; raises ProfileError for anything unknown or malformed in it."""
    tables = tomllib.loads(text)
    if tables.keys() != {"support", "known_bad"}:
        raise ProfileError(f"{FILE} has the tables {', '.join(tables)}", valid="support and known_bad")
    support = tuple(build(Support, row, f"{FILE}: support") for row in tables["support"])
    known_bad = tuple(build(KnownBad, row, f"{FILE}: {row.get('name', 'known_bad')}") for row in tables["known_bad"])
    _check_requirements([row.package for row in support])
    for row in known_bad:
        _check_requirements([*row.packages, *row.uninstall, *row.install], row.python, row.name)
    return Compatibility(builders=support, known_bad=known_bad)


def _check_requirements(requirements: list[str], python: str = "", name: str = "support") -> None:
    try:
        for requirement in requirements:
            Requirement(requirement)
        SpecifierSet(python)
    except (InvalidRequirement, InvalidSpecifier) as error:
        raise ProfileError(f"{FILE}: {name}: {error}", valid="requirements such as torch>=2.12,<2.14") from error


def _address(source: str) -> str | None:
    issue = _ISSUE.fullmatch(source)
    return f"https://github.com/{issue[1]}/issues/{issue[2]}" if issue else None
