"""What the engines share: their contract, the import of a runtime, its errors, and the number of threads."""

import importlib
import importlib.metadata
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edgekit.compat.telemetry import hidden_telemetry
from edgekit.config.runtimes import Runtime, find_runtime
from edgekit.errors import BundleError, EdgekitError, EngineError, MissingExtraError, UsageError
from edgekit.runtime.manifest import Manifest
from edgekit.support.distribution import install_command
from edgekit.support.libraries import first_line
from edgekit.support.versions import release

_CPUS = "/sys/devices/system/cpu"


class Engine(Protocol):
    """One model in one runtime; `run` may be called from several threads."""

    package: str
    version: str

    def __init__(self, model: Path, manifest: Manifest, threads: int | None) -> None: ...

    def run(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """Logits [1,classes] of one normalized image, [1,3,H,W] and C-contiguous; the result is the caller's own."""
        ...

    def close(self) -> None:
        """Let the model go; running afterwards raises EngineError."""
        ...

    @staticmethod
    def low_precision_float() -> str | None:
        """What the runtime would compute a float model in on this processor instead of f32: bf16, f16 or nothing.

        The engine takes it as the session option "inference_precision".
        """
        ...


def import_runtime(name: str) -> ModuleType:
    """The first of a runtime's modules that is installed, or MissingExtraError with the pip command that brings one."""
    runtime = find_runtime(name)
    for module in runtime.import_names:
        try:
            with hidden_telemetry():
                return importlib.import_module(module)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{module}.".startswith(f"{error.name}."):
                raise EngineError(f"{module} is installed but can't be imported: {first_line(error)}") from error
        except Exception as error:
            raise EngineError(f"{module} is installed but can't be imported: {first_line(error)}") from error
    raise MissingExtraError(f"{runtime.title} is not installed", fix=f"Run: {install_command(runtime.extra)}")


def package_version(module: ModuleType, package: str, manifest: Manifest) -> str:
    """The version installed; MissingExtraError if the bundle needs a newer one."""
    try:
        version = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:  # the same module from another package, such as onnxruntime-gpu
        version = str(getattr(module, "__version__", "unknown"))
    minimum = manifest.engine["minimum"]
    if package == manifest.engine["package"] and () < release(version) < release(minimum):
        raise MissingExtraError(
            f"the bundle needs {package} {minimum} or newer, {version} is installed. "
            f'Run: pip install "{package}>={minimum}"'
        )
    return version


def check_manifest(manifest: Manifest, runtime: Runtime) -> None:
    """Refuse a bundle that would reach more of the runtime than its engine is written for; raises BundleError.

    These are session options that the engine doesn't know, and a model file with another suffix, by which some runtimes
    choose the parser.
    """
    for key in manifest.session:
        if key not in runtime.session_options:
            valid = ", ".join(runtime.session_options) or "none"
            raise BundleError(f"key 'session.{key}' is unknown to {runtime.title}; valid: {valid}")
    if not manifest.model_file.endswith(runtime.model_suffix):
        raise BundleError(
            f"key 'model_file' is '{manifest.model_file}': valid is a name that ends in {runtime.model_suffix}"
        )


def check_shapes(manifest: Manifest, inputs: Sequence[object], outputs: Sequence[object]) -> None:
    """Compare the shapes of a model's only input and output, as its file has them, with the manifest."""
    _, channels, height, width = manifest.input_shape
    shape = [1, height, width, channels] if manifest.layout == "NHWC" else [1, channels, height, width]
    for what, given, wanted in (("input", inputs, shape), ("output", outputs, [1, manifest.classes])):
        if list(given) != wanted:
            raise BundleError(f"the model's {what} has shape {list(given)}, the manifest says {wanted}")


@contextmanager
def engine_errors(action: str) -> Iterator[None]:
    """Turn whatever a runtime raises into EngineError: "`action` failed: " and the line that says why."""
    try:
        yield
    except EdgekitError:
        raise
    except Exception as error:  # runtimes raise RuntimeError, ValueError, and classes of their own
        raise EngineError(f"{action} failed: {first_line(error)}") from error


def closed() -> EngineError:
    """The error of a session that is used after `close`."""
    return EngineError("the session is closed: load the bundle again")


def check_threads(threads: int | None) -> int:
    """The number of threads to use; UsageError unless `threads` is None or a whole number from 1."""
    if threads is None:
        return default_threads()
    if type(threads) is not int or threads < 1:
        raise UsageError(f"threads is {threads!r}: give a whole number from 1, or leave it out to use every core")
    return threads


def default_threads() -> int:
    """Cores that this process may use: CPUs of its affinity, hyperthreads of one core counted once."""
    try:
        cpus = os.sched_getaffinity(0)
    except AttributeError:  # not Linux
        return os.cpu_count() or 1
    cores = set()
    for cpu in cpus:
        try:
            siblings = Path(f"{_CPUS}/cpu{cpu}/topology/thread_siblings_list").read_text().strip()
        except OSError:
            siblings = str(cpu)
        cores.add(siblings)
    return max(1, len(cores))
