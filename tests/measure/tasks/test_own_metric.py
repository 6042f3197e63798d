"""A metric of the user's, judged as a task's own."""

from typing import Any

import numpy as np
import pytest

from edgekit.errors import UsageError
from edgekit.measure.task import Metric, OwnMetric
from edgekit.measure.tasks import SingleLabel
from tests.helpers.refusals import refuses

LABELS = np.arange(90) % 3
OUTPUTS = (np.eye(3)[LABELS] + 0.6 * np.random.default_rng(0).normal(size=(90, 3))).astype(np.float32)
OTHERS = OUTPUTS + 0.5 * np.random.default_rng(1).normal(size=(90, 3)).astype(np.float32)


def accuracy(outputs: np.ndarray, labels: np.ndarray) -> float:
    return float((outputs.argmax(1) == labels).mean())


def task(metric: Metric = accuracy) -> SingleLabel:
    return SingleLabel(metric=OwnMetric(metric))


def compared(metric: Metric, outputs: np.ndarray, others: np.ndarray, labels: np.ndarray = LABELS) -> Any:
    own = task(metric)
    return own.compare(own.kept(outputs), own.kept(others), labels)


def test_a_function_that_computes_top1_gives_the_drop_and_nearly_the_interval_of_top1() -> None:
    single = SingleLabel()
    expected = single.compare(single.kept(OTHERS), single.kept(OUTPUTS), LABELS)
    own = compared(accuracy, OTHERS, OUTPUTS)
    assert (own.metric, own.value) == ("accuracy", expected.top1)
    assert own.drop_points == pytest.approx(expected.drop_points)
    assert own.agreement == expected.agreement
    assert own.drop_ci95_points == pytest.approx(expected.drop_ci95_points, abs=2.5)
    assert (own.top1, own.right_to_wrong) == (None, None)
    reference = task().reference("torch", task().kept(OUTPUTS), LABELS, 3, False)
    of_single = single.reference("torch", single.kept(OUTPUTS), LABELS, 3, False)
    assert reference.value == of_single.top1
    assert reference.top1_ci95 == pytest.approx(of_single.top1_ci95, abs=0.025)


def test_what_is_no_metric_is_the_tasks() -> None:
    own, single = task(), SingleLabel()
    pairs = [(each.kept(OTHERS), each.kept(OUTPUTS), LABELS) for each in (own, single)]
    assert own.changes(*pairs[0], []) == single.changes(*pairs[1], [])
    assert own.confidence(*pairs[0]) == single.confidence(*pairs[1])
    assert own.right_by_class(pairs[0][0], LABELS) == single.right_by_class(pairs[1][0], LABELS)
    joined = type(pairs[0][0]).joined([pairs[0][0], pairs[0][1]])
    assert joined.raw is not None
    assert np.array_equal(joined.raw, np.vstack([OTHERS, OUTPUTS]))


def test_equal_answers_are_no_surer_than_those_of_top1() -> None:
    own, single = compared(accuracy, OUTPUTS, OUTPUTS), SingleLabel()
    kept = single.kept(OUTPUTS)
    assert own.drop_points == 0
    assert own.drop_ci95_points == pytest.approx(single.compare(kept, kept, LABELS).drop_ci95_points)


@pytest.mark.parametrize("value", ["high", None, float("nan"), 97.5, float("-inf")])
def test_a_value_that_is_no_share_is_refused(value: Any) -> None:
    with refuses(UsageError, "'<lambda>'", repr(value), "90 images", "a number up to 1"):
        own = task(lambda outputs, labels: value)
        own.reference("torch", own.kept(OUTPUTS), LABELS, 3, False)


def recall_of_a_rare_class(outputs: np.ndarray, labels: np.ndarray) -> float:
    return float((outputs[labels == 3].argmax(1) == 3).mean())


def raising(outputs: np.ndarray, labels: np.ndarray) -> float:
    if not (labels == 3).any():
        raise ValueError("only one class")
    return accuracy(outputs, labels)


@pytest.mark.filterwarnings("ignore:.*mean of empty slice:RuntimeWarning", "ignore:invalid value")
@pytest.mark.parametrize("metric", [recall_of_a_rare_class, raising])
def test_resamples_without_a_value_are_left_out_of_the_interval(metric: Metric) -> None:
    labels = np.where(np.arange(90) < 2, 3, LABELS)  # one of eight resamples has neither of the two
    outputs = np.hstack([OUTPUTS, np.zeros((90, 1), np.float32)])
    outputs[0, 3] = 9
    others = outputs + np.float32(0.1) * np.random.default_rng(2).normal(size=(90, 4)).astype(np.float32)
    low, high = compared(metric, outputs, others, labels).drop_ci95_points
    assert -100 <= low <= high <= 100


def test_a_metric_that_seldom_has_a_value_is_named() -> None:
    calls: list[int] = []

    def fussy(outputs: np.ndarray, labels: np.ndarray) -> float:
        calls.append(len(labels))
        return accuracy(outputs, labels) if len(calls) == 1 or len(calls) % 3 == 0 else float("nan")

    with refuses(UsageError, "'fussy'", "90 images", "999"):
        task(fussy).reference("torch", task(fussy).kept(OUTPUTS), LABELS, 3, False)


def test_what_a_metric_judged_is_for_its_own_job_alone() -> None:
    own = task()
    assert own.key == own.key
    assert own.key != task().key
    assert own.key != SingleLabel().key
