"""LiteRT's Python interpreter, from ai_edge_litert or tflite_runtime."""

from typing import Any


def operations(interpreter: Any) -> list[dict[str, Any]]:
    """The operations of the model's graph in order: `op_name` and the tensor indices `inputs` and `outputs`.

    Checked with ai-edge-litert 2.3 and tflite-runtime 2.14, where `_get_ops_details` is private and documented as
    subject to change. edgekit's profiler needs it to pair each kernel that ran with the operation in the file.
    """
    details: list[dict[str, Any]] = interpreter._get_ops_details()
    return details
