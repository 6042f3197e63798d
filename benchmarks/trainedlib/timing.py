"""Times the files that measuring.py left, and compares them with the fastest float of the runtime. No torch needed."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from benchmarks.machine import when_idle
from benchmarks.peerlib.candidates import BF16, Candidate
from benchmarks.peerlib.results import versus
from benchmarks.peerlib.timing import Times, time_all
from benchmarks.peers import alone
from benchmarks.recording import features
from benchmarks.rows import Row
from benchmarks.trainedlib.choices import CHOICES
from edgekit.config.runtimes import RUNTIMES

FLOAT, IMAGE = "float", "image.npy"
"""Folder of edgekit's float bundle in that of a runtime, and file of an image in that of a network."""
SECONDS = 6
"""Timing of each network and runtime."""


def models_of(cache: Path, network: str) -> Path:
    """The folder of a network's files."""
    return cache / "models" / network


def time_files(folder: Path, runtime: str, choices: list[str]) -> dict[str, Row]:
    """The times of a runtime's choices that have files, each with its speed against the fastest float, when idle."""
    floats, files = list(_floats(folder / runtime, runtime)), list(_files(folder / runtime, runtime, choices))
    if not floats or not files:
        return {}
    image = np.load(folder / IMAGE)
    times, conditions = when_idle(
        lambda: alone(time_all, floats + files, image, (1,), SECONDS), f"{folder.name} on {runtime}"
    )
    about = {"created": datetime.now(UTC).isoformat(timespec="seconds"), **asdict(conditions)}
    compared = compare(times, [each.name for each in floats], [each.name for each in files])
    return {name: row | about for name, row in compared.items()}


def compare(times: Mapping[str, Times], floats: list[str], files: list[str]) -> dict[str, Row]:
    """Median time of each file in milliseconds, and how many times as fast as the fastest of the floats it is."""
    own = {name: each[1] for name, each in times.items()}
    ms = {name: round(float(np.median(np.concatenate(each))), 4) for name, each in own.items()}
    fastest = min(floats, key=ms.__getitem__)
    return {
        name: {"ms": ms[name], **_rounded(versus(own[fastest], own[name])), "float": fastest, "float_ms": ms[fastest]}
        for name in files
    }


def _rounded(ratio: Row) -> Row:
    return {"ratio": round(ratio["ratio"], 4), "ci95": [round(end, 4) for end in ratio["ci95"]]}


def _floats(folder: Path, runtime: str) -> Iterator[Candidate]:
    """The float files of edgekit and of the stock tools, those of OpenVINO also in bf16."""
    plain = sorted(folder.glob(f"*/*float{RUNTIMES[runtime].model_suffix}"))
    found = [("edgekit", folder / FLOAT)] if (folder / FLOAT).exists() else []
    for maker, path in found + [("stock", path) for path in plain[:1]]:
        yield Candidate(f"{maker} float", runtime, maker, "float", path)
        if runtime == "openvino" and "avx512_bf16" in features():
            yield Candidate(f"{maker} float, {BF16}", runtime, maker, BF16, path, options={"hint": BF16})


def _files(folder: Path, runtime: str, choices: list[str]) -> Iterator[Candidate]:
    """The INT8 file of each choice that has one."""
    for choice in choices:
        if CHOICES[choice].stock:
            suffix = RUNTIMES[runtime].model_suffix
            made = [path for path in (folder / choice).glob(f"*{suffix}") if FLOAT not in path.name]
            yield from (Candidate(choice, runtime, "stock", "int8", path) for path in made)
        elif (folder / choice).exists():
            yield Candidate(choice, runtime, "edgekit", "int8", folder / choice)
