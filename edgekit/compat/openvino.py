"""OpenVINO, imported without telemetry."""

from edgekit.compat.telemetry import hidden_telemetry

with hidden_telemetry():
    import openvino

__all__ = ["openvino"]
