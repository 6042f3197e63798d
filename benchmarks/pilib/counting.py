"""Counts the instructions of an inference on a Raspberry Pi's core under a real arm64 kernel in QEMU.

With `-icount shift=0` the machine's clock advances by one nanosecond per instruction, so times are counts of
instructions, whatever the load of the host. Counting takes about a minute for each runtime and core.
"""

import io
import json
import shutil
import subprocess
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.peerlib.candidates import Candidate
from benchmarks.peerlib.wheels import WHEELS
from benchmarks.pilib import debian, executorch, guest
from edgekit.config.runtimes import RUNTIMES
from edgekit.devices.setup import REQUIREMENTS, own_package
from edgekit.runtime.bundle import read_bundle
from edgekit.support.files import replacing

Row = dict[str, Any]

CORES = {"cortex-a76": "raspberry-pi-5", "cortex-a72": "raspberry-pi-4"}
"""Emulated cores, each with the device class that has it."""
SUITE = "trixie"
"""Debian's release in the emulated machine."""
MEMORY = "4G"
"""Memory of the machine. The host only allocates what is used: about 1 GB plus the models."""
LIMIT_S = 7200
"""Time limit of one emulated machine."""
_RUNTIMES = {".onnx": "onnx", ".tflite": "tflite", ".xml": "openvino", ".pte": "executorch"}


def count(
    files: Mapping[str, Path], core: str = "cortex-a76", images: NDArray[np.float32] | None = None
) -> dict[str, float]:
    """Millions of instructions of one inference of bundles or model files by name, with one thread and batch 1.

        python -c 'from pathlib import Path; from benchmarks.pilib.counting import count; print(count({
            "ours": Path("runs/demo/tflite-int8"), "theirs": Path("their.tflite")}, "cortex-a72"))'

    A file's suffix determines its runtime: .onnx, .tflite, .xml or .pte. `images` are float32 [N,3,H,W] and default to
    one image of noise with the size of the first bundle, or 224 x 224. It needs Debian, root and the programs that
    `debian.need` lists. Raises RuntimeError if a file can't be run.
    """
    candidates = [_candidate(name, Path(path)) for name, path in files.items()]
    if images is None:
        bundle = next((candidate for candidate in candidates if candidate.maker == "edgekit"), None)
        shape = (1, 3, 224, 224) if bundle is None else read_bundle(bundle.path).manifest.input_shape
        images = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    rows = count_candidates(candidates, images, core)
    failed = [f"{row['name']}: {row['error']}" for row in rows if "error" in row]
    if failed:
        raise RuntimeError("; ".join(failed))
    return {row["name"]: row["instructions"] / 1e6 for row in rows}


def count_candidates(candidates: Sequence[Candidate], images: NDArray[np.float32], core: str) -> list[Row]:
    """Return {"name", "instructions", "logits": float32 [N,classes], "kernel"} or {"name", "error"} of each candidate.

    It starts one machine for each runtime.
    """
    if core not in CORES:
        raise ValueError(f"the core is '{core}'; valid cores are {', '.join(CORES)}")
    debian.need("mmdebstrap", "arch-test", "qemu-system-aarch64", "cpio")
    rows_by_place: dict[int, Row] = {}
    for runtime in dict.fromkeys(candidate.runtime for candidate in candidates):
        places = [place for place, candidate in enumerate(candidates) if candidate.runtime == runtime]
        rows = _boot(runtime, [candidates[place] for place in places], images, core)
        rows_by_place |= zip(places, rows, strict=True)
    return [rows_by_place[place] for place in range(len(candidates))]


def _candidate(name: str, path: Path) -> Candidate:
    if path.is_dir():
        manifest = read_bundle(path).manifest
        return Candidate(name, manifest.target, "edgekit", manifest.precision, path)
    if path.suffix not in _RUNTIMES:
        raise ValueError(f"'{path}' is neither a bundle nor a model file; valid suffixes are {', '.join(_RUNTIMES)}")
    return Candidate(name, _RUNTIMES[path.suffix], "stock", "float", path)


