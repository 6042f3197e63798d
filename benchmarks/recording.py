"""Says of which code and machine a recorded figure is, and whether that code has changed since."""

import ast
import hashlib
import io
import json
import re
import subprocess
import sys
import tokenize
import tomllib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
from filelock import FileLock

from edgekit.config.runtimes import RUNTIMES
from edgekit.measure import machine
from edgekit.support.files import replace_text

ROOT = Path(__file__).resolve().parent.parent
RECORDINGS = "recordings.json"
"""The file, beside those with figures, that has the recordings."""
BUNDLES = ("calibration", "edgekit/compiler", "edgekit/runtime")
"""What a bundle and its speed depend on: recipes, compiler and runtimes. A figure in README may not be older."""
ROOMS = ("edgekit", *BUNDLES)
PACKAGES = ("torch", "nncf", "openvino", "onnxruntime", "ai-edge-litert", "litert-quantizer")
KERNELS = (
    "avx2",
    "avx512f",
    "avx512_vnni",
    "avx_vnni",
    "avx512_bf16",
    "amx_int8",
    "amx_bf16",
    "asimddp",
    "i8mm",
    "bf16",
)
"""The processor's features that choose kernels, as Linux names them."""
GAINS = {
    "amx_int8": "AMX",
    "avx512_vnni": "AVX-512 VNNI",
    "avx512_bf16": "bf16",
    "asimddp": "dot products",
    "i8mm": "i8mm",
    "bf16": "bf16",
}
"""Those that decide how much INT8 gains over float, in the words of the pages."""


@dataclass(frozen=True)
class Recording:
    """The commit and the machine of a file of figures."""

    commit: str
    """The first ten digits."""
    date: str
    code: dict[str, str]
    """SHA-256 of each of `ROOMS`, of its statements without comments and docstrings."""
    cpu: str
    features: list[str]
    """Those of `KERNELS` that the processor has."""
    clock_mhz: float | None
    cores: int | None
    system: str | None
    python: str | None
    versions: dict[str, str]
    renewed: str | None = None
    """A later commit that makes the same bundles, byte for byte."""

    def of_today(self, rooms: Iterable[str] = BUNDLES) -> bool:
        """Whether the code in these rooms is as it was."""
        return all(self.code[room] == code_sha256(room) for room in rooms)

    @property
    def kind(self) -> str:
        """The kind of processor, as `kind_of` has it."""
        return kind_of(self.cpu, self.features)

    @property
    def where(self) -> str:
        """The processor, its features and cores, in words."""
        clock = f" at {self.clock_mhz:.0f} MHz" if self.clock_mhz else ""
        return ", ".join([f"{self.cpu}{clock}", f"{self.cores} cores", *filter(None, [" ".join(self.features)])])

    @property
    def machine(self) -> str:
        """What the figures depend on besides edgekit, as text."""
        return json.dumps([self.cpu, self.features, self.cores, self.system, self.python, self.versions])


def kind_of(cpu: str, features: Sequence[str]) -> str:
    """A processor's maker and what decides there how much INT8 gains, such as "AMD, AVX-512 VNNI, bf16"."""
    gains = [words for name, words in GAINS.items() if name in features] or ["no VNNI"]
    return ", ".join([re.split(r"\W", cpu)[0], *gains])


def kind_here() -> str:
    """The kind of this machine's processor."""
    return kind_of(machine.describe().cpu or "unknown", features())


def new_recording() -> Recording:
    """The present commit on this machine; SystemExit if edgekit differs from the commit."""
    if git("status", "--porcelain", "--", "edgekit", "calibration", "targets"):
        raise SystemExit("edgekit, calibration or targets differ from the last commit, to which figures belong: commit")
    facts, clock = machine.describe(), psutil.cpu_freq()
    return Recording(
        commit=git("rev-parse", "HEAD")[:10],
        date=datetime.now(UTC).date().isoformat(),
        code={room: code_sha256(room) for room in ROOMS},
        cpu=facts.cpu or "unknown",
        features=features(),
        clock_mhz=round(clock.current) if clock else None,
        cores=facts.cores,
        system=facts.system,
        python=facts.python,
        versions={name: version(name).partition("+")[0] for name in PACKAGES},
    )


def keep_recording(folder: Path, recording: Recording, *files: str) -> str:
    """Add a recording to those of a folder's figures, also as that of whole files; returns its name."""
    name = f"{recording.commit}-{hashlib.sha256(recording.machine.encode()).hexdigest()[:4]}"
    with _changed(folder) as document:
        document["recordings"].setdefault(name, asdict(recording))
        document["files"] |= dict.fromkeys(files, name)
    return name


