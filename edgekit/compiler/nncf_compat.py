"""NNCF, imported without telemetry, and its experimental quantizer of torch.fx graphs.

Checked with nncf 3.4. The quantizer's module is named experimental, so pyproject.toml pins one minor release.
"""

from edgekit.compat.telemetry import hidden_telemetry

with hidden_telemetry():
    import nncf
    from nncf.experimental.torch.fx import quantize_pt2e
    from nncf.quantization.range_estimator import RangeEstimatorParametersSet

__all__ = ["RangeEstimatorParametersSet", "nncf", "quantize_pt2e"]
