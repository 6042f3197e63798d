"""Combinations of packages and machines that are known to fail, from compatibility.toml, for `edgekit doctor`."""

import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from importlib.resources import files
from typing import Literal

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from edgekit.config.runtimes import Machine, build

FILE = "compatibility.toml"


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
    tables = tomllib.loads((files("edgekit.config") / FILE).read_text(encoding="utf-8"))
    return tuple(build(KnownBad, row, f"{FILE}: {row.get('name', '')}") for row in tables["known_bad"])
