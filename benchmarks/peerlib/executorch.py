"""ExecuTorch with XNNPACK, whose wheel lives in a folder under build/. Nothing of edgekit depends on it.

The rest of what it imports belongs to edgekit's environment. It imports torch, also to run a model.
"""

import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.support.files import replacing

TITLE, VERSION = "ExecuTorch", "1.5.1"
FOLDER = Path(__file__).resolve().parents[2] / "build" / f"executorch-{VERSION}"
REQUIREMENTS = (f"executorch=={VERSION}", "ruamel.yaml==0.19.1")


def convert_executorch(module: Any, images: Sequence[NDArray[np.float32]], path: Path, int8: bool) -> None:
    """Write a .pte file of a torch module for images float32 [1,3,H,W], as ExecuTorch's guide to XNNPACK does.

    INT8 is static, with a scale for each channel of weights, and calibrated with all images.
    """
    add_packages()
    import torch
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    example = (torch.from_numpy(images[0].copy()),)  # ExecuTorch refuses the stride 0 of a view with a new axis
    program = torch.export.export(module, example)
    if int8:
        from executorch.backends.xnnpack.quantizer import xnnpack_quantizer
        from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

        config = xnnpack_quantizer.get_symmetric_quantization_config(is_per_channel=True)
        prepared = prepare_pt2e(program.module(), xnnpack_quantizer.XNNPACKQuantizer().set_global(config))
        for image in images:
            prepared(torch.from_numpy(image))
        program = torch.export.export(convert_pt2e(prepared), example)
    lowered = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])
    with replacing(path) as beside:
        beside.write_bytes(lowered.to_executorch().buffer)


def open_executorch(path: Path, threads: int) -> Callable[[NDArray[np.float32]], NDArray[np.float32]]:
    """Open a .pte file; return a function from float32 images [1,3,H,W] to logits [1,classes].

    A process has one pool of threads. Another number of threads replaces it, and files that were opened before can't
    run any more.
    """
    add_packages()
    import torch
    from executorch.extension.pybindings import portable_lib

    if portable_lib._threadpool_get_thread_count() != threads:
        portable_lib._unsafe_reset_threadpool(threads)
    program = portable_lib._load_for_executorch(str(path))

    def infer(x: NDArray[np.float32]) -> NDArray[np.float32]:
        (logits,) = program((torch.from_numpy(x),))
        found: NDArray[np.float32] = logits.numpy()
        return found

    return infer


def add_packages() -> None:
    """Let this process import ExecuTorch, which pip downloads if the folder doesn't exist."""
    if not FOLDER.exists():
        FOLDER.parent.mkdir(exist_ok=True)
        with replacing(FOLDER) as beside:
            pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(beside)]
            subprocess.run([*pip, *REQUIREMENTS], check=True)
    if str(FOLDER) not in sys.path:
        sys.path.append(str(FOLDER))
