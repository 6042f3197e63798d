"""Measures which values of a network the noise of its INT8 comes from.

    python -m benchmarks.noise --models mobilenetv3_large_100,resnet50 --target onnx --data ~/imagenet/val

It calibrates as benchmarks/peers.py does, with weights rounded to nearest, and runs images through the graph in torch:
once with all quantizers, and once for each kind with only the quantizers of that kind. If each kind alone costs about
as much, no placement helps, and the network itself amplifies whatever is rounded.
"""

import argparse
from collections.abc import Container
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.fx import GraphModule, Interpreter, Node

from benchmarks.peerlib.models import SUBJECTS, add_data, check_data
from benchmarks.peers import CALIBRATION, HERE
from benchmarks.rows import Row, keep_rows
from edgekit.compiler.execution.threads import at_once, side_by_side
from edgekit.compiler.nodes import A, Q
from edgekit.config.runtimes import RUNTIMES
from edgekit.images.dataset import crop_samples
from edgekit.job import Job
from edgekit.measure.accuracy import snr_db
from edgekit.pipeline.graphs import JobGraphs
from edgekit.pipeline.loading import load_job
from edgekit.support.progress import Reporter

EVALUATION = 32
QUANTIZE = (Q.quantize_per_tensor.default, Q.quantize_per_channel.default)
DEQUANTIZE = (Q.dequantize_per_tensor.default, Q.dequantize_per_channel.default)
LAYERS = (A.conv2d.default, A.linear.default)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", required=True, help=f"any of {', '.join(SUBJECTS)}, separated by commas")
    parser.add_argument("--target", default="onnx", choices=RUNTIMES, help="runtime whose placement is used")
    add_data(parser)
    args = parser.parse_args()
    names = args.models.split(",")
    check_data(parser, names, args.data)
    for name in names:
        rows = measure(name, args.target, args.data)
        keep_rows(HERE / "noise.json", rows, ("model", "target", "kind"))
        print(
            *(f"{name} {row['kind']}: {row['quantizers']} quantizers, {row['snr_db']:.1f} dB" for row in rows), sep="\n"
        )


def measure(name: str, target: str, data: Path) -> list[Row]:
    """A row for all quantizers and one for each kind alone, with the signal-to-noise ratio of the logits in dB."""
    subject, reporter = SUBJECTS[name], Reporter()
    job = Job(subject.model, subject.data or data, calibration_data=subject.calibration_data,
                      num_calibration_samples=CALIBRATION, num_eval_samples=EVALUATION)  # fmt: skip
    spec, chosen = load_job(job, reporter)
    spec = replace(spec, recipe=replace(spec.recipe, weight_rounding="nearest"))
    graph = JobGraphs(spec, reporter).graph_to_compile(target, "int8").graph
    size = spec.network.preprocessing
    images = list(size.normalize(crop_samples(chosen.dataset, chosen.evaluation.samples, size).pixels)[:, None])
    quantizers = {node: kind_of(node) for node in graph.graph.nodes if node.target in QUANTIZE}
    exact = logits(graph, images, ())
    rows = []
    for kind in ("all", *sorted(set(quantizers.values()))):
        rounded = [node for node, its in quantizers.items() if kind in ("all", its)]
        noise = snr_db(exact, logits(graph, images, rounded))
        rows.append(
            {"model": name, "target": target, "kind": kind, "quantizers": len(rounded), "snr_db": round(noise, 1)}
        )
    return rows


def kind_of(quantizer: Any) -> str:
    """What a quantizer rounds: weights, the image, outputs of layers before anything else, sums, or other values."""
    if quantizer.target is Q.quantize_per_channel.default:
        return "weights"
    value = quantizer.args[0]
    while value.target in (*QUANTIZE, *DEQUANTIZE):
        value = value.args[0]
    kinds = {**dict.fromkeys(LAYERS, "outputs of layers"), A.add.Tensor: "sums"}
    return "image" if value.op == "placeholder" else kinds.get(value.target, "outputs of activations")


def logits(graph: GraphModule, images: list[NDArray[np.float32]], active: Container[Node]) -> NDArray[np.float32]:
    """Logits [N,classes] of images [1,3,H,W], with these quantizers and no others."""

    def run(image: NDArray[np.float32]) -> NDArray[np.float32]:
        output = _Partly(graph, active).run(torch.from_numpy(image))
        (values,) = output if isinstance(output, tuple | list) else (output,)
        array: NDArray[np.float32] = values.numpy()
        return array

    with torch.no_grad():
        return np.concatenate(list(side_by_side(run, images, at_once(graph))))


class _Partly(Interpreter):
    """Runs a Q/DQ graph and passes values through the quantizers that aren't active."""

    def __init__(self, graph: GraphModule, active: Container[Node]) -> None:
        super().__init__(graph)
        self._active = active

    def run_node(self, n: Node) -> Any:
        quantizer = n.args[0] if n.target in DEQUANTIZE else n
        if n.target in (*QUANTIZE, *DEQUANTIZE) and quantizer not in self._active:
            return self.fetch_args_kwargs_from_env(n)[0][0]
        return super().run_node(n)


if __name__ == "__main__":
    main()
