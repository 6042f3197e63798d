"""Predictions that differ from those of the reference, class by class."""

from dataclasses import dataclass
from typing import Annotated

from msgspec import Meta

Count = Annotated[int, Meta(ge=0)]


@dataclass(frozen=True)
class ChangedImage:
    """An image whose predicted class differs from the reference's."""

    image: str
    """Path of the image within its data set."""
    before: str
    """Class that the reference predicts."""
    after: str
    """Class that the bundle predicts."""


@dataclass(frozen=True, kw_only=True)
class ClassChange:
    """Predictions for the images of one class, by the reference and by the bundle."""

    label: str
    """Name of the class."""
    images: Count
    """Number of evaluation images of this class."""
    reference_right: Count
    """Number of them that the reference classifies correctly."""
    right: Count
    """Number of them that the bundle classifies correctly."""
    flipped: Count
    """Number of them for which the two predict different classes."""
    examples: tuple[ChangedImage, ...] = ()
    """A few of the flipped images, those that became wrong first."""
