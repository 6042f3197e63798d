"""The document of `edgekit evaluate`: compares the answers of bundles with those of one of them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from edgekit.images.calibration_list import listed_hashes
from edgekit.images.overlap import members_of, short_hashes
from edgekit.images.selection import Selection
from edgekit.measure.gates import COMPARED, NO_ACCURACY, NOT_INT8, bound_of, chance_gate, drop_gate, verdict_of
from edgekit.measure.settings import Gates
from edgekit.measure.tasks import Answers, Targets, Task
from edgekit.report.device import DeviceFacts
from edgekit.report.document import Reference, Unreadable
from edgekit.report.figure import Count
from edgekit.report.measurement import Accuracy, Failure
from edgekit.report.row import Gate, Verdict
from edgekit.report.sentences import RANDOM, crossing, near_chance
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
        return (*self.reasons, *crossing(self.accuracy))


@dataclass(frozen=True, kw_only=True)
class BundleEvaluation:
    """The document of `edgekit evaluate`."""

    schema_version: Literal[1] = 1
    accuracy_meaningful: bool
    """Whether accuracies mean anything; false for bundles with random weights."""
    evaluation: EvaluatedImages
    """Images that all bundles were evaluated on."""
    reference: Reference | None
    """The bundle that the others are compared with; null if none worked."""
    results: tuple[EvaluatedBundle, ...]
    """One entry for each bundle."""
    device: DeviceFacts | None = None
    """The browser that ran the bundles; null where this machine or its workers did."""

    @property
    def doubts(self) -> tuple[str, ...]:
        """Doubts about the reference, because of which nothing is concluded."""
        return tuple(near_chance(self.reference, self.evaluation.count)) if self.reference else ()

    @property
    def warnings(self) -> tuple[str, ...]:
        """The facts that the reader must know before any figure."""
        random = () if self.accuracy_meaningful else (RANDOM,)
        return (*random, *self.doubts, *_overlap(self.evaluation))


@dataclass(frozen=True)
class _Versus:
    """The bundle that the others are compared with, and what is known about all of them."""

    task: Task
    bundle: Bundle
    answers: Answers
    targets: Targets
    figures: Reference
    random: bool
    """Whether any bundle has random weights."""
    exempt_floats: bool
    """Whether int8 bundles are compared with a float one, so that the drop of other float bundles is not judged."""
    lost: Path | None
    """Path of the bundle that this one replaces because its evaluation failed."""


def compare_bundles(
    task: Task,
    bundles: Sequence[Bundle],
    answers: Sequence[Answers | Failure],
    chosen: Selection,
    targets: Targets,
    reference: Path | None = None,
    gates: Gates | None = None,
) -> BundleEvaluation:
    """Compare and judge the answers of bundles for the chosen images, or the failures that replace them.

    `reference` is the path of one of the bundles. Without it, or if it failed, the others are compared with the first
    float bundle that worked, or else the first bundle that worked. A gate on the drop needs the reference itself.
    """
    versus = _versus(task, bundles, answers, targets, reference)
    rows = []
    for bundle, answer in zip(bundles, answers, strict=True):
        if isinstance(answer, Failure):
            row = EvaluatedBundle(bundle=str(bundle.path), verdict="error", reasons=(str(answer),), failure=answer)
        else:
            assert versus is not None, "a bundle that worked can be the one to compare with"
            row = _judged(bundle, answer, versus, gates)
        rows.append(row)
    return BundleEvaluation(
        accuracy_meaningful=not any(map(_has_random_weights, bundles)),
        evaluation=_images(chosen, bundles),
        reference=versus.figures if versus else None,
        results=tuple(rows),
    )


def _versus(
    task: Task,
    bundles: Sequence[Bundle],
    answers: Sequence[Answers | Failure],
    targets: Targets,
    reference: Path | None,
) -> _Versus | None:
    """Choose the bundle to compare with; None if none worked."""
    wanted = reference.resolve() if reference else None
    ranked = sorted(
        zip(bundles, answers, strict=True),
        key=lambda pair: (pair[0].path.resolve() != wanted, pair[0].manifest.precision != "float"),
    )
    worked = [(bundle, answer) for bundle, answer in ranked if isinstance(answer, Answers)]
    if not worked:
        return None
    bundle, answer = worked[0]
    random = any(map(_has_random_weights, bundles))
    return _Versus(
        task=task,
        bundle=bundle,
        answers=answer,
        targets=targets,
        figures=task.reference(str(bundle.path), answer, targets, len(bundle.labels), random),
        random=random,
        exempt_floats=bundle.manifest.precision == "float" and any(b.manifest.precision == "int8" for b in bundles),
        lost=None if bundle is ranked[0][0] else ranked[0][0].path,
    )


def _judged(bundle: Bundle, answers: Answers, versus: _Versus, gates: Gates | None) -> EvaluatedBundle:
    """Compare the answers of a bundle, and judge its drop if the user stated a bound."""
    task, pair = versus.task, (answers, versus.answers, versus.targets)
    confidence = replace(task.confidence(*pair), temperature=bundle.manifest.temperature)
    accuracy = replace(task.compare(*pair, versus=versus.figures.engine), confidence=confidence)
    outcomes = [chance_gate(versus.random, versus.figures.near_chance)]
    if gates is not None:
        not_applicable = _not_applicable(bundle, versus)
        drop = drop_gate(accuracy, gates, not_applicable)
        if versus.lost and not_applicable in (None, COMPARED):
            drop = replace(drop, verdict="inconclusive", reasons=(f"'{versus.lost}', the reference, failed",))
        elif drop.verdict in ("pass", "inconclusive"):
            accuracy = replace(accuracy, bound=bound_of(accuracy, gates.max_drop))
        outcomes.append(drop)
    verdict, reasons = verdict_of(outcomes)
    return EvaluatedBundle(
        bundle=str(bundle.path), accuracy=accuracy, verdict=verdict, reasons=reasons, gates=tuple(outcomes)
    )


def _not_applicable(bundle: Bundle, versus: _Versus) -> str | None:
    """Why the gate on the drop does not apply to a bundle; None if it does."""
    if versus.random:
        return NO_ACCURACY
    if bundle is versus.bundle:
        return COMPARED
    return NOT_INT8 if versus.exempt_floats and bundle.manifest.precision == "float" else None


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


def calibrated_on(chosen: Selection, bundles: Sequence[Bundle]) -> tuple[str, ...] | None:
    """Names of the chosen images that any bundle was calibrated on; None if there are none, but one has no record."""
    records = [calibration_images(bundle) for bundle in bundles]
    names = tuple(members_of(chosen, {digest for record in records for digest in record or ()}))
    return None if not names and None in records else names


def calibration_images(bundle: Bundle) -> tuple[str, ...] | None:
    """Short hashes of a bundle's calibration images; none for a float bundle, None for an int8 one without a record.

    The record is in the manifest, or in the calibration.json of the run folder around the bundle.
    """
    provenance = bundle.manifest.provenance
    stored, sha256 = provenance.get("calibration_images"), provenance.get("calibration_sha256")
    if isinstance(stored, list | tuple) and (stored or not sha256):
        return tuple(map(str, stored))
    if bundle.manifest.precision == "float":
        return ()
    listed = listed_hashes(bundle.path.absolute().parent / "calibration.json", str(sha256))
    return None if listed is None else short_hashes(listed)
