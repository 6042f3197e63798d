"""What a network's outputs mean: the contract of a task, and a user's own metric in place of a task's."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar, Self
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from edgekit.config.runtimes import Activation, Labelling
from edgekit.errors import UsageError
from edgekit.measure.statistics import (
    Confidences,
    Doubles,
    Floats,
    compare_confidences,
    drop_interval,
    percentile_interval,
)
from edgekit.report.document import Reference
from edgekit.report.row import Accuracy, ClassChange, Confidence, Score
from edgekit.support.files import Inputs
from edgekit.support.run_folder import RunFolder

Metric = Callable[[Floats, NDArray[Any]], float]
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

    def reference(self, engine: str, outputs: Floats, targets: NDArray[Any]) -> Reference:
        """The function's value; chance isn't known."""
        value = self._value(outputs, targets)
        (values,) = self._resampled([outputs], targets)
        return Reference(engine=engine, score=Score(self.title, value), top1_ci95=percentile_interval(values))

    def compare(self, accuracy: Accuracy, outputs: Floats, others: Floats, targets: NDArray[Any]) -> Accuracy:
        """A task's accuracy with the function's value for outputs, and its drop from that for the others."""
        value = self._value(outputs, targets)
        drop, drops = 0.0, np.zeros(1)
        if not np.array_equal(outputs, others):
            drop = 100 * (self._value(others, targets) - value)
            values, of_reference = self._resampled([outputs, others], targets)
            drops = 100 * (of_reference - values)
        return Accuracy(
            count=accuracy.count,
            agreement=accuracy.agreement,
            versus=accuracy.versus,
            drop_ci95_points=drop_interval(drop, drops, len(targets)),
            score=Score(self.title, value),
            drop_score_points=drop,
        )

    def _resampled(self, models: Sequence[Floats], targets: NDArray[Any]) -> Doubles:
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

    def _value(self, outputs: Floats, targets: NDArray[Any]) -> float:
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


@dataclass(frozen=True)
class StoredArray:
    """An array in a run folder."""

    dtype: str
    shape: tuple[int, ...]
    data: bytes

    @classmethod
    def of(cls, array: NDArray[Any]) -> Self:
        """The array for `RunFolder.remember`."""
        return cls(array.dtype.str, array.shape, array.tobytes())

    @property
    def array(self) -> NDArray[Any]:
        """The array that was stored."""
        return np.frombuffer(self.data, self.dtype).reshape(self.shape)


@dataclass(frozen=True)
class Answers:
    """What is kept of a model's outputs for N images: arrays whose first axis is that of the images."""

    raw: Floats | None = field(default=None, kw_only=True)
    """The outputs themselves, float32 [N,K], for a metric of the user's; None without one."""

    def __len__(self) -> int:
        return len(next(iter(self.arrays().values())))

    def arrays(self) -> dict[str, NDArray[Any]]:
        """The arrays by the names of their fields."""
        named = {name: getattr(self, name) for name in self.names()}
        return named if self.raw is None else {**named, "raw": self.raw}

    @classmethod
    def names(cls) -> list[str]:
        """The names of the fields for the task's own metric."""
        return [each.name for each in fields(cls) if each.name != "raw"]

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """The answers for the images of all parts, in the parts' order."""
        columns = [part.arrays() for part in parts]
        return cls(**{name: np.concatenate([each[name] for each in columns]) for name in columns[0]})

    @classmethod
    def recalled(cls, run: RunFolder, name: str, inputs: Inputs) -> Self | None:
        """The answers that a run folder has under this name for equal inputs; None if there are none."""
        stored = run.recall(name, inputs, dict[str, StoredArray])
        return None if stored is None or stored.keys() != {*cls.names()} else cls.of(stored)

    def remember(self, run: RunFolder, name: str, inputs: Inputs) -> None:
        """Store the answers in a run folder for `recalled`."""
        run.remember(name, inputs, self.stored())

    def stored(self) -> dict[str, StoredArray]:
        """The arrays for a file, from which `of` makes the answers again."""
        return {key: StoredArray.of(each) for key, each in self.arrays().items()}

    @classmethod
    def of(cls, stored: Mapping[str, StoredArray]) -> Self:
        """The answers that were stored."""
        return cls(**{name: each.array for name, each in stored.items()})

    def at(self, rows: Sequence[int]) -> Self:
        """The answers for the images at these places."""
        return type(self)(**{name: array[rows] for name, array in self.arrays().items()})


@dataclass(frozen=True)
class Outputs(Answers):
    """The outputs themselves."""

    values: Floats
    """Outputs, float32 [N,K]."""


Targets = NDArray[Any]
"""What is right for N images, as `Dataset.targets` gives it: class indices, int64 [N] with -1 for an image without a
label; or which classes each image has, bool [N,classes]."""


ClassNames = Sequence[str] | Mapping[int, str]
"""Names of classes by their indices."""


