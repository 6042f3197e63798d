"""Uses of other projects' private or experimental interfaces by the compilers of the runtimes, one module per project.

What only one other room needs is in that room: `cli/compat.py` for Typer, the source of each library that networks come
from in `models`, `compiler/torch_compat.py` and `compiler/nncf_compat.py`. Each module or function documents what is
private, which versions it was checked with, and why edgekit needs it. A canary test in tests/test_compat.py fails if
the other project changes what edgekit relies on. This package itself imports nothing. Each module imports its projects,
so only code that needs them imports the module.

Some code depends on text or names rather than on Python attributes. It stays where it is used:

- `compiler/placement.py` subclasses torchao's PT2E quantizer, which has no stable interface and moved twice between
  torch and torchao, so pyproject.toml pins one minor release (checked with torchao 0.18).
- `runtime/tflite/profiler.py` reads the details of LiteRT's operations with the interpreter's private method.
- `runtime/tflite/litert_profiler.py` calls LiteRT's C library through ctypes.
- `profiler.py` of each runtime recognizes integer kernels by the names that the runtime's optimizer gives them, and
  `runtime/onnx/engine.py` finds a node's origin by the suffix of its name. Their canaries, and LiteRT's, are the
  profiles of real models in tests/runtime/test_profile.py.
- `runtime/onnx/backend.py` writes the operation `MatMulIntegerToFloat` of ONNX Runtime's own domain `com.microsoft`.
- `runtime/onnx/backend.py` and `runtime/onnx/profiler.py` disable optimizers of ONNX Runtime by name. ONNX Runtime
  silently ignores unknown names.
"""
