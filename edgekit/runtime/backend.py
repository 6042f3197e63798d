"""The contract of a backend: compiles a graph to the files that a runtime loads, and renews the metadata in them."""

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from torch.fx import GraphModule

from edgekit.compiler.placement import RuntimeLowering
from edgekit.config.runtimes import DeviceClass, Runtime
from edgekit.errors import CompileError
from edgekit.runtime.metadata import Metadata
from edgekit.support.libraries import LibraryErrors, first_line, import_needed


@dataclass(frozen=True)
class Artifact:
    """A compiled model, described as its manifest needs it."""

    model_file: str
    """Name of the file that the runtime opens."""
    files: tuple[str, ...]
    """Names of all files that the runtime loads, including `model_file`."""
    input_name: str = "image"
    """Name of the model's input tensor."""
    output_name: str = "logits"
    """Name of the model's output tensor, float32 [1,classes]."""
    session: Mapping[str, Any] = field(default_factory=dict)
    """Session options that the engine needs for this file."""
    float_layers: frozenset[str] = frozenset()
    """Names of the quantized layers that are in float in the files, because the runtime has no integer kernel."""


class Backend(Protocol):
    """A compiler for one runtime."""

    def compile(self, graph: GraphModule, folder: Path, metadata: Metadata, device_class: DeviceClass) -> Artifact:
        """Compile a graph and write the model's files.

        Implementations call the runtime's compiler inside a `compiler_errors` block.

        Args:
            graph: Exported graph for one image, float32 [1,C,H,W] or uint8 [1,H,W,C]; compiling may change it.
            folder: Existing folder for the files.
            metadata: What the model file says about itself, so that it can be used without the bundle.
            device_class: Machines that the files are for.

        Returns:
            Names of the files and tensors, the session options that they need, and the layers that stayed in float.

        Raises:
            CompileError: The runtime's compiler refused the graph; the message quotes its first line.
        """
        ...

    def replace_metadata(self, model_file: Path, metadata: Metadata) -> None:
        """Replace the metadata in a model file. The file becomes what `compile` writes with this metadata.

        Args:
            model_file: The `Artifact.model_file` that `compile` wrote. Its other files don't contain the metadata.
            metadata: What the model file says from now on.
        """
        ...


def compiler_errors(target: str) -> LibraryErrors:
    """Turn an exception of a runtime's compiler into a CompileError that quotes the first line of its cause.

    OSError and MemoryError pass through, because a full disk and lack of memory are reported as such.
    """
    title = Runtime.find(target).title
    return LibraryErrors(
        lambda raised: CompileError(f"{title}'s compiler refused the graph: {first_line(_innermost(raised))}"),
        passing=(OSError, MemoryError),
    )


def _innermost(error: Exception) -> Exception:
    """The cause of an error. That of torch's exporter to ONNX itself only says which step failed."""
    while isinstance(error.__cause__, Exception):
        error = error.__cause__
    return error


__all__ = ["Artifact", "Backend", "compiler_errors", "load_backend", "load_lowering"]


def load_backend(target: str) -> Backend:
    """Import the backend of a target; raises MissingExtraError if it needs a package that is not installed."""
    backend: Backend = import_needed(Runtime.find(target).backend_module, "build").Backend()
    return backend


def load_lowering(target: str) -> RuntimeLowering:
    """Import what quantizing for a target needs to know, without its compiler. It may have no such module."""
    module = Runtime.find(target).lowering_module
    if importlib.util.find_spec(module) is None:
        return RuntimeLowering()
    lowering: RuntimeLowering = import_needed(module, "build").LOWERING
    return lowering
