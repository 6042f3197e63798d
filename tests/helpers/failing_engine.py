"""An engine that fails during the timing, after it was opened, verified and evaluated without errors."""

import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import pytest

from edgekit.config.runtimes import RUNTIMES
from edgekit.measure import bundles
from edgekit.runtime.bundle import Manifest

Phase = Literal["model alone", "end to end"]
MESSAGE = "the accelerator was lost"


@contextmanager
def failing_engine(target: str, bundle: str, phase: Phase = "model alone", computed_in: str = "f32") -> Iterator[None]:
    """Make the engine of the bundle with this folder name raise in one phase of the timing, in one precision."""
    engine: Any = importlib.import_module(RUNTIMES[target].engine_module).Engine
    times: Any = bundles
    open_model, run = engine.__init__, engine.run
    broken: set[Any] = set()
    phases: list[str] = []

    def opened(self: Any, model: Path, manifest: Manifest, threads: int | None) -> None:
        open_model(self, model, manifest, threads)
        if model.parent.name == bundle and manifest.session.get("inference_precision", "f32") == computed_in:
            broken.add(self)

    def ran(self: Any, x: Any) -> Any:
        if self in broken and phases[-1:] == [phase]:
            raise RuntimeError(MESSAGE)
        return run(self, x)

    def during(name: Phase, time: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*arguments: Any) -> Any:
            phases.append(name)
            try:
                return time(*arguments)
            finally:
                phases.pop()

        return timed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "__init__", opened)
        patch.setattr(engine, "run", ran)
        patch.setattr(times, "time_in_turns", during("model alone", times.time_in_turns))
        patch.setattr(times, "time_end_to_end", during("end to end", times.time_end_to_end))
        yield
