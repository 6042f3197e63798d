"""A metric of the user's, a function of Python, in place of a task's metric."""

import hashlib
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from edgekit.config.choices import Activation, Labelling
from edgekit.errors import UsageError
from edgekit.measure.confidence import Confidences
from edgekit.measure.paired import CONFIDENCE
from edgekit.measure.tasks.task import Outputs, Targets, Task
from edgekit.report.document import Reference
from edgekit.report.measurement import Accuracy, ClassChange, Score

Metric = Callable[[NDArray[np.float32], Targets], float]
"""A function of outputs [N,K] and of what is right for these images. More is better, and 1 is the most."""
RESAMPLES = 999


@dataclass(frozen=True, kw_only=True)
class OwnMetric(Task):
    """A task whose metric a function gives. Agreement and changed images are those of the task."""

    task: Task
    metric: Metric

    @property
    def name(self) -> str:
        """Name of the task."""
        return self.task.name

    @property
    def labelling(self) -> Labelling:
        """That of the task."""
        return self.task.labelling

    @property
    def activation(self) -> Activation:
        """That of the task."""
        return self.task.activation

    @property
    def title(self) -> str:
        """Name of the function."""
        return str(getattr(self.metric, "__name__", type(self.metric).__name__))

    @property
    def key(self) -> str:
        """The task's, with the source of the function; without a source, nothing is reused."""
        try:
            source = inspect.getsource(self.metric)
        except (OSError, TypeError):
            source = uuid4().hex
        return f"{self.task.key} {self.title} {hashlib.sha256(source.encode()).hexdigest()}"

    def compare(self, answers: Outputs, reference: Outputs, targets: Targets, versus: str = "reference") -> Accuracy:
        """The function's value, and its drop with a paired bootstrap over images.

        The interval is at least as wide as that of a share of the images of which none differs: a bootstrap knows
        nothing of what no image shows.
        """
        from scipy.stats import bootstrap

        def drop(images: NDArray[np.int64]) -> float:
            one, other = (self._value(each.values[images], targets[images]) for each in (answers, reference))
            return 100 * (other - one)

        images = np.arange(len(targets))
        measured, least = drop(images), self.least_interval(len(images))
        low = high = measured
        if len(images) > 1 and not np.array_equal(answers.values, reference.values):
            low, high = bootstrap(
                (images,), drop, n_resamples=RESAMPLES, vectorized=False, method="percentile",
                confidence_level=CONFIDENCE, rng=np.random.default_rng(0),
            ).confidence_interval  # fmt: skip
        return replace(
            self.task.compare(self.task.kept(answers.values), self.task.kept(reference.values), targets, versus),
            top1=None,
            top5=None,
            drop_top1_points=None,
            drop_ci95_points=(min(float(low), measured - least), max(float(high), measured + least)),
            right_to_wrong=None,
            wrong_to_right=None,
            mcnemar_p=None,
            score=Score(self.title, self._value(answers.values, targets)),
            drop_score_points=measured,
        )

    def reference(
        self, engine: str, answers: Outputs, targets: Targets, outputs: int, random_weights: bool
    ) -> Reference:
        """The function's value; chance isn't known."""
        return Reference(engine=engine, score=Score(self.title, self._value(answers.values, targets)))

    def changes(
        self, answers: Outputs, reference: Outputs, targets: Targets, names: Sequence[str]
    ) -> tuple[ClassChange, ...]:
        """Those of the task."""
        return self.task.changes(self.task.kept(answers.values), self.task.kept(reference.values), targets, names)

    def confidences(self, answers: Outputs, targets: Targets) -> Confidences:
        """Those of the task."""
        return self.task.confidences(self.task.kept(answers.values), targets)

    def right_by_class(self, answers: Outputs, targets: Targets) -> tuple[int, ...] | None:
        """Those of the task."""
        return self.task.right_by_class(self.task.kept(answers.values), targets)

    def given_by_class(self, answers: Outputs, targets: Targets) -> tuple[int, ...] | None:
        """Those of the task."""
        return self.task.given_by_class(self.task.kept(answers.values), targets)

    def _value(self, outputs: NDArray[np.float32], targets: Targets) -> float:
        value: Any = self.metric(outputs, targets)
        try:
            number = float(value)
        except (TypeError, ValueError):
            number = np.nan
        if not number <= 1:
            raise UsageError(
                f"metric '{self.title}' returned {value!r} for {len(targets)} images",
                valid="a number up to 1, of which more is better",
            )
        return number
