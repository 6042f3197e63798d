"""The contract of an engine, and what all engines share: imports, versions, checks, errors and threads."""

import importlib
import importlib.metadata
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from threading import Lock
from types import ModuleType
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from edgekit.compat.telemetry import hidden_telemetry
from edgekit.config.runtimes import Runtime
from edgekit.errors import BundleError, EdgekitError, EngineError, MissingExtraError, UsageError
from edgekit.runtime.bundle import Manifest
from edgekit.support.libraries import first_line, install_command, pip_install, release
from edgekit.support.probe import available_cores

Infer: TypeAlias = Callable[[NDArray[Any]], NDArray[np.float32]]
"""Computes the logits [1,classes] of an image in the shape and dtype of the manifest, C-contiguous.

The caller owns the result.
"""


class Engine(ABC):
    """One model in one runtime. Several threads may call `run` at once."""

    package: str
    """Distribution that runs the model, such as "onnxruntime"."""
    version: str
    """Installed version of `package`."""
    concurrent = False
    """Whether several threads can run the model at once; otherwise they take turns."""

    def __init__(self, model: Path, manifest: Manifest, threads: int | None) -> None:
        self._turn = nullcontext() if self.concurrent else Lock()
        self._infer: Infer | None = self.open(model, manifest, threads)

    @abstractmethod
    def open(self, model: Path, manifest: Manifest, threads: int | None) -> Infer:
        """Open a model file, set `package` and `version`, and return the function that runs the model."""

    def run(self, x: NDArray[Any]) -> NDArray[np.float32]:
        """What `Infer` computes. Raises EngineError if the session is closed."""
        with self._turn:
            infer = self._infer
            if infer is None:
                raise EngineError("the session is closed", fix="Load the bundle again")
            return infer(x)

    def close(self) -> None:
        """Release the model; `run` raises EngineError afterwards."""
        with self._turn:
            self._infer = None

    def low_precision_float(self) -> str | None:
        """Return "bf16" or "f16" if the runtime can compute this float model in it fast on this processor, else None.

        The engine accepts the value as the session option "inference_precision".
        """
        return None


def import_runtime(name: str) -> ModuleType:
    """Import the first of a runtime's modules that is installed; MissingExtraError gives the pip command if none is."""
    runtime = Runtime.find(name)
    for module in runtime.import_names:
        try:
            with hidden_telemetry():
                return importlib.import_module(module)
        except Exception as error:
            missing = error.name if isinstance(error, ModuleNotFoundError) else None
            if missing is None or not f"{module}.".startswith(f"{missing}."):
                raise EngineError(f"{module} is installed but can't be imported: {first_line(error)}") from error
    raise MissingExtraError(f"{runtime.title} is not installed", fix=f"Run: {install_command(runtime.extra)}")


def package_version(module: ModuleType, package: str, manifest: Manifest) -> str:
    """Installed version of a package; raises MissingExtraError if the bundle needs a newer one."""
    try:
        version = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:  # another distribution, such as onnxruntime-gpu, has the module
        version = str(getattr(module, "__version__", "unknown"))
    minimum = manifest.engine["minimum"]
    if package == manifest.engine["package"] and () < release(version) < release(minimum):
        raise MissingExtraError(
            f"the bundle needs {package} {minimum} or newer, but {version} is installed",
            fix=f"Run: {pip_install(f'{package}>={minimum}')}",
        )
    return version


def check_manifest(manifest: Manifest, runtime: Runtime) -> None:
    """Refuse a bundle that would use more of the runtime than its engine supports; raises BundleError.

    The check covers session options that the engine doesn't have, and the suffix of the model file, by which some
    runtimes choose a parser.
    """
    for key in manifest.session:
        if key not in runtime.session_options:
            valid = ", ".join(runtime.session_options) or "none"
            raise BundleError(f"key 'session.{key}' is unknown to {runtime.title}", valid=valid)
    if not manifest.model_file.endswith(runtime.model_suffix):
        raise BundleError(
            f"key 'model_file' is '{manifest.model_file}'", valid=f"a name that ends in {runtime.model_suffix}"
        )


def precision_option(session: Mapping[str, Any], valid: Sequence[str]) -> str:
    """The session option "inference_precision", which is "f32" by default; raises BundleError for another value."""
    precision = session.get("inference_precision", "f32")
    if precision not in valid:
        raise BundleError(f"key 'session.inference_precision' is {precision!r}", valid=", ".join(valid))
    return str(precision)


def check_shapes(manifest: Manifest, inputs: Sequence[Sequence[object]], outputs: Sequence[Sequence[object]]) -> None:
    """Compare the shapes of a model's inputs and outputs with the manifest; raises BundleError if they differ."""
    if len(inputs) != 1 or len(outputs) != 1:
        raise BundleError(f"the model has {len(inputs)} inputs and {len(outputs)} outputs", valid="one of each")
    shapes = ("input", inputs[0], manifest.input_shape), ("output", outputs[0], (1, manifest.classes))
    for name, actual, expected in shapes:
        if tuple(actual) != expected:
            raise BundleError(f"the model's {name} has shape {list(actual)}, but the manifest says {list(expected)}")


@contextmanager
def engine_errors(action: str) -> Iterator[None]:
    """Turn any exception of a runtime into an EngineError: "`action` failed: " and the line that gives the cause."""
    try:
        yield
    except EdgekitError:
        raise
    except Exception as error:  # RuntimeError, ValueError, and the runtimes' own classes
        raise EngineError(f"{action} failed: {first_line(error)}") from error


def check_threads(threads: int | None, default: int | None = None) -> int:
    """Number of threads to use; raises UsageError unless `threads` is None or a whole number from 1.

    If it is None, that is the default of a bundle's manifest, at most every physical core, which is also used without.
    """
    if threads is None:
        return available_cores() if default is None else min(default, available_cores())
    if type(threads) is not int or threads < 1:
        raise UsageError(f"threads is {threads!r}", valid="a whole number from 1", fix="Leave it out to use every core")
    return threads
