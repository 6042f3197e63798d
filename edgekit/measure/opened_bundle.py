"""A bundle whose session is open, and the measurements that don't take turns."""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edgekit.errors import StageError
from edgekit.measure.accuracy import EvaluationImages, SnrMeter, predict
from edgekit.measure.baselines import Group, is_baseline
from edgekit.measure.fresh_process import Fresh, measure_fresh
from edgekit.measure.profile_summary import ProfileSummary, runs_for, summarize_profile
from edgekit.measure.settings import Timing
from edgekit.measure.tasks import Answers
from edgekit.measure.thread_choice import ThreadChoice, fastest_threads
from edgekit.report.measurement import Accuracy
from edgekit.report.times import ThreadTime, in_format
from edgekit.runtime.bundle import Bundle
from edgekit.runtime.engine import check_threads
from edgekit.runtime.session import Session, open_session
from edgekit.support.progress import Reporter, Step


@dataclass(frozen=True)
class LowPrecisionSession:
    """Session of a float bundle in bf16 or f16, and its accuracy."""

    session: Session
    accuracy: Accuracy | None
    """Accuracy in this format; None without images."""


@dataclass(frozen=True, kw_only=True)
class CheckedBundle:
    """A bundle that gives its golden logits, and the measurements before timing."""

    bundle: Bundle
    engine: str
    """Distribution that runs the bundle, with its version."""
    threads: int
    """Number of threads that the runtime computes with."""
    by_threads: tuple[ThreadTime, ...] = ()
    """Medians of the numbers of threads that were compared."""
    fresh: Fresh
    profile: ProfileSummary
    accuracy: Accuracy | None = None
    snr_db: float | None = None
    low: LowPrecisionSession | None = None
    """The same bundle in bf16 or f16, or None if its runtime would not choose that itself."""


@dataclass(frozen=True, kw_only=True)
class OpenedBundle(CheckedBundle):
    """A checked bundle whose session is open in this process."""

    session: Session

    def example(self, images: EvaluationImages | None) -> NDArray[np.float32]:
        """The first image, or without images a golden sample, normalized: float32 [1,C,H,W]."""
        pixels = (images.crops if images is not None else self.bundle.golden()).pixels[0]
        return self.bundle.manifest.preprocessing.normalize(pixels)


def open_bundle(
    name: str,
    group: Group,
    timing: Timing,
    images: EvaluationImages | None,
    stack: ExitStack,
    reporter: Reporter,
    may_choose: bool,
) -> OpenedBundle:
    """Open and check a bundle, and evaluate it on the images; raises StageError.

    If it may choose the number of threads, the fastest is taken.
    """
    bundle = group[name]
    choice = ThreadChoice(check_threads(timing.threads, None if may_choose else bundle.manifest.threads))
    # This comes first, because a runtime that crashes then takes down only the fresh process.
    fresh = measure_fresh(bundle.path, choice.threads)
    if may_choose and (choice := fastest_threads(bundle, all_cores := choice.threads, reporter)).threads != all_cores:
        fresh = measure_fresh(bundle.path, choice.threads)
    session = stack.enter_context(open_session(bundle, choice.threads))
    session.verify()
    accuracy, snr = None, SnrMeter(images.logits if images else None)
    if images is not None:
        accuracy = accuracy_of(bundle, _predict(f"{name}: evaluate", session, images, reporter, snr), images)
    profile = summarize_profile(session, runs_for(fresh.first_ms))
    judged = images is not None or is_baseline(name, group)
    low = _open_in_low_precision(name, session, images, stack, reporter) if judged else None
    return OpenedBundle(
        bundle=bundle,
        engine=f"{session.engine_name} {session.engine_version}",
        threads=session.threads,
        by_threads=choice.times,
        session=session,
        fresh=fresh,
        profile=profile,
        accuracy=accuracy,
        snr_db=snr.db,
        low=low,
    )


def accuracy_of(bundle: Bundle, answers: Answers, images: EvaluationImages) -> Accuracy:
    """Accuracy of a bundle's answers for the evaluation images, and the classes that changed, by their indices."""
    task, targets = images.task, images.crops.labels
    confidence = task.confidence(answers, images.reference, targets)
    return replace(
        task.compare(answers, images.reference, targets),
        changes=task.changes(answers, images.reference, targets, images.names),
        right_by_class=task.right_by_class(answers, targets),
        given_by_class=task.given_by_class(answers, targets),
        confidence=replace(confidence, temperature=bundle.manifest.temperature),
    )


def _open_in_low_precision(
    name: str, session: Session, images: EvaluationImages | None, stack: ExitStack, reporter: Reporter
) -> LowPrecisionSession | None:
    """Open and evaluate the bundle in bf16 or f16; None if its runtime would not choose that, or fails.

    It may fail although f32 works, because f16 overflows above 65504.
    """
    try:
        low = session.in_low_precision()
        if low is None:
            return None
        stack.enter_context(low)
        if images is None:
            return LowPrecisionSession(low, None)
        title = f"{in_format(name, computes_in(low))}: evaluate"
        answers = _predict(title, low, images, reporter, SnrMeter(None))
        return LowPrecisionSession(low, images.task.compare(answers, images.reference, images.crops.labels))
    except StageError as error:
        reporter.warn(f"{name} in bf16 or f16: {error}", error)
        return None


def computes_in(session: Session) -> Literal["bf16", "f16"]:
    """Number format of a session from `Session.in_low_precision`."""
    return "bf16" if session.bundle.manifest.session["inference_precision"] == "bf16" else "f16"


def _predict(title: str, session: Session, images: EvaluationImages, reporter: Reporter, snr: SnrMeter) -> Answers:
    with reporter.stage(title, len(images.crops)) as step:
        return predict(images.task, snr.watched(session), _normalized(session.bundle, images, step), images.names)


def _normalized(bundle: Bundle, images: EvaluationImages, step: Step) -> Iterator[NDArray[np.float32]]:
    for image in images.crops.normalized(bundle.manifest.preprocessing):
        yield image
        step()
