"""The document of `edgekit evaluate`: compares the predictions of bundles with those of the first one that works."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from edgekit.images.selection import Selection
from edgekit.measure.accuracy import Predictions, compare
from edgekit.measure.calibrated_on import calibrated_on
from edgekit.measure.chance import reference_of
from edgekit.measure.gates import chance_gate, verdict_of
from edgekit.report.document import Reference, Unreadable
from edgekit.report.gate import Gate
from edgekit.report.row import Accuracy, Count, Failure, Verdict
from edgekit.report.sentences import RANDOM, near_chance
from edgekit.runtime.bundle import Bundle

SHOWN = 3
"""Most images that a warning names."""


@dataclass(frozen=True)
class EvaluatedImages:
    """The images that all bundles were evaluated on."""

    count: int
    """Number of images."""
    sha256: str
    """Hash of the names and contents of the images, which identifies the set."""
    unreadable: tuple[Unreadable, ...]
    """Images that were skipped because they can't be read."""
    overlap_with_calibration: Count | None
    """Number of images that any of the bundles was calibrated on; null if a bundle doesn't tell."""
    calibrated_on: tuple[str, ...] = ()
    """Paths of these images within their data set."""


@dataclass(frozen=True, kw_only=True)
class EvaluatedBundle:
    """Accuracy of one bundle with its verdict, or the failure of its evaluation."""

    bundle: str
    """Path of the bundle."""
    accuracy: Accuracy | None = None
    """Accuracy, compared with the reference; null if the evaluation failed."""
    verdict: Verdict
    """Outcome of the gates, or "error"."""
    reasons: tuple[str, ...] = ()
    """Reasons why the bundle did not pass; empty where it did."""
    failure: Failure | None = None
    """Stage that failed and its error; null where the bundle was evaluated."""
    gates: tuple[Gate, ...] = ()
    """Outcome of each gate; empty for a bundle that failed."""

    @property
    def label(self) -> str:
        return self.bundle

    @property
    def notes(self) -> tuple[str, ...]:
        return self.reasons


@dataclass(frozen=True, kw_only=True)
class BundleEvaluation:
    """The document of `edgekit evaluate`."""

    schema_version: Literal[1] = 1
    accuracy_meaningful: bool
    """Whether accuracies mean anything; false for bundles with random weights."""
    evaluation: EvaluatedImages
    """Images that all bundles were evaluated on."""
    reference: Reference | None
    """The first bundle that worked, with which the others are compared; null if none worked."""
    results: tuple[EvaluatedBundle, ...]
    """One entry for each bundle."""

    @property
    def doubts(self) -> tuple[str, ...]:
        """Doubts about the reference, because of which nothing is concluded."""
        return tuple(near_chance(self.reference, self.evaluation.count)) if self.reference else ()

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the reader must know before any figure."""
        random = () if self.accuracy_meaningful else (RANDOM,)
        return (*random, *self.doubts, *_overlap(self.evaluation))


def compare_bundles(
    bundles: Sequence[Bundle], answers: Sequence[Predictions | Failure], chosen: Selection
) -> BundleEvaluation:
    """Compare and judge the predictions of bundles for the chosen images, or the failures that replace them."""
    random = any(_has_random_weights(bundle) for bundle in bundles)
    labels = np.array([sample.label for sample in chosen.samples], np.int64)
    reference: Reference | None = None
    first: Predictions | None = None
    rows: list[EvaluatedBundle] = []
    for bundle, answer in zip(bundles, answers, strict=True):
        name = str(bundle.path)
        if isinstance(answer, Failure):
            rows.append(EvaluatedBundle(bundle=name, verdict="error", reasons=(str(answer),), failure=answer))
            continue
        if first is None or reference is None:
            first, reference = answer, reference_of(name, answer, labels, len(bundle.labels), random)
        gates = (chance_gate(random, reference.near_chance),)
        verdict, reasons = verdict_of(gates)
        accuracy = compare(answer, first, versus=reference.engine)
        rows.append(EvaluatedBundle(bundle=name, accuracy=accuracy, verdict=verdict, reasons=reasons, gates=gates))
    return BundleEvaluation(
        accuracy_meaningful=not random,
        evaluation=_images(chosen, bundles),
        reference=reference,
        results=tuple(rows),
    )


def _images(chosen: Selection, bundles: Sequence[Bundle]) -> EvaluatedImages:
    names = calibrated_on(chosen, bundles)
    unreadable = tuple(Unreadable(*skipped) for skipped in chosen.unreadable)
    overlap = None if names is None else len(names)
    return EvaluatedImages(len(chosen.samples), chosen.sha256, unreadable, overlap, names or ())


def _overlap(images: EvaluatedImages) -> tuple[str, ...]:
    """A warning if bundles were calibrated on some of the images."""
    if not images.overlap_with_calibration:
        return ()
    names = images.calibrated_on
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return (
        f"{len(names):,} of the {images.count:,} images were calibrated on ({', '.join(names[:SHOWN])}{more}), so INT8 "
        "may seem more accurate than it is. Evaluate on other images.",
    )


def _has_random_weights(bundle: Bundle) -> bool:
    model = bundle.manifest.provenance.get("model")
    return isinstance(model, dict) and model.get("weights") == "random"
