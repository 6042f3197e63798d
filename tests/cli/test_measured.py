"""What `edgekit evaluate` and `edgekit benchmark` print, within 80 columns."""

from dataclasses import replace

import pytest

from edgekit.measure.evaluation import BundleEvaluation, EvaluatedBundle, EvaluatedImages
from edgekit.report.answer import Benchmark
from edgekit.report.document import Reference
from edgekit.report.page import lines_of
from edgekit.report.row import Bound, Gate
from tests.helpers.reports import CAMERA, ENERGY, THROUGHPUT, accuracy, benchmark, device, failed_row, row

FOLDER = "runs/" + "/".join(["a-folder-with-a-long-name"] * 5)
LOSS = accuracy(0.4, (-0.58, 1.57), count=500, bound=Bound(max_drop_points=1.0, shown=False, images_needed=2421))


def printed(document: BundleEvaluation | Benchmark, width: int = 80) -> list[str]:
    return [str(line) for line in lines_of(document.page(), width)]


def evaluation(folder: str = "runs/demo", meaningful: bool = True) -> BundleEvaluation:
    """A float bundle as the reference, an int8 one that can't be confirmed, and one that failed."""
    gates = (Gate(name="max-drop", verdict="inconclusive"),)
    float_, int8 = f"{folder}/onnx-float", f"{folder}/onnx-int8"
    return BundleEvaluation(
        accuracy_meaningful=meaningful,
        evaluation=EvaluatedImages(500, "ab" * 32, (), 0),
        reference=Reference(engine=float_, top1=0.7664, top5=0.93),
        results=(
            EvaluatedBundle(bundle=float_, accuracy=accuracy(0.0, (0.0, 0.0)), verdict="pass"),
            EvaluatedBundle(
                bundle=int8,
                accuracy=LOSS,
                verdict="inconclusive",
                reasons=("cannot confirm a drop of at most 1 point (...)",),
                gates=gates,
            ),
            EvaluatedBundle(
                bundle=f"{folder}/tflite-int8",
                verdict="error",
                reasons=("evaluate: it is gone",),
                failure=failed_row().failure,
            ),
        ),
    )


def test_evaluate_begins_with_the_loss() -> None:
    lines = printed(evaluation())
    assert lines[0].startswith("runs/demo/onnx-int8 loses 0.40 points of top-1 (95 % interval -0.58 to 1.57)")
    text = " ".join(" ".join(lines).split())
    assert "runs/demo/onnx-float reaches top-1 76.64 % on 500 images." in text
    assert "runs/demo/onnx-int8 76.24 0.40 (-0.58 to 1.57) 98.5 inconclusive" in text
    assert "runs/demo/onnx-int8: inconclusive: Not confirmed: the loss may be up to 1.57 points." in text
    assert "runs/demo/tflite-int8: evaluate: it is gone." in text
    assert "cannot confirm" not in text


def test_a_bundle_alone_has_no_loss() -> None:
    """It would be that against itself."""
    whole = evaluation()
    lines = printed(replace(whole, results=whole.results[:1]))
    assert list(lines) == ["runs/demo/onnx-float reaches top-1 76.64 % on 500 images."]


def test_evaluate_of_random_weights_shows_no_accuracy() -> None:
    text = "\n".join(printed(evaluation(meaningful=False)))
    assert text.startswith("warning: Accuracy is meaningless: the weights are random.")
    assert "only the agreement with runs/demo/onnx-float" in text
    assert "76." not in text


def test_benchmark_begins_with_the_fastest_bundle_of_each_device() -> None:
    here = [row("onnx", "float", 14.5), row("onnx", "int8", 7.7)]
    board = [replace(each, device=device("pi"), energy=ENERGY, throughput=THROUGHPUT, camera=CAMERA) for each in here]
    lines = printed(benchmark(*[*here, *board]))
    assert lines[0] == "Fastest on local: onnx-int8, 7.70 ms, 1.88x onnx-float."
    assert "Fastest on pi: onnx-int8, 7.70 ms, 1.88x onnx-float." in lines
    assert "onnx-int8     7.70    9.24  1.88 (1.86 to 1.90)      121  pass" in lines
    text = " ".join(" ".join(lines).split())
    assert "pi: onnx-int8: 41.25 mJ per inference" in text
    assert "pi: onnx-int8: 4 streams, threads 1 each: 310.4 images/s" in text
    assert "pi: onnx-int8: frames of 1920x1080: p50 15.40 ms, of which decoding, resizing and normalizing take" in text
    assert "; 64.6 frames/s one after the other, 128.9 if the next is prepared while the model runs" in text
    alone = printed(benchmark(*[failed_row()]))
    assert alone[0] == "No bundle could be timed."


def test_warnings_stand_above_the_fastest_bundle() -> None:
    disturbed = row(remarks=("unreliable timing: other processes used 1.5 of 2 CPUs",))
    first, *rest = printed(benchmark(*[disturbed]))
    assert first == "warning: Unreliable timing of openvino-int8: other processes used 1.5 of 2 CPUs."
    assert "unreliable" not in "".join(rest)
    emulated = row(device=device("pi", emulated=True))
    assert printed(benchmark(*[emulated]))[0].startswith("warning: Emulated by QEMU: pi.")


@pytest.mark.parametrize("width", [40, 80])
def test_no_line_is_too_long(width: int) -> None:
    board = device("ssh://somebody-with-a-long-name@a-board-in-a-far-away-rack.laboratory.example.org:2222")
    rows = [
        row("onnx", "int8", 12345.6, bundle=f"{FOLDER}/onnx-int8", remarks=("slow " * 40,), device=board),
        replace(failed_row(device=board), bundle=f"{FOLDER}/tflite-int8", reasons=("/a/long/path" * 30,)),
        row("onnx", "float", 22345.6, energy=ENERGY, throughput=THROUGHPUT),
    ]
    lines = [*printed(evaluation(FOLDER), width), *printed(benchmark(*rows), width)]
    assert max(map(len, lines)) <= width
    assert f"{FOLDER}/onnx-int8" in "".join(line.strip() for line in lines)
