"""The INT8 model of `nncf.quantize` with its defaults, to compare with."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from torch.fx import GraphModule

from edgekit.compat.openvino import openvino
from edgekit.compiler.graph import example_input
from edgekit.compiler.nncf_compat import nncf
from edgekit.measure.accuracy import snr_db
from edgekit.support.libraries import quiet

Images = Sequence[NDArray[np.float32]]


def stock_snr_db(graph: GraphModule, calibration: Images, images: Images, expected: NDArray[np.float32]) -> float:
    """Signal-to-noise ratio of the logits of `nncf.quantize` on OpenVINO, in dB, for images float32 [1,3,H,W]."""
    import torch

    with quiet(), torch.no_grad():
        example = example_input(graph)
        model = openvino.convert_model(torch.export.export(graph, (example,)), input=list(example.shape))
        quantized = nncf.quantize(model, nncf.Dataset(list(calibration)), subset_size=len(calibration))
        compiled = openvino.compile_model(quantized, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        logits = np.concatenate([compiled(image)[0] for image in images])
    return round(snr_db(expected, logits), 1)
