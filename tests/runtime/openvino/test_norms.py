"""Which kernels OpenVINO runs the norms in."""

from collections import Counter
from pathlib import Path

from edgekit.compat.openvino import openvino


def kernels(folder: Path) -> Counter[tuple[str, str]]:
    """Number of compiled nodes by kind and type of their output."""
    config = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino.Core().compile_model(folder / "model.xml", "CPU", config)
    infos = [node.get_rt_info() for node in compiled.get_runtime_model().get_ops()]
    return Counter(tuple(info[key].astype(str) for key in ("layerType", "outputPrecisions")) for info in infos)


def test_a_single_kernel_normalizes_and_quantizes(finished_run: Path) -> None:
    counts = kernels(finished_run / "openvino-int8")
    # before the first linear layer of each of the four blocks, and before three downsamplings
    assert counts["MVN", "u8"] == 7
    assert counts["RMS", "f32"] == 1  # after the stem, whose weights are centred
