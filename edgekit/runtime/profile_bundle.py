"""Run a model under its runtime's own profiler, to see which kernels run. Needs only numpy and the runtime."""

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgekit.config.runtimes import RUNTIMES, find_runtime, runtime_of_suffix
from edgekit.errors import InputError, UsageError
from edgekit.runtime.bundle import Bundle
from edgekit.runtime.engine import check_threads, engine_errors
from edgekit.runtime.profile import OpProfile, Profile, RuntimeProfiler, with_layer_names
from edgekit.runtime.session import Session

__all__ = ["OpProfile", "Profile", "profile_bundle", "profile_model", "profile_session", "target_of"]

RUNS = 5


def profile_bundle(bundle: Bundle, threads: int | None = None, runs: int = RUNS) -> Profile:
    """Profile the model of a bundle on random input, with the options of its session.

    Args:
        bundle: The bundle to profile.
        threads: Number of threads. By default it is the number of physical cores that this process may use.
        runs: Number of runs that count; a first run before them does not.

    Returns:
        The operations that ran, with the names of the manifest's layers.

    Raises:
        UsageError: `threads` or `runs` is not a whole number from 1.
        BundleError: The model differs from its manifest, or the manifest has an unknown session option.
        MissingExtraError: The runtime is not installed, or is older than the bundle needs.
        EngineError: The runtime failed, or returned no profile.
    """
    with Session(bundle, threads) as session:
        pass  # opening it checks a stranger's file before the profiler reads it
    return profile_session(session, runs)


def profile_session(session: Session, runs: int = RUNS) -> Profile:
    """Profile the bundle of a session, which may be closed, with its number of threads; as `profile_bundle`."""
    manifest = session.bundle.manifest
    measured = _profile(session.bundle.model_path, manifest.target, manifest.session, session.threads, runs)
    return with_layer_names(measured, manifest.layers)


def profile_model(
    path: Path,
    target: str | None = None,
    threads: int | None = None,
    runs: int = RUNS,
    options: Mapping[str, Any] | None = None,
) -> Profile:
    """Profile a model file of any origin on random input.

    Args:
        path: The model file.
        target: Name of the runtime, such as "onnx". By default the suffix of the file decides.
        threads: Number of threads. By default it is the number of physical cores that this process may use.
        runs: Number of runs that count; a first run before them does not.
        options: Session options as in a manifest, such as "disabled_optimizers".

    Returns:
        The operations that ran, with the names that the runtime or the file gives them.

    Raises:
        UsageError: The suffix is unknown, or `threads` or `runs` is not a whole number from 1.
        InputError: The file is missing, or the shape of an input isn't fixed.
        MissingExtraError: The runtime is not installed.
        EngineError: The runtime failed, or returned no profile.
    """
    path = Path(path)
    target = target or target_of(path)
    if not path.is_file():
        raise InputError(f"'{path}' doesn't exist or is not a file", valid="a model file or the folder of a bundle")
    return _profile(path, target, options or {}, check_threads(threads), runs)


def target_of(path: Path) -> str:
    """Name of the runtime for a model file with this suffix; raises UsageError if no runtime has it."""
    runtime = runtime_of_suffix(path.suffix)
    if runtime is None:
        suffixes = ", ".join(runtime.model_suffix for runtime in RUNTIMES.values())
        raise UsageError(f"'{path}' doesn't have the suffix of a model file", valid=suffixes)
    return runtime.name


def _profile(path: Path, target: str, options: Mapping[str, Any], threads: int, runs: int) -> Profile:
    if runs < 1:
        raise UsageError(f"runs is {runs}", valid="a whole number from 1")
    runtime = find_runtime(target)
    profiler: RuntimeProfiler = importlib.import_module(runtime.profiler_module).Profiler()
    with engine_errors(f"profiling {path} in {runtime.title}"):
        return profiler.profile(path, options, threads, runs)
