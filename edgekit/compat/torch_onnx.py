"""torch.onnx: the table of translations is made once, not in each export."""

from functools import cache

from torch.onnx._internal.exporter._registration import ONNXRegistry


@cache
def keep_translations() -> None:
    """Let all exports of this process share torch's table of translations to ONNX.

    Checked with torch 2.13, which makes the table anew in each export and doesn't change it unless `torch.onnx.export`
    gets translations of the user's. Making it takes over a second, as long as the export of a small network. The class
    is private.
    """
    ONNXRegistry.from_torchlib = staticmethod(cache(ONNXRegistry.from_torchlib))  # type: ignore[method-assign]
