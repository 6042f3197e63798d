"""Instructions of one inference, counted on a Raspberry Pi's core under a real arm64 kernel in QEMU.

With `-icount shift=0` the machine's clock goes on by one nanosecond with each instruction, so that times are counts,
whatever the host does. Counting takes about a minute for each runtime and core.
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
from benchmarks.pilib import debian, guest
from edgekit.config.runtimes import RUNTIMES
from edgekit.devices.wheel import REQUIREMENTS, own_wheel
from edgekit.runtime.bundle import read_bundle
from edgekit.support.files import replacing

Row = dict[str, Any]

CORES = {"cortex-a76": "raspberry-pi-5", "cortex-a72": "raspberry-pi-4"}
"""The cores that are counted on, and the device class that has each."""
SUITE = "trixie"
RUNS = 3
"""Inferences that are counted, after those that warm up; the first of these may still differ by 0.5 %."""
MEMORY = "4G"
"""Of the machine; the host gives what is touched: about 1 GB, and the models."""
LIMIT_S = 1800
_RUNTIMES = {".onnx": "onnx", ".tflite": "tflite", ".xml": "openvino"}


def count(
    files: Mapping[str, Path], core: str = "cortex-a76", images: NDArray[np.float32] | None = None
) -> dict[str, float]:
    """Millions of instructions of one inference of bundles or model files, by name; one thread, batch 1.

        python -c 'from pathlib import Path; from benchmarks.pilib.counting import count; print(count({
            "ours": Path("runs/demo/tflite-int8"), "theirs": Path("their.tflite")}, "cortex-a72"))'

    A file's runtime is told by its suffix: .onnx, .tflite or .xml. `images` are float32 [N,3,H,W]; without them one of
    noise is made in the shape of the first bundle, or 224 x 224. Needs Debian, root, and what `debian.need` names.
    Raises RuntimeError if one of them can't be run.
    """
    candidates = [_candidate(name, Path(path)) for name, path in files.items()]
    if images is None:
        bundle = next((each for each in candidates if each.maker == "edgekit"), None)
        shape = (1, 3, 224, 224) if bundle is None else read_bundle(bundle.path).manifest.input_shape
        images = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    rows = count_candidates(candidates, images, core)
    failed = [f"{row['name']}: {row['error']}" for row in rows if "error" in row]
    if failed:
        raise RuntimeError("; ".join(failed))
    return {row["name"]: row["instructions"] / 1e6 for row in rows}


def count_candidates(candidates: Sequence[Candidate], images: NDArray[np.float32], core: str) -> list[Row]:
    """{"name", "instructions", "logits": float32 [N,classes], "kernel"} of each, or {"name", "error"}.

    One machine is started for each runtime.
    """
    if core not in CORES:
        raise ValueError(f"the core is '{core}': valid are {', '.join(CORES)}")
    debian.need("mmdebstrap", "arch-test", "qemu-system-aarch64", "cpio")
    found: dict[int, Row] = {}
    for runtime in dict.fromkeys(candidate.runtime for candidate in candidates):
        places = [place for place, candidate in enumerate(candidates) if candidate.runtime == runtime]
        rows = _boot(runtime, [candidates[place] for place in places], images, core)
        found |= zip(places, rows, strict=True)
    return [found[place] for place in range(len(candidates))]


def _candidate(name: str, path: Path) -> Candidate:
    if path.is_dir():
        manifest = read_bundle(path).manifest
        return Candidate(name, manifest.target, "edgekit", manifest.precision, path)
    if path.suffix not in _RUNTIMES:
        raise ValueError(f"'{path}' is neither a bundle nor a model file: valid suffixes are {', '.join(_RUNTIMES)}")
    return Candidate(name, _RUNTIMES[path.suffix], "stock", "float", path)


def _boot(runtime: str, candidates: list[Candidate], images: NDArray[np.float32], core: str) -> list[Row]:
    """Start a machine whose memory holds the userland, the runtime and the job; what its console said."""
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
        raise RuntimeError(f"QEMU ended with {done.returncode}: {done.stderr.decode(errors='replace')[-2000:]}")
    return _read(done.stdout.decode(errors="replace"))


def _read(console: str) -> list[Row]:
    said = [json.loads(line.removeprefix(guest.MARK)) for line in console.splitlines() if line.startswith(guest.MARK)]
    if not said or "end" not in said[-1]:
        raise RuntimeError(f"the emulated machine ended early; last on its console: {console[-2000:]}")
    return [_row(row, said[0]["kernel"]) for row in said[1:-1]]


def _row(said: Row, kernel: str) -> Row:
    if "error" in said:
        return said
    logits = np.array(said["logits"], np.float32)
    return {"name": said["name"], "instructions": said["nanoseconds"], "logits": logits, "kernel": kernel}


def _userland_archive() -> Path:
    archive = debian.KEPT / f"{SUITE}.cpio"
    if not archive.exists():
        _write(archive, debian.userland(SUITE))
    return archive


def _runtime_archive(runtime: str) -> Path:
    archive = debian.KEPT / f"{SUITE}-{runtime}.cpio"
    if not archive.exists():
        packages = debian.packages(SUITE, runtime, [*REQUIREMENTS, RUNTIMES[runtime].requirement])
        with tempfile.TemporaryDirectory(dir=debian.KEPT) as scratch:
            packages.rename(Path(scratch) / "packages")
            _write(archive, Path(scratch))
    return archive


def _job(candidates: Sequence[Candidate], images: NDArray[np.float32], root: Path) -> Path:
    """A folder with init, edgekit, and the job."""
    job = root / "job"
    package = Path(__file__).parents[1]
    shutil.copytree(package / "peerlib", job / "benchmarks" / "peerlib")
    shutil.copy(package / "__init__.py", job / "benchmarks")
    with zipfile.ZipFile(io.BytesIO(own_wheel())) as wheel:
        wheel.extractall(job)
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
        for each in {path, path.with_name(f"{path.name}.data"), path.with_suffix(".bin")}:
            if each.exists():
                shutil.copy(each, place)
        sent.append(replace(candidate, path=Path(str(index)) / candidate.path.name))
    fields = [asdict(each) | {"path": str(each.path)} for each in sent]
    (job / "job.json").write_text(json.dumps({"runs": RUNS, "candidates": fields}))
    return root


def _write(archive: Path, folder: Path) -> None:
    with replacing(archive) as beside, beside.open("wb") as out:
        _pack(folder, out)


def _pack(folder: Path, out: Any) -> None:
    """A cpio archive as the kernel unpacks it; several may follow one another."""
    names = [str(path.relative_to(folder)) for path in sorted(folder.rglob("*"))]
    listed = b"".join(name.encode() + b"\0" for name in names)
    done = subprocess.run(
        ["cpio", "--null", "--create", "--format=newc", "--quiet"], input=listed, stdout=out, cwd=folder, check=True
    )
    assert done.returncode == 0
