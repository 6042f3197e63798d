"""NNCF, imported without telemetry, and its experimental quantizer of torch.fx graphs.

Checked with nncf 3.4. The quantizer's module is named experimental, so pyproject.toml pins one minor release.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from threading import Lock, RLock
from typing import Any, TypeAlias

from torch import Tensor

from edgekit.compat.telemetry import hidden_telemetry

with hidden_telemetry():
    import nncf
    from nncf.experimental.torch.fx import quantize_pt2e
    from nncf.experimental.torch.fx.statistics.aggregator import TensorCollectorModule
    from nncf.quantization.range_estimator import RangeEstimatorParametersSet
    from nncf.torch.engine import PTEngine

__all__ = ["RangeEstimatorParametersSet", "collecting_by", "nncf", "quantize_pt2e"]

Run: TypeAlias = Callable[[Callable[[Tensor], Any], Iterator[Tensor]], object]
"""Calls a network for each image, float32 [1,C,H,W]."""
_collect, _infer = TensorCollectorModule.forward, PTEngine.infer
_replacing = RLock()


@contextmanager
def collecting_by(run: Run, library: AbstractContextManager[None]) -> Iterator[None]:
    """Let `run` call the network in this block, for each item of NNCF's dataset that is an iterator of images.

    It may call it for several images at the same time, in any order, if the statistics don't depend on the order. What
    NNCF does is in the context `library`, which has no state.

    Checked with nncf 3.4, which runs one image after another. It also reduces all weights for each image, and then
    keeps those of the first, so a collector is left out when it has what it wants. The block replaces methods of two
    classes for all threads, so blocks of two threads take turns.
    """
    locks: dict[int, Lock] = {}

    def infer(engine: PTEngine, item: Any) -> Any:
        def call(image: Any) -> Any:
            with library:
                return _infer(engine, image)

        return run(call, item) if isinstance(item, Iterator) else call(item)

    def collect(module: TensorCollectorModule, x: Tensor) -> Tensor:
        collector = module._collector
        with locks.setdefault(id(collector), Lock()):
            wanting = any(
                each.num_samples is None or each._collected_samples < each.num_samples
                for each in collector.aggregators.values()
            )
            with library:
                return _collect(module, x) if wanting else x

    with _replacing:
        TensorCollectorModule.forward, PTEngine.infer = collect, infer
        try:
            yield
        finally:
            TensorCollectorModule.forward, PTEngine.infer = _collect, _infer
