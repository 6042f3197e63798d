"""Accuracy class by class, and the images whose predicted class INT8 changed, for the page."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from edgekit.report.changes import ChangedImage
from edgekit.report.document import Report
from edgekit.report.row import Row

CLASSES = 10
"""Number of classes that the page shows without a click, and of changed classes of a bundle that it shows at all."""
EXAMPLES = 3
"""Number of flipped images that the page shows for each changed class."""


@dataclass(frozen=True)
class ClassLine:
    """Accuracy of one class, in percent."""

    label: str
    images: int
    reference: float
    bundles: tuple[float, ...]
    """Accuracy of each bundle of the table."""

    @property
    def losses(self) -> tuple[float, ...]:
        """Percentage points that each bundle loses."""
        return tuple(self.reference - accuracy for accuracy in self.bundles)


@dataclass(frozen=True)
class ClassTable:
    """Accuracy of each class in the reference and in the INT8 bundles of a device, the largest loss first."""

    device: str
    bundles: tuple[str, ...]
    lines: tuple[ClassLine, ...]


def class_tables(report: Report) -> list[ClassTable]:
    """A table for each device with INT8 bundles; none if accuracies mean nothing, or aren't known class by class."""
    classes, reference = report.evaluation.classes, report.reference.right_by_class
    if not report.model.accuracy_meaningful or not classes or reference is None:
        return []
    tables = []
    for device in report.devices:
        rows = [row for row in report.results if row.device.name == device and row.precision == "int8"]
        right = {row.name: row.accuracy.right_by_class for row in rows if row.accuracy and row.accuracy.right_by_class}
        if not right:
            continue
        lines = [
            ClassLine(
                label=each.label,
                images=each.images,
                reference=100 * reference[index] / each.images,
                bundles=tuple(100 * counts[index] / each.images for counts in right.values()),
            )
            for index, each in enumerate(classes)
        ]
        lines.sort(key=lambda line: (-max(line.losses), line.reference, line.label))
        tables.append(ClassTable(device, tuple(right), tuple(lines)))
    return tables


def changed_rows(report: Report) -> list[Row]:
    """The INT8 rows with changed predictions; none if accuracies mean nothing."""
    if not report.model.accuracy_meaningful:
        return []
    return [row for row in report.results if row.precision == "int8" and row.accuracy and row.accuracy.changes]


def shown_images(rows: Sequence[Row]) -> Iterator[ChangedImage]:
    """The flipped images of these rows that the page shows."""
    for row in rows:
        for change in (row.accuracy.changes or ())[:CLASSES] if row.accuracy else ():
            yield from change.examples[:EXAMPLES]
