"""The table of runtimes: the one place that names them. Everything else looks here."""

from dataclasses import dataclass
from difflib import get_close_matches

from edgekit.errors import UsageError


@dataclass(frozen=True)
class Target:
    """A runtime that edgekit compiles for. Modules are named, not imported: each is loaded when asked for."""

    name: str
    title: str
    extra: str
    requirement: str
    """What pip installs for it on a device: what its extra in pyproject.toml says."""
    engine: str
    """Module with `Engine`: what the SDK runs; needs numpy and the runtime alone."""
    backend: str
    """Module with `Backend`: rewrites, placement and compilation; needs torch."""
    profiler: str
    """Module that tells which layers the runtime ran in integer kernels; needs the runtime alone."""


TARGETS: dict[str, Target] = {
    target.name: target
    for target in (
        Target(
            "openvino",
            "OpenVINO",
            "openvino",
            "openvino>=2026.4,<2026.5",
            "edgekit.runtime.openvino.engine",
            "edgekit.runtime.openvino.backend",
            "edgekit.runtime.openvino.profiler",
        ),
        Target(
            "onnx",
            "ONNX Runtime",
            "onnx",
            "onnxruntime>=1.20,<2",
            "edgekit.runtime.onnx.engine",
            "edgekit.runtime.onnx.backend",
            "edgekit.runtime.onnx.profiler",
        ),
        Target(
            "tflite",
            "LiteRT",
            "tflite",
            "ai-edge-litert>=2.0,<3",
            "edgekit.runtime.tflite.engine",
            "edgekit.runtime.tflite.backend",
            "edgekit.runtime.tflite.profiler",
        ),
    )
}


def find_target(name: str) -> Target:
    """The target of this name, or a UsageError with the choices and the nearest of them."""
    if name in TARGETS:
        return TARGETS[name]
    near = get_close_matches(name, TARGETS, n=1, cutoff=0.4)
    hint = f" Did you mean '{near[0]}'?" if near else ""
    raise UsageError(f"unknown target '{name}': valid targets are {', '.join(TARGETS)}.{hint} Use --target NAME.")
