"""Converts a network for MNN and ncnn with their own converters, which live in an environment under build/."""

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from unittest.mock import patch

import torch
from torch import nn

from benchmarks.peerlib.wheels import WHEELS
from edgekit.support.files import replacing

ENVIRONMENT = Path(__file__).resolve().parents[2] / "build" / "converters"
# The wheel's own command installs a package that reports its use; the C module below it doesn't.
_MNNCONVERT = "import sys, _tools; _tools.mnnconvert(sys.argv)"


def convert_mnn(module: nn.Module, example: torch.Tensor, path: Path) -> None:
    """Write an .mnn file with the input "image" and the output "logits"."""
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "model.onnx"
        # In opset 18 a ReduceL2 has its axes as an input, which MNN 3.6 takes for all axes.
        torch.onnx.export(
            module, (example,), file, dynamo=False, opset_version=17, input_names=["image"], output_names=["logits"]
        )
        out = Path(scratch) / path.name
        python = environment() / "bin" / "python"
        _run([python, "-c", _MNNCONVERT, "-f", "ONNX", "--modelFile", file, "--MNNModel", out, "--bizCode", "x"])
        out.replace(path)


def convert_ncnn(module: nn.Module, example: torch.Tensor, path: Path) -> None:
    """Write NAME.param and NAME.bin, with the input "in0" and the output "out0"; `path` is NAME.param."""
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "model.pt"
        with patch.object(torch, "addcmul", _addcmul):
            torch.jit.trace(module, (example,)).save(str(file))
        (program,) = environment().glob("lib/python*/site-packages/pnnx/pnnx")
        program.chmod(0o755)
        shape = str(list(example.shape)).replace(" ", "")
        _run([program, file, f"inputshape={shape}f32", "fp16=0"], cwd=scratch)
        (Path(scratch) / "model.ncnn.bin").replace(path.with_suffix(".bin"))
        (Path(scratch) / "model.ncnn.param").replace(path)


def _addcmul(start: torch.Tensor, one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """torch.addcmul by operators that pnnx knows. It would leave addcmul out of the file."""
    return start + one * other


def environment() -> Path:
    """The environment, which is made if it doesn't exist."""
    if not ENVIRONMENT.exists():
        with replacing(ENVIRONMENT) as beside:
            _run([sys.executable, "-m", "venv", beside])
            requirements = [wheel.converter for wheel in WHEELS.values()]
            _run([beside / "bin" / "python", "-m", "pip", "install", "-q", "--no-deps", "numpy", *requirements])
    return ENVIRONMENT


def _run(command: Sequence[str | Path], cwd: str | None = None) -> None:
    done = subprocess.run([str(word) for word in command], cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        last = ((done.stderr or done.stdout).strip().splitlines() or [""])[-1]
        raise RuntimeError(f"{Path(command[0]).name} ended with status {done.returncode}: {last}")
