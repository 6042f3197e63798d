"""Runs LiteRT files without edgekit's engine."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from ai_edge_litert.interpreter import Interpreter
from numpy.typing import NDArray


def run_file(path: Path, images: Iterable[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Logits [N,classes] of a file that takes float images, each [1,C,H,W]; its output may be int8."""
    interpreter = Interpreter(str(path), num_threads=1)
    interpreter.allocate_tensors()
    (source,), (sink,) = interpreter.get_input_details(), interpreter.get_output_details()
    logits = []
    for image in images:
        interpreter.set_tensor(source["index"], image)
        interpreter.invoke()
        scale, zero = sink["quantization"]
        values = interpreter.get_tensor(sink["index"])
        logits.append(values if values.dtype == np.float32 else (values - np.float32(zero)) * np.float32(scale))
    return np.concatenate(logits)
