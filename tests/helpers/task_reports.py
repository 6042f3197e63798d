"""Reports of networks that tell several labels, or give vectors."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from edgekit.report.document import Reference, Report
from edgekit.report.row import Accuracy, ChangedImage, ClassChange, Detail, Row, Score
from tests.helpers.reports import BEST, by_class, report

F1 = 2 * 90 / (100 + 92), 2 * 89 / (100 + 95)
"""F1 of each label in float and in openvino-int8 of `multi_label`."""


def multi_label() -> Report:
    """A report of 12 labels with 100 images each, of which openvino-int8 gives one to another image."""
    whole = _with_score(report(), "multi-label", Score("mAP", 0.7664, (Detail("F1", 0.8123, 0.815),)))
    change = ClassChange(
        label="dog",
        images=100,
        reference_right=90,
        right=89,
        flipped=3,
        examples=(ChangedImage("scenes/0001.png", "cat, dog, tree", "cat, tree"),),
    )
    whole = by_class(_with_changes(whole, change), [90] * 12, openvino_int8=[89] * 12)
    best = whole.results[BEST]
    assert best.accuracy is not None
    best = replace(best, accuracy=replace(best.accuracy, given_by_class=(95,) * 12))
    return replace(_with_row(whole, best), reference=replace(whole.reference, given_by_class=(92,) * 12))


def embedding(label: str = "cat") -> Report:
    """A report of vectors, whose openvino-int8 finds other neighbours; without a label for images without labels."""
    details = (Detail("5th percentile of the cosine", 0.9921), Detail("overlap of the 10 nearest", 0.871))
    whole = _with_score(report(), "embedding", Score("nearest-neighbour top-1", 0.7664, details))
    change = ClassChange(
        label=label,
        images=500,
        reference_right=450,
        right=447,
        flipped=21,
        examples=tuple(ChangedImage(f"cat/{n}.png", f"cat/{n + 100}.png", f"dog/{n + 50}.png") for n in range(3)),
    )
    return _with_changes(whole, change)


def _with_score(whole: Report, task: str, score: Score) -> Report:
    rows = (replace(row, accuracy=row.accuracy and _scored(row.accuracy, score)) for row in whole.results)
    return replace(
        whole,
        model=replace(whole.model, task=task),
        reference=Reference(engine="torch", score=replace(score, details=())),
        results=tuple(rows),
    )


def _scored(accuracy: Accuracy, score: Score) -> Accuracy:
    nothing: dict[str, Any] = dict.fromkeys(
        ("top1", "top5", "drop_top1_points", "right_to_wrong", "wrong_to_right", "mcnemar_p")
    )
    drop = accuracy.drop_points
    value = score.value - drop / 100
    return replace(accuracy, score=replace(score, value=value), drop_score_points=drop, **nothing)


def _with_changes(whole: Report, change: ClassChange) -> Report:
    best = whole.results[BEST]
    assert best.accuracy is not None
    return _with_row(whole, replace(best, accuracy=replace(best.accuracy, changes=(change,))))


def _with_row(whole: Report, best: Row) -> Report:
    rows = list(whole.results)
    rows[BEST] = best
    return replace(whole, results=tuple(rows))


TASK_REPORTS: Mapping[str, Report] = {
    "multi-label": multi_label(),
    "embedding": embedding(),
    "without labels": embedding(""),
}
"""A report of each task beside single-label."""
