"""What a backend is: one method, from a graph to the files that a runtime loads."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from torch.fx import GraphModule

from edgekit.config.runtimes import find_runtime
from edgekit.errors import CompileError
from edgekit.support.libraries import LibraryErrors, first_line, import_needed


@dataclass(frozen=True)
class Artifact:
    """A compiled model: everything that the manifest says of it."""

    model_file: str
    files: tuple[str, ...]
    """All files in the folder that the runtime loads, `model_file` among them."""
    input_name: str
    output_name: str
    package: str
    """The runtime's package, and the oldest version of it that loads the file."""
    minimum: str
    layout: Literal["NCHW", "NHWC"] = "NCHW"
    session: Mapping[str, Any] = field(default_factory=dict)


class Backend(Protocol):
    """Compiles for one runtime. `metadata` is put inside the model file so that it can be used alone."""

    def compile(self, graph: GraphModule, folder: Path, metadata: str) -> Artifact:
        """Write the model's files into `folder`; raises CompileError with what the runtime's compiler said.

        Calls of the compiler stand in a block of `compiler_errors`.
        """
        ...


def compiler_errors(target: str) -> LibraryErrors:
    """Turns what a runtime's compiler raises inside the block into CompileError with its first line.

    A full disk and a lack of memory pass: they are told as what they are.
    """
    title = find_runtime(target).title
    return LibraryErrors(
        lambda raised: CompileError(f"{title}'s compiler refused the graph: {first_line(raised)}"),
        passing=(OSError, MemoryError),
    )


__all__ = ["Artifact", "Backend", "compiler_errors", "load_backend"]


def load_backend(target: str) -> Backend:
    """The backend of this target, imported now; MissingExtraError if a package that it needs is missing."""
    backend: Backend = import_needed(find_runtime(target).backend_module, "build").Backend()
    return backend
