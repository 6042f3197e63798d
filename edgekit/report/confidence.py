"""Sentences on how sure a loss of accuracy is, and on the reasons and remarks of a row."""

from typing import Protocol

from edgekit.report.figure import points
from edgekit.report.measurement import Accuracy
from edgekit.report.row import Verdict

UNCONFIRMED = "cannot confirm a drop"
"""Beginning of a reason, as report.json has it, of a loss whose interval reaches beyond its bound."""


class Noted(Protocol):
    """A row with reasons and remarks: of a report, of `edgekit benchmark` or of `edgekit evaluate`."""

    @property
    def verdict(self) -> Verdict: ...

    @property
    def notes(self) -> tuple[str, ...]: ...


def confidence(accuracy: Accuracy) -> str:
    """Whether the images confirm that the loss is within its bound, in one or two sentences."""
    low, high = accuracy.drop_ci95_points
    images, bound = f"{accuracy.count:,} images", accuracy.bound
    if bound is None:
        return f"The 95 % interval of the loss is {low:.2f} to {high:.2f} points on {images}."
    if bound.shown:
        return (
            f"Confirmed on {images}: the loss is at most {high:.2f} points, and {bound.max_drop_points:g} is allowed."
        )
    unconfirmed, allowed = f"Not confirmed: the loss may be up to {high:.2f} points.", points(bound.max_drop_points)
    if bound.images_needed is None:
        return f"{unconfirmed} More than these {images} would not settle {allowed}."
    if bound.images_needed <= accuracy.count:
        return f"{unconfirmed} This run had {images}."
    return (
        f"{unconfirmed} About {bound.images_needed:,} images would settle {allowed}; this run had {accuracy.count:,}."
    )


def is_unconfirmed(accuracy: Accuracy | None) -> bool:
    """Whether a gate on the loss applies, and its images can't confirm that it is met."""
    return accuracy is not None and accuracy.bound is not None and not accuracy.bound.shown


def sentences(row: Noted) -> list[str]:
    """The reasons and remarks of a row as sentences that fit its verdict.

    A row that passes on its measured loss says so before it says what its images can't confirm.
    """
    return [_sentence(row, note) for note in row.notes]


def _sentence(row: Noted, note: str) -> str:
    accuracy: Accuracy | None = getattr(row, "accuracy", None)
    if not note.startswith(UNCONFIRMED) or accuracy is None or accuracy.bound is None:
        return ended(note)
    if row.verdict != "pass":
        return confidence(accuracy)
    bound = points(accuracy.bound.max_drop_points)
    return f"the measured loss, {accuracy.drop_top1_points:.2f}, is within {bound}. {confidence(accuracy)}"


def ended(text: str) -> str:
    """A sentence with its full stop."""
    return text if text.endswith((".", "!", "?")) else f"{text}."
