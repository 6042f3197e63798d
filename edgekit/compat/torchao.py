"""torchao's PT2E quantizer, which edgekit subclasses to place Q/DQ and which NNCF's quantizer reads.

Checked with torchao 0.18. The modules have no stable interface and moved twice between torch and torchao, so
pyproject.toml pins one minor release.
"""

from torchao.quantization.pt2e.observer import MinMaxObserver, PerChannelMinMaxObserver
from torchao.quantization.pt2e.quantizer import QuantizationAnnotation, QuantizationSpec, Quantizer

__all__ = ["MinMaxObserver", "PerChannelMinMaxObserver", "QuantizationAnnotation", "QuantizationSpec", "Quantizer"]
