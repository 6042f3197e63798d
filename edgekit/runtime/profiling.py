"""What really ran: a model under its runtime's own profiler. Needs numpy and the runtime alone."""

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

__all__ = ["OpProfile", "Profile", "profile", "profile_model", "target_of"]

RUNS = 5


def profile(bundle: Bundle, threads: int | None = None, runs: int = RUNS) -> Profile:
    """Run a bundle's model `runs` times on random input, with the options its session has; the first run isn't counted.

    Layers have the names of the bundle's manifest. Raises what `Session` raises, and EngineError if the runtime
    gives no profile.
    """
    with Session(bundle, threads) as session:  # its checks stand between a stranger's file and the profiler
        used = session.threads
    found = _profile(bundle.model_path, bundle.manifest.target, bundle.manifest.session, used, runs)
    return with_layer_names(found, bundle.manifest.layers)


def profile_model(
    path: Path,
    target: str | None = None,
    threads: int | None = None,
    runs: int = RUNS,
    options: Mapping[str, Any] | None = None,
) -> Profile:
    """The same for a model file of any origin; layers have the names that the runtime or the file gives them.

    Without `target`, the suffix tells the runtime. `options` are those of a manifest's `session`, such as
    "disabled_optimizers"; by default there are none. Raises UsageError for an unknown suffix, InputError for a missing
    file or an input whose shape isn't fixed, EngineError.
    """
    path = Path(path)
    target = target or target_of(path)
    if not path.is_file():
        raise InputError(f"'{path}' is not there, or not a file: name a model file, or the folder of a bundle")
    return _profile(path, target, options or {}, check_threads(threads), runs)


def target_of(path: Path) -> str:
    """The name of the runtime that runs a model file, told by its suffix; UsageError if there is none."""
    runtime = runtime_of_suffix(path.suffix)
    if runtime is None:
        valid = ", ".join(each.model_suffix for each in RUNTIMES.values())
        raise UsageError(f"'{path}' is no model file that edgekit knows: valid suffixes are {valid}")
    return runtime.name


def _profile(path: Path, target: str, options: Mapping[str, Any], threads: int, runs: int) -> Profile:
    if runs < 1:
        raise UsageError(f"runs is {runs}: give a whole number from 1")
    runtime = find_runtime(target)
    profiler: RuntimeProfiler = importlib.import_module(runtime.profiler_module).Profiler()
    with engine_errors(f"profiling {path} in {runtime.title}"):
        return profiler.profile(path, options, threads, runs)