def renew_recording(path: Path) -> None:
    """Let the recording of a whole file be of today's code, which makes the same bundles; no other figures share it."""
    today, commit = {room: code_sha256(room) for room in ROOMS}, git("rev-parse", "HEAD")[:10]
    with _changed(path.parent) as document:
        name = document["files"][path.name]
        renewed = document["recordings"][name] | {"code": today, "renewed": commit}
        document["files"][path.name] = f"{name.partition('-renewed')[0]}-renewed-{commit}"
        document["recordings"][document["files"][path.name]] = renewed


@contextmanager
def _changed(folder: Path) -> Iterator[dict[str, dict[str, Any]]]:
    """The recordings of a folder's figures as they are written, to be changed by one process at a time."""
    path = folder / RECORDINGS
    with FileLock(path.with_name(f".{path.name}.lock")):
        document = _read(folder)
        yield document
        replace_text(path, json.dumps(document, indent=1) + "\n")


def recordings(folder: Path) -> dict[str, Recording]:
    """The recordings of a folder's figures by name."""
    return {name: Recording(**each) for name, each in _read(folder)["recordings"].items()}


def names_of_today(folder: Path, now: Recording) -> set[str]:
    """The recordings of bundles as they are made today, on this machine."""
    known = recordings(folder).items()
    return {name for name, recording in known if recording.of_today() and recording.machine == now.machine}


def recording_of(path: Path) -> Recording | None:
    """The recording of a whole file; None for figures of before recordings."""
    name = _read(path.parent)["files"].get(path.name)
    return recordings(path.parent)[name] if name else None


def _read(folder: Path) -> dict[str, dict[str, Any]]:
    path = folder / RECORDINGS
    document: dict[str, dict[str, Any]] = json.loads(path.read_text()) if path.exists() else {}
    return document or {"files": {}, "recordings": {}}


def features() -> list[str]:
    """Those of `KERNELS` that Linux lists for this processor."""
    text = Path("/proc/cpuinfo").read_text(encoding="utf-8") if Path("/proc/cpuinfo").exists() else ""
    found = re.search(r"^(?:flags|Features)\s*:(.*)$", text, re.MULTILINE)
    own = set(found.group(1).split()) if found else set()
    return [name for name in KERNELS if name in own]


def git(*words: str) -> str:
    """What a command of git prints; SystemExit outside of a clone."""
    done = subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"git {' '.join(words)}: {done.stderr.strip()}; record figures in a clone of the repository")
    return done.stdout.strip()


@cache
def code_sha256(room: str) -> str:
    """SHA-256 of the statements of a folder's Python and TOML files: not of comments, docstrings or layout."""
    files = sorted(path for path in (ROOT / room).rglob("*") if path.suffix in (".py", ".toml"))
    text = "".join(f"{name_of(path)}\n{statements(path.read_text(encoding='utf-8'), path.suffix)}\n" for path in files)
    return hashlib.sha256(text.encode()).hexdigest()


def changed_modules(commit: str) -> list[str]:
    """The files of edgekit/runtime that opening a bundle loads and whose statements differ from a commit's."""
    engines = ", ".join(f"edgekit.runtime.{name}.engine" for name in RUNTIMES)
    code = (
        f"import sys, {engines}; print(*(getattr(each, '__file__', None) for each in sys.modules.values()), sep='\\n')"
    )
    printed = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    loaded = [path for path in map(Path, printed.splitlines()) if path.is_relative_to(ROOT / "edgekit/runtime")]
    before = git("ls-tree", "-r", "--name-only", commit, "edgekit/runtime").splitlines()

    def changed(path: Path) -> bool:
        name = name_of(path)
        old = git("show", f"{commit}:{name}") if name in before else ""
        return statements(old, path.suffix) != statements(path.read_text(encoding="utf-8"), path.suffix)

    return [name_of(path) for path in loaded if changed(path)]


def name_of(path: Path) -> str:
    """A file's path in the repository."""
    return path.relative_to(ROOT).as_posix()


def statements(text: str, suffix: str) -> str:
    """A file's text without comments, docstrings and white space, which is the same for every version of Python."""
    if suffix == ".toml":
        return json.dumps(tomllib.loads(text), sort_keys=True)
    lines = [line.encode() for line in io.StringIO(text)]
    for (first, start), (last, end) in sorted([*_docstrings(text), *_comments(text)], reverse=True):
        lines[first - 1 : last] = [lines[first - 1][:start] + lines[last - 1][end:]]
    return "".join(b"".join(lines).decode().split())


Span = tuple[tuple[int, int], tuple[int, int]]
"""The line and the byte in it of a start and of an end."""


def _docstrings(text: str) -> Iterator[Span]:
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Expr) and isinstance(value := node.value, ast.Constant):
            yield (value.lineno, value.col_offset), (value.end_lineno or 0, value.end_col_offset or 0)


def _comments(text: str) -> Iterator[Span]:
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            line, before = token.start[0], len(token.line[: token.start[1]].encode())
            yield (line, before), (line, before + len(token.string.encode()))
