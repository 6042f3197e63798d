"""The document of `edgekit evaluate`: the bundle to compare with, and the gate on the drop."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from edgekit.images.dataset import LabelledImage
from edgekit.images.selection import InspectedImage, Selection
from edgekit.measure.evaluation import BundleEvaluation, compare_bundles
from edgekit.measure.settings import Gates
from edgekit.measure.tasks import SingleLabel, TopClasses
from edgekit.report.row import Failure
from edgekit.report.sentences import RANDOM
from edgekit.runtime.bundle import Bundle
from tests.helpers.tiny import tiny_labels, tiny_manifest

COUNT = 400
LABELS = np.arange(COUNT) % 10
SAMPLES = tuple(LabelledImage(f"{index}.png", int(label), str(label)) for index, label in enumerate(LABELS))
CHOSEN = Selection(
    tuple(InspectedImage(sample, f"{index:016x}{0:048x}", b"", 0.0) for index, sample in enumerate(SAMPLES)),
    Path("data"),
)
FAILED = Failure("evaluate", "EngineError", "gone")
SINGLE = SingleLabel()
STATED = Gates(max_drop=2.0, must_show_drop=True)


def bundle(name: str, **provenance: object) -> Bundle:
    """A bundle with a name such as "onnx-int8"."""
    target, precision, *_ = name.split("-")
    manifest = tiny_manifest(target, precision=precision, provenance=provenance)
    return Bundle(Path(name), manifest, tuple(tiny_labels()))


def wrong(count: int) -> TopClasses:
    """Answers of which the first ones are wrong."""
    best = np.where(np.arange(COUNT) < count, LABELS + 1, LABELS)
    return TopClasses(best[:, None], np.ones(COUNT, np.float32))


def compared(
    answers: dict[str, TopClasses | Failure], gates: Gates | None = STATED, reference: str | None = None
) -> BundleEvaluation:
    bundles = [bundle(name) for name in answers]
    named = Path(reference) if reference else None
    return compare_bundles(SINGLE, bundles, list(answers.values()), CHOSEN, LABELS, named, gates)


def verdicts(evaluation: BundleEvaluation) -> list[str]:
    return [row.verdict for row in evaluation.results]


def outcomes(evaluation: BundleEvaluation) -> list[str]:
    """Outcomes of the gate on the drop."""
    return [gate.verdict for row in evaluation.results for gate in row.gates if gate.name == "max-drop"]


def test_without_a_bound_nothing_is_judged_but_the_reference() -> None:
    evaluation = compared({"onnx-float": wrong(0), "onnx-int8": wrong(200)}, None)
    assert verdicts(evaluation) == ["pass", "pass"]
    assert [[gate.name for gate in row.gates] for row in evaluation.results] == [["above-chance"]] * 2


def test_the_interval_must_confirm_the_bound() -> None:
    for lost, verdict in ((0, "pass"), (7, "inconclusive"), (20, "fail")):
        evaluation = compared({"onnx-float": wrong(40), "onnx-int8": wrong(40 + lost)})
        assert verdicts(evaluation) == ["pass", verdict]
        assert outcomes(evaluation) == ["skipped", verdict]
        accuracy = evaluation.results[1].accuracy
        assert accuracy is not None
        assert (accuracy.bound is not None) == (verdict != "fail")
        assert bool(evaluation.results[1].reasons) == (verdict != "pass")


def test_bundles_are_compared_with_the_first_float_one() -> None:
    evaluation = compared({"onnx-int8": wrong(20), "onnx-float": wrong(0), "tflite-float": wrong(20)})
    assert evaluation.reference is not None
    assert evaluation.reference.engine == "onnx-float"
    assert verdicts(evaluation) == ["fail", "pass", "pass"]
    assert outcomes(evaluation) == ["fail", "skipped", "skipped"]
    floats = compared({"onnx-float": wrong(0), "tflite-float": wrong(20)})
    assert outcomes(floats) == ["skipped", "fail"]


def test_a_reference_that_the_user_names() -> None:
    answers: dict[str, TopClasses | Failure] = {
        "onnx-float": wrong(0),
        "onnx-int8": wrong(40),
        "onnx-int8-new": wrong(60),
    }
    evaluation = compared(answers, reference="onnx-int8")
    assert outcomes(evaluation) == ["pass", "skipped", "fail"]
    assert evaluation.results[2].accuracy is not None
    assert evaluation.results[2].accuracy.versus == "onnx-int8"


def test_a_reference_that_fails_confirms_nothing() -> None:
    evaluation = compared({"onnx-float": FAILED, "onnx-int8": wrong(0), "tflite-int8": wrong(0)})
    assert verdicts(evaluation) == ["error", "inconclusive", "inconclusive"]
    assert evaluation.results[1].reasons == ("'onnx-float', the reference, failed",)
    nothing = compared({"onnx-float": FAILED, "onnx-int8": FAILED})
    assert (verdicts(nothing), nothing.reference) == (["error", "error"], None)


def test_a_reference_near_chance_leaves_everything_inconclusive() -> None:
    evaluation = compared({"onnx-float": wrong(380), "onnx-int8": wrong(380)}, None)
    assert verdicts(evaluation) == ["inconclusive", "inconclusive"]
    assert evaluation.doubts == evaluation.warnings
    assert evaluation.warnings[0].startswith("The reference is near chance: onnx-float reaches top-1 5.0 %")


def test_random_weights_have_no_accuracy() -> None:
    bundles = [bundle(name, model={"weights": "random"}) for name in ("onnx-float", "onnx-int8")]
    evaluation = compare_bundles(SINGLE, bundles, [wrong(380), wrong(390)], CHOSEN, LABELS, None, STATED)
    assert verdicts(evaluation) == ["pass", "pass"]
    assert not evaluation.accuracy_meaningful
    assert (evaluation.doubts, evaluation.warnings) == ((), (RANDOM,))
    assert outcomes(evaluation) == ["skipped", "skipped"]


def test_images_that_were_calibrated_on_are_a_warning() -> None:
    float_, int8 = bundle("onnx-float"), bundle("onnx-int8")
    manifest = replace(int8.manifest, provenance={"calibration_images": [f"{index:016x}" for index in range(5)]})
    evaluation = compare_bundles(
        SINGLE, [float_, replace(int8, manifest=manifest)], [wrong(0), wrong(0)], CHOSEN, LABELS
    )
    assert evaluation.evaluation.overlap_with_calibration == 5
    (warning,) = evaluation.warnings
    assert warning.startswith("5 of the 400 images were calibrated on (0.png, 1.png, 2.png and 2 more), so INT8 may ")
    assert evaluation.doubts == ()
    unknown = compare_bundles(SINGLE, [float_, int8], [wrong(0)] * 2, CHOSEN, LABELS)
    assert unknown.evaluation.overlap_with_calibration is None
