"""A metric of the user's, judged as a task's own."""

from typing import Any

import numpy as np
import pytest

from edgekit.errors import UsageError
from edgekit.measure.tasks.own_metric import Metric, OwnMetric
from edgekit.measure.tasks.single_label import SingleLabel
from edgekit.measure.tasks.task import Outputs
from tests.helpers.refusals import refuses

LABELS = np.arange(90) % 3
REFERENCE = Outputs((np.eye(3)[LABELS] + 0.6 * np.random.default_rng(0).normal(size=(90, 3))).astype(np.float32))
OTHER = Outputs(REFERENCE.values + 0.5 * np.random.default_rng(1).normal(size=(90, 3)).astype(np.float32))


def accuracy(outputs: np.ndarray, labels: np.ndarray) -> float:
    return float((outputs.argmax(1) == labels).mean())


def task(metric: Metric = accuracy) -> OwnMetric:
    return OwnMetric(task=SingleLabel(), metric=metric)


def test_a_function_that_computes_top1_gives_the_drop_and_nearly_the_interval_of_top1() -> None:
    single = SingleLabel()
    expected = single.compare(single.kept(OTHER.values), single.kept(REFERENCE.values), LABELS)
    own = task().compare(OTHER, REFERENCE, LABELS)
    assert (own.metric, own.value) == ("accuracy", expected.top1)
    assert own.drop_points == pytest.approx(expected.drop_points)
    assert own.agreement == expected.agreement
    assert own.drop_ci95_points == pytest.approx(expected.drop_ci95_points, abs=2.5)
    assert (own.top1, own.right_to_wrong) == (None, None)
    assert task().reference("torch", REFERENCE, LABELS, 3, False).value == accuracy(REFERENCE.values, LABELS)


def test_equal_answers_are_no_surer_than_those_of_top1() -> None:
    own, single = task().compare(REFERENCE, REFERENCE, LABELS), SingleLabel()
    kept = single.kept(REFERENCE.values)
    assert own.drop_points == 0
    assert own.drop_ci95_points == pytest.approx(single.compare(kept, kept, LABELS).drop_ci95_points)
    assert task().least_interval(90) == own.drop_ci95_points[1]


@pytest.mark.parametrize("value", ["high", None, float("nan"), 97.5])
def test_a_value_that_is_no_share_is_refused(value: Any) -> None:
    with refuses(UsageError, f"metric '<lambda>' returned {value!r} for 90 images", "a number up to 1"):
        task(lambda outputs, labels: value).reference("torch", REFERENCE, LABELS, 3, False)


def test_stored_results_depend_on_the_function() -> None:
    def other(outputs: np.ndarray, labels: np.ndarray) -> float:
        return 1.0

    assert task().key == task().key
    assert task().key != task(other).key
    assert task(max).key != task(max).key, "a function without a source may have changed"  # type: ignore[arg-type]
