"""LiteRT's own profiler, called through the C library because the Python package doesn't expose it.

``python -m edgekit.runtime.tflite.litert_profiler MODEL THREADS RUNS`` prints JSON: for each run, the kernels in order
as [name, milliseconds]. It runs in a separate process because a C library of another version may crash. Source:
LiteRT's litert/c headers, as of ai-edge-litert 2.3.
"""

import ctypes
import importlib.util
import json
import sys
from collections.abc import Sequence
from contextlib import suppress
from ctypes import byref, c_char_p, c_int, c_size_t, c_uint64, c_void_p
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

CPU = 1
WRITE = 1
TYPE_BYTES = 1024  # LiteRtRankedTensorType has about 100 bytes; it is passed on without being read
RAN = (2, 8)
"""Kinds of events that are kernels: of LiteRT itself, and of a delegate."""
KINDS = frozenset(1 << bit for bit in range(9))


class Event(ctypes.Structure):
    """ProfiledEventData of litert_profiler_event.h."""

    _fields_: ClassVar = [
        ("name", c_char_p),
        ("kind", c_int),
        ("start_us", c_uint64),
        ("us", c_uint64),
        ("memory", c_size_t * 6),
        ("numbers", c_uint64 * 2),
        ("source", c_int),
    ]


class ProfiledModel:
    """A model that LiteRT compiled with profiling on. Its inputs are random, and it lives as long as the process."""

    def __init__(self, path: Path, threads: int) -> None:
        self._library = ctypes.CDLL(str(_library()))
        self._keep: list[Any] = []
        self._environment = self._made("CreateEnvironment", 0, None)
        model = self._made("CreateModelFromFile", self._environment, str(path).encode())
        options = self._made("CreateOptions")
        self._call("SetOptionsHardwareAccelerators", options, CPU)
        self._option(options, "runtime_options_string", "enable_profiling = true")
        self._option(options, "xnnpack", f"num_threads = {threads}")
        self._compiled = self._made("CreateCompiledModel", self._environment, model, options)
        self._profiler = self._made("CompiledModelGetProfiler", self._compiled)
        self._signature = self._made("GetModelSignature", model, c_size_t(0))
        self._inputs, self._outputs = self._buffers("Input"), self._buffers("Output")
        for buffer in self._inputs:
            self._fill(c_void_p(buffer))

    def run(self) -> None:
        inputs, outputs = self._inputs, self._outputs
        counts = c_size_t(len(inputs)), c_size_t(len(outputs))
        self._call("RunCompiledModel", self._compiled, c_size_t(0), counts[0], inputs, counts[1], outputs)

    def profiled_run(self) -> list[tuple[str, float]]:
        """Run once, and return the kernels in order with their milliseconds."""
        self._call("ResetProfiler", self._profiler)
        self._call("StartProfiler", self._profiler)
        self.run()
        self._call("StopProfiler", self._profiler)
        count = c_int()
        self._call("GetNumProfilerEvents", self._profiler, byref(count))
        events = (Event * count.value)()
        self._call("GetProfilerEvents", self._profiler, count, events)
        if not {event.kind for event in events} <= KINDS:
            raise SystemExit("the events of this LiteRT's profiler have another layout")
        return [(event.name.decode(), event.us / 1e3) for event in events if event.kind in RAN]

    def _call(self, name: str, *arguments: Any) -> None:
        status = getattr(self._library, f"LiteRt{name}")(*arguments)
        if status != 0:
            raise SystemExit(f"LiteRt{name} returned status {status}")

    def _made(self, name: str, *arguments: Any) -> c_void_p:
        """The object that a function makes or finds, which it returns through its last argument."""
        made = c_void_p()
        self._call(name, *arguments, byref(made))
        return made

    def _option(self, options: c_void_p, kind: str, text: str) -> None:
        payload = ctypes.create_string_buffer(text.encode())
        release = ctypes.CFUNCTYPE(None, c_void_p)(lambda _: None)
        self._keep += [payload, release]
        option = self._made("CreateOpaqueOptions", kind.encode(), ctypes.cast(payload, c_void_p), release)
        self._call("AddOpaqueOptions", options, option)

    def _buffers(self, end: str) -> Any:
        """Create tensor buffers for all inputs or all outputs, as a C array."""
        count = c_size_t()
        self._call(f"GetNumSignature{end}s", self._signature, byref(count))
        buffers = (c_void_p * count.value)()
        for index in range(count.value):
            kind, place = ctypes.create_string_buffer(TYPE_BYTES), c_size_t(index)
            tensor = self._made(f"GetSignature{end}TensorByIndex", self._signature, place)
            self._call("GetRankedTensorType", tensor, kind)
            needs = self._made(f"GetCompiledModel{end}BufferRequirements", self._compiled, c_size_t(0), place)
            buffers[index] = self._made("CreateManagedTensorBufferFromRequirements", self._environment, kind, needs)
        return buffers

    def _fill(self, buffer: c_void_p) -> None:
        size, address = c_size_t(), c_void_p()
        self._call("GetTensorBufferSize", buffer, byref(size))
        values = np.random.default_rng(0).random(size.value // 4 + 1, np.float32)
        self._call("LockTensorBuffer", buffer, byref(address), c_int(WRITE))
        ctypes.memmove(address, values.ctypes.data, size.value)
        self._call("UnlockTensorBuffer", buffer)


def _library() -> Path:
    package = importlib.util.find_spec("ai_edge_litert")
    path = Path(package.origin).with_name("libLiteRt.so") if package and package.origin else None
    if path is None or not path.is_file():
        raise SystemExit("this ai-edge-litert has no libLiteRt.so")
    return path


def main(arguments: Sequence[str]) -> None:
    with suppress(ImportError):  # Windows has neither this module nor core files
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    model = ProfiledModel(Path(arguments[0]), int(arguments[1]))
    model.run()
    print("\n" + json.dumps([model.profiled_run() for _ in range(int(arguments[2]))]))


if __name__ == "__main__":
    main(sys.argv[1:])
