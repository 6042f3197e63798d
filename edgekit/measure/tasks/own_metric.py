"""A metric of the user's, a function of Python, in place of a task's metric."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from edgekit.errors import UsageError
from edgekit.measure.paired import drop_interval, percentile_interval
from edgekit.report.document import Reference
from edgekit.report.measurement import Accuracy, Score

Metric = Callable[[NDArray[np.float32], NDArray[Any]], float]
"""A function of outputs [N,K] and of what is right for these images. More is better, and 1 is the most."""
RESAMPLES = 999
FEWEST_VALUES = 500
"""Fewest resamples on which a metric must have a value."""
_VALID = "a number up to 1, of which more is better"


@dataclass(frozen=True)
class OwnMetric:
    """A metric that a function gives, with intervals from a bootstrap over images."""

    function: Metric
    key: str = field(default_factory=lambda: uuid4().hex)
    """Text that no other job has. Nobody knows what a function depends on, so no later job reuses what it judged."""

    @property
    def title(self) -> str:
        """Name of the function."""
        return str(getattr(self.function, "__name__", type(self.function).__name__))

    def reference(self, engine: str, outputs: NDArray[np.float32], targets: NDArray[Any]) -> Reference:
        """The function's value; chance isn't known."""
        value = self._value(outputs, targets)
        (values,) = self._resampled([outputs], targets)
        return Reference(engine=engine, score=Score(self.title, value), top1_ci95=percentile_interval(values))

    def compare(
        self, accuracy: Accuracy, outputs: NDArray[np.float32], others: NDArray[np.float32], targets: NDArray[Any]
    ) -> Accuracy:
        """A task's accuracy with the function's value for outputs, and its drop from that for the others."""
        value = self._value(outputs, targets)
        drop, drops = 0.0, np.zeros(1)
        if not np.array_equal(outputs, others):
            drop = 100 * (self._value(others, targets) - value)
            values, of_reference = self._resampled([outputs, others], targets)
            drops = 100 * (of_reference - values)
        return replace(
            accuracy,
            top1=None,
            top5=None,
            drop_top1_points=None,
            drop_ci95_points=drop_interval(drop, drops, len(targets)),
            right_to_wrong=None,
            wrong_to_right=None,
            mcnemar_p=None,
            score=Score(self.title, value),
            drop_score_points=drop,
        )

    def _resampled(self, models: Sequence[NDArray[np.float32]], targets: NDArray[Any]) -> NDArray[np.float64]:
        """The values for the outputs of each model on the resamples on which there are any, [models,resamples].

        A rare class may be missing from a resample. Raises UsageError if more than half of the resamples have no value.
        """
        random, values = np.random.default_rng(0), []
        for _ in range(RESAMPLES):
            images = random.integers(len(targets), size=len(targets))
            with suppress(UsageError):
                values.append([self._value(outputs[images], targets[images]) for outputs in models])
        if len(values) < FEWEST_VALUES:
            raise UsageError(
                f"metric '{self.title}' has no value for {RESAMPLES - len(values)} of {RESAMPLES} resamples of the "
                f"{len(targets)} images, so its interval isn't known",
                valid=_VALID,
                fix="Evaluate on more images, or return a number even if a class has no image",
            )
        return np.array(values).T

    def _value(self, outputs: NDArray[np.float32], targets: NDArray[Any]) -> float:
        outcome, cause, number = "", None, np.nan
        try:
            returned: Any = self.function(outputs, targets)
            outcome = f"returned {returned!r}"
            number = float(returned)
        except Exception as error:  # the function is the user's
            outcome, cause = outcome or f"raised {error!r}", error
        if not -np.inf < number <= 1:
            raise UsageError(f"metric '{self.title}' {outcome} for {len(targets)} images", valid=_VALID) from cause
        return number
