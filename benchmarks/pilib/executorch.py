"""ExecuTorch in the emulated machine, without torch, whose arm64 wheel needs CUDA.

A small library of ours, executorch.cpp, is linked to the shared libraries of ExecuTorch's wheel.
"""

import ctypes
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.peerlib.executorch import VERSION
from benchmarks.pilib import debian

SOURCE = Path(__file__).with_suffix(".cpp")
LIBRARY = "libprogram.so"
GUEST = Path("/packages/executorch")
"""The folder in the emulated machine."""
_LINKED = ("", "_kernels_optimized", "_kernels_quantized", "_backend_xnnpack", "_threadpool")


def build(suite: str, folder: Path) -> None:
    """Fill the folder with the libraries of ExecuTorch's wheel and ours."""
    debian.need("aarch64-linux-gnu-g++")
    wheel = debian.packages(suite, f"executorch-{VERSION}", [f"executorch=={VERSION}"], dependencies=False)
    libraries, headers = wheel / "executorch" / "lib", wheel / "executorch" / "include"
    shutil.copytree(libraries, folder)
    command = ["aarch64-linux-gnu-g++", "-std=c++17", "-O2", "-w", "-shared", "-fPIC", str(SOURCE)]
    command += ["-DC10_USING_CUSTOM_GENERATED_MACROS", f"-I{headers}"]
    command += [f"-I{headers / 'executorch/runtime/core/portable_type/c10'}", "-o", str(folder / LIBRARY)]
    command += ["-Wl,-rpath,$ORIGIN", "-Wl,--no-as-needed", f"-L{libraries}"]
    subprocess.run([*command, *(f"-lexecutorch{name}" for name in _LINKED)], check=True)
    shutil.rmtree(wheel)


def open_program(path: Path) -> Callable[[NDArray[np.float32]], NDArray[np.float32]]:
    """Open a .pte file in the emulated machine; return a function from float32 images [1,3,H,W] to [1,classes].

    It uses as many threads as the machine has cores, which is one.
    """
    library = ctypes.CDLL(str(GUEST / LIBRARY))
    library.open_program.restype = ctypes.c_void_p
    program = ctypes.c_void_p(library.open_program(str(path).encode()))
    if not program:
        raise ValueError(f"ExecuTorch can't load '{path}'")
    logits, classes = ctypes.POINTER(ctypes.c_float)(), ctypes.c_int()

    def infer(x: NDArray[np.float32]) -> NDArray[np.float32]:
        image = np.ascontiguousarray(x)
        code = library.infer(
            program, image.ctypes.data_as(ctypes.c_void_p), *x.shape[2:], ctypes.byref(logits), ctypes.byref(classes)
        )
        if code:
            raise RuntimeError(f"ExecuTorch ended with error {code:#x}")
        return np.ctypeslib.as_array(logits, (1, classes.value)).copy()

    return infer