@dataclass(frozen=True)
class Task(ABC):
    """The meaning of a network's outputs, and how two models are compared that have it.

    Needs no more than numpy, because devices compare models too.
    """

    answers: ClassVar[type[Answers]] = Outputs
    """What `kept` returns."""
    thresholds: tuple[float, ...] = ()
    """Score from which an answer is given: one for all outputs, or one for each; empty if there is none."""
    metric: OwnMetric | None = None
    """The user's metric, which judges in place of the task's; None for the task's."""

    @property
    @abstractmethod
    def name(self) -> str:
        """Name on the command line and in manifests, such as "multi-label"."""

    @property
    @abstractmethod
    def labelling(self) -> Labelling:
        """How many labels an image has."""

    @property
    @abstractmethod
    def activation(self) -> Activation:
        """What turns outputs into scores."""

    @property
    def outputs_are_classes(self) -> bool:
        """Whether each output belongs to a class, which has a name."""
        return self.labelling in ("one", "several")

    @property
    def key(self) -> str:
        """Text that differs between tasks that judge the same outputs differently."""
        return f"{self.name} {self.thresholds} {self.metric.key if self.metric else ''}".rstrip()

    def at(self, threshold: float | None, outputs: int) -> Self:
        """The task with a threshold that the user states, for a network with so many outputs; itself without one."""
        if threshold is None:
            return self
        return replace(self, thresholds=(threshold,) * (outputs if self.activation == "sigmoid" else 1))

    def with_thresholds(self, outputs: Floats, targets: Targets) -> Self:
        """The task with the thresholds that suit these outputs of the float network [N,K], if it chooses any."""
        return self

    def kept(self, outputs: Floats) -> Any:
        """What is kept of outputs [N,K], of the type `answers`."""
        kept = self._kept(outputs)
        return replace(kept, raw=outputs) if self.metric else kept

    def compare(self, answers: Any, reference: Any, targets: Targets, versus: str = "reference") -> Accuracy:
        """Accuracy of answers, and its difference from the reference's for the same images in the same order."""
        accuracy = self._compare(answers, reference, targets, versus)
        return self.metric.compare(accuracy, answers.raw, reference.raw, targets) if self.metric else accuracy

    def reference(self, engine: str, answers: Any, targets: Targets, outputs: int, random_weights: bool) -> Reference:
        """Accuracy of the model that others are compared with, and whether it is near chance.

        Args:
            engine: Name of what ran the model.
            answers: Its answers for N images.
            targets: What is right for them.
            outputs: Number of the model's outputs.
            random_weights: Whether its weights are random, which are expected to guess.
        """
        if self.metric:
            return self.metric.reference(engine, answers.raw, targets)
        reference = self._reference(engine, answers, targets, outputs)
        return replace(reference, near_chance=reference.near_chance and not random_weights)

    def _kept(self, outputs: Floats) -> Answers:
        """What the task needs of outputs [N,K], by default all of them."""
        return Outputs(outputs)

    @abstractmethod
    def _compare(self, answers: Any, reference: Any, targets: Targets, versus: str) -> Accuracy:
        """Accuracy by the task's own metric."""

    @abstractmethod
    def _reference(self, engine: str, answers: Any, targets: Targets, outputs: int) -> Reference:
        """Accuracy of the reference by the task's own metric, and whether it is near chance."""

    @abstractmethod
    def changes(self, answers: Any, reference: Any, targets: Targets, names: Sequence[str]) -> tuple[ClassChange, ...]:
        """Classes in which an answer differs from the reference's, the largest loss first.

        They have their indices instead of their names, which `--labels` may change later; see `with_class_names`.
        `names` are those of the images; where there are none, an image is named by its place.
        """

    @abstractmethod
    def confidences(self, answers: Any, targets: Targets) -> Confidences:
        """The confidences of answers, and whether these are right."""

    def confidence(self, answers: Any, reference: Any, targets: Targets) -> Confidence:
        """How far the confidences of answers can be trusted, beside the reference's for the same images."""
        both = self.confidences(answers, targets), self.confidences(reference, targets)
        return compare_confidences(*both, self.thresholds)

    @abstractmethod
    def right_by_class(self, answers: Any, targets: Targets) -> tuple[int, ...] | None:
        """Number of images with a right answer for each class that images have; None for more than `MOST_CLASSES`."""

    def given_by_class(self, answers: Any, targets: Targets) -> tuple[int, ...] | None:
        """Number of images for which each of these classes is given; None where an image has one class."""
        return None

    def with_class_names(self, changes: Sequence[ClassChange], names: ClassNames) -> tuple[ClassChange, ...]:
        """The changes with the names of the classes instead of their indices."""
        return tuple(_named(change, names, self.outputs_are_classes) for change in changes)


def _named(change: ClassChange, names: ClassNames, examples: bool) -> ClassChange:
    def words(indices: str) -> str:
        return ", ".join(names[int(index)] for index in indices.split()) or "none"

    shown = change.examples
    if examples:
        shown = tuple(replace(each, before=words(each.before), after=words(each.after)) for each in shown)
    return replace(change, label=names[int(change.label)], examples=shown)


MOST_CLASSES = 1_000
"""Most classes that a report counts one by one."""
CLASSES, EXAMPLES = 100, 5
"""Most classes with changed answers, and most images of each, that a report lists."""
