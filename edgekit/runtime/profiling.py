"""What really ran: a model under its runtime's own profiler. Needs numpy and the runtime alone."""

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgekit.config.runtimes import find_target
from edgekit.errors import InputError, UsageError
from edgekit.runtime.bundle import Bundle
from edgekit.runtime.engine import check_threads, engine_errors
from edgekit.runtime.profile import OpProfile, Profile, RuntimeProfiler, with_layer_names
from edgekit.runtime.session import Session

__all__ = ["OpProfile", "Profile", "profile", "profile_model", "target_of"]

RUNS = 5
_TARGETS = {".xml": "openvino", ".onnx": "onnx", ".tflite": "tflite"}


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

    `target` follows from the suffix (.onnx, .tflite, or .xml with its .bin beside it) when it isn't given. `options`
    are those of a manifest's `session`, such as "disabled_optimizers"; by default there are none. Raises UsageError for
    another suffix, InputError for a missing file or an input whose shape isn't fixed, EngineError.
    """
    path = Path(path)
    target = target or target_of(path)
    if not path.is_file():
        raise InputError(f"'{path}' is not there, or not a file: name a model file, or the folder of a bundle")
    return _profile(path, target, options or {}, check_threads(threads), runs)


def target_of(path: Path) -> str:
    """The target that runs a model file, from its suffix; UsageError for one that none has."""
    if path.suffix not in _TARGETS:
        raise UsageError(f"'{path}' is no model file that edgekit knows: valid suffixes are {', '.join(_TARGETS)}")
    return _TARGETS[path.suffix]


def _profile(path: Path, target: str, options: Mapping[str, Any], threads: int, runs: int) -> Profile:
    if runs < 1:
        raise UsageError(f"runs is {runs}: give a whole number from 1")
    known = find_target(target)
    runtime: RuntimeProfiler = importlib.import_module(known.profiler).Profiler()
    with engine_errors(f"profiling {path} in {known.title}"):
        return runtime.profile(path, options, threads, runs)
