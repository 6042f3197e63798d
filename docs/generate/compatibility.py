"""Tables of supported platforms and of combinations that fail, from what `edgekit doctor` reads."""

import re
import tomllib
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from packaging.requirements import Requirement

from docs.generate.markdown import code, plain, table
from edgekit.config.runtimes import CI, PYTHONS, RUNTIMES, Wheels
from edgekit.devices import doctor
from edgekit.devices.doctor import KnownBad

ISSUE = re.compile(r"([\w.-]+/[\w.-]+)#(\d+)")
BUILDERS = (
    Wheels(machine="x86_64", pythons=PYTHONS, glibc="2.28", tested=CI),
    Wheels(machine="aarch64", pythons=PYTHONS, glibc="2.28"),
)
"""The platforms of torch, the only package of the extra `build` with wheels for each platform."""


def supported() -> str:
    """A line for each runtime, and what the tests run on."""
    packages: dict[tuple[str, ...], list[str]] = defaultdict(list)
    tested: dict[str, list[str]] = defaultdict(list)
    for title, package, row in platforms():
        packages[title, code(package), ", ".join(row.pythons)].append(f"{row.machine}: {row.glibc}")
        tested[f"{row.machine}: {', '.join(row.tested) or 'not tested'}"].append(title)
    heads = ("runtime", "package", "Python", "oldest glibc")
    lines = [f"- {', '.join(titles)} on {where}" for where, titles in tested.items()]
    rows = [(*facts, ", ".join(versions)) for facts, versions in packages.items()]
    return "\n".join((table(heads, rows), "", "What edgekit's own tests run on:", "", *lines, ""))


def platforms() -> Iterator[tuple[str, str, Wheels]]:
    """Purpose, requirement and wheels of each package that edgekit needs, on each kind of processor."""
    for runtime in RUNTIMES.values():
        yield from ((runtime.title, runtime.requirement, wheels) for wheels in runtime.wheels)
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    torch = next(each for each in project["optional-dependencies"]["build"] if Requirement(each).name == "torch")
    yield from (("Making bundles", torch, wheels) for wheels in BUILDERS)


def known_bad() -> str:
    """A section for each combination that is known to fail."""
    return "\n\n".join(part for row in doctor.known_bad() for part in _section(row)) + "\n"


def _section(row: KnownBad) -> tuple[str, ...]:
    sources = ", ".join(
        f"[{plain(text)}]({address})" if (address := _address(text)) else plain(text) for text in row.sources
    )
    python = f", Python {plain(row.python)}" if row.python else ""
    place = machines(row)
    where = f" on {place}" if place else ""
    effect = f"{code(versions(row))}{python}{where}: {plain(row.effect)} ({row.status})."
    return f"### {row.name}", f"{effect} {plain(row.cure)}. Sources: {sources}."


def versions(row: KnownBad) -> str:
    """The packages and their versions, such as "torch <2.12, torchao (any version)"."""
    return ", ".join(f"{r.name} {r.specifier or '(any version)'}" for r in map(Requirement, row.packages))


def machines(row: KnownBad) -> str:
    """The machines on which it fails, such as "Raspberry Pi 4 (aarch64)"; empty for all."""
    names = ", ".join(pattern.rstrip("*") for pattern in row.boards)
    return f"{names} ({row.machine})" if names and row.machine else names or row.machine or ""


def _address(source: str) -> str | None:
    issue = ISSUE.fullmatch(source)
    return f"https://github.com/{issue[1]}/issues/{issue[2]}" if issue else None