def _boot(runtime: str, candidates: list[Candidate], images: NDArray[np.float32], core: str) -> list[Row]:
    """Start a machine with the userland, the runtime and the job in its memory; return the rows that it prints."""
    with tempfile.TemporaryDirectory(dir=debian.KEPT if debian.KEPT.exists() else None) as scratch:
        initrd = Path(scratch) / "initrd"
        with initrd.open("wb") as out:
            for archive in (_userland_archive(), _runtime_archive(runtime)):
                with archive.open("rb") as file:
                    shutil.copyfileobj(file, out)
            _pack(_job(candidates, images, Path(scratch) / "root"), out)
        command = ["qemu-system-aarch64", "-M", "virt", "-cpu", core, "-smp", "1", "-m", MEMORY, "-nographic"]
        command += ["-no-reboot", "-nic", "none", "-icount", "shift=0,sleep=off", "-kernel", str(debian.kernel())]
        command += ["-initrd", str(initrd), "-append", "console=ttyAMA0 rdinit=/init quiet"]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=LIMIT_S, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"QEMU ended with status {done.returncode}: {done.stderr.decode(errors='replace')[-2000:]}")
    return _read(done.stdout.decode(errors="replace"))


def _read(console: str) -> list[Row]:
    lines = [json.loads(line.removeprefix(guest.MARK)) for line in console.splitlines() if line.startswith(guest.MARK)]
    if not lines or "end" not in lines[-1]:
        raise RuntimeError(f"the emulated machine ended early; its last output is: {console[-2000:]}")
    return [_row(line, lines[0]["kernel"]) for line in lines[1:-1]]


def _row(line: Row, kernel: str) -> Row:
    if "error" in line:
        return line
    logits = np.array(line["logits"], np.float32)
    return {"name": line["name"], "instructions": line["nanoseconds"], "logits": logits, "kernel": kernel}


def _userland_archive() -> Path:
    archive = debian.KEPT / f"{SUITE}.cpio"
    if not archive.exists():
        _write(archive, debian.userland(SUITE))
    return archive


def _runtime_archive(runtime: str) -> Path:
    archive = debian.KEPT / f"{SUITE}-{runtime}.cpio"
    if not archive.exists():
        own = [table[runtime].requirement for table in (RUNTIMES, WHEELS) if runtime in table]
        packages = debian.packages(SUITE, runtime, [*REQUIREMENTS, *own])
        with tempfile.TemporaryDirectory(dir=debian.KEPT) as scratch:
            place = packages.rename(Path(scratch) / "packages")
            if runtime == "executorch":
                executorch.build(SUITE, place / "executorch")
            _write(archive, Path(scratch))
    return archive


def _job(candidates: Sequence[Candidate], images: NDArray[np.float32], root: Path) -> Path:
    """Fill the root folder with init, edgekit and the job."""
    job = root / "job"
    package = Path(__file__).parents[1]
    for name in ("peerlib", "pilib"):
        shutil.copytree(package / name, job / "benchmarks" / name)
    shutil.copy(package / "__init__.py", job / "benchmarks")
    with zipfile.ZipFile(io.BytesIO(own_package())) as archive:
        archive.extractall(job)
    init = root / "init"
    init.write_text(f"#!/usr/bin/python3\n{Path(guest.__file__).read_text()}")
    init.chmod(0o755)
    np.save(job / "images.npy", images)
    sent = []
    for index, candidate in enumerate(candidates):
        place = job / str(index)
        if candidate.path.is_dir():
            shutil.copytree(candidate.path, place)
            sent.append(replace(candidate, path=Path(str(index))))
            continue
        place.mkdir()
        path = candidate.path
        for file in {path, path.with_name(f"{path.name}.data"), path.with_suffix(".bin")}:
            if file.exists():
                shutil.copy(file, place)
        sent.append(replace(candidate, path=Path(str(index)) / candidate.path.name))
    fields = [asdict(candidate) | {"path": str(candidate.path)} for candidate in sent]
    (job / "job.json").write_text(json.dumps({"candidates": fields}))
    return root


def _write(archive: Path, folder: Path) -> None:
    with replacing(archive) as beside, beside.open("wb") as out:
        _pack(folder, out)


def _pack(folder: Path, out: Any) -> None:
    """Write a cpio archive of the kind that the kernel unpacks; `out` may contain several."""
    names = [str(path.relative_to(folder)) for path in sorted(folder.rglob("*"))]
    listed = b"".join(name.encode() + b"\0" for name in names)
    done = subprocess.run(
        ["cpio", "--null", "--create", "--format=newc", "--quiet"], input=listed, stdout=out, cwd=folder, check=True
    )
    assert done.returncode == 0
