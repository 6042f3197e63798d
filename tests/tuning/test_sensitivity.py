"""Sensitivity of layers: in a network with one bad layer, and at the command line."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from torch.fx import GraphModule

from edgekit.cli.main import main
from edgekit.compiler.rewrites import rewrite
from edgekit.config.recipes import Recipe
from edgekit.images.dataset import LabelledCrops
from edgekit.images.preprocess import Preprocessing
from edgekit.report import load_report
from edgekit.report.document import parse
from edgekit.report.sensitivity_document import LayerTime, Sensitivity
from edgekit.support.progress import Reporter
from edgekit.tuning import sensitivity as analysis
from edgekit.tuning.mixtures import LayerCosts, Mixtures, Simulation
from edgekit.tuning.sensitivity import block_of, measure
from tests.helpers.calibration import quantize
from tests.helpers.graphs import export_graph
from tests.helpers.measurements import without_fresh_processes

QUIET = Reporter(quiet=True)
LABELS = list(range(10)) * 2
RECIPE = Recipe.load("convnextv2")
DENSE_LAYERS = {"0", "4", *(f"1.{name}" for name in ("wide", "narrow", "squeeze", "excite", "depthwise"))}
"""Layers of `paddle`."""
BROKEN = """
name = "broken"
description = "all INT8, ranges of one outlier"
num_calibration_samples = 1
estimator = "minmax"
[onnx]
rewrites = []
activations = "uint8"
quantize_outputs = true
quantize_depthwise = true
"""


def random_crops(labels: Sequence[int]) -> LabelledCrops:
    pixels = np.random.default_rng(0).integers(0, 256, (len(labels), 32, 32, 3), np.uint8)
    return LabelledCrops(pixels, np.array(labels))


def normalized(crops: LabelledCrops, preprocessing: Preprocessing) -> list[NDArray[np.float32]]:
    return list(crops.normalized(preprocessing))


@pytest.fixture(scope="module")
def graph(tiny_convnext: Any) -> GraphModule:
    return export_graph(tiny_convnext.module, (1, 3, 32, 32))


def quantized(graph: GraphModule, images: list[NDArray[np.float32]]) -> GraphModule:
    """A copy of the graph, quantized for ONNX Runtime."""
    return quantize(rewrite(graph, RECIPE.targets["onnx"].rewrites).graph, images, RECIPE, "onnx")


@pytest.fixture(scope="module")
def trials(graph: GraphModule, tiny_convnext: Any) -> Mixtures:
    """The tiny network on 20 random images."""
    crops = random_crops(LABELS)
    images = normalized(crops, tiny_convnext.preprocessing)
    return Mixtures(Simulation(quantized(graph, images[:4])), crops, tiny_convnext.preprocessing)


@pytest.mark.parametrize(
    ("layer", "block"),
    [
        ("stem.0", "stem"),
        ("stages.0.downsample.1", "stages.0"),
        ("stages.2.blocks.11.mlp.fc1", "stages.2.blocks.11"),
        ("head.fc", "head"),
        ("layer1.0.downsample.0", "layer1.0"),
        ("_blocks.3._expand_conv", "_blocks.3"),
        ("0.conv", "0"),
        ("fc", "fc"),
    ],
)
def test_blocks(layer: str, block: str) -> None:
    assert block_of(layer) == block


def test_trials_equal_single_runs(trials: Mixtures) -> None:
    simulation = trials.simulation
    mixtures = [frozenset([simulation.layers[3]]), trials.everything - {simulation.layers[5]}]
    steps: list[float] = []
    trials.run(mixtures, lambda amount=1: steps.append(amount))
    assert steps == [1] * len(LABELS)
    images = normalized(trials.images, trials.preprocessing)
    for mixture in mixtures:
        for index in (0, 7):
            alone = simulation.run(images[index], mixture).logits
            assert np.array_equal(trials.logits[mixture][index], alone)


def test_signal_to_noise_by_hand() -> None:
    trials = Mixtures(Any, random_crops([0, 1]), Any)  # type: ignore[arg-type]
    plain: NDArray[np.float32] = np.array([[3, 0], [0, 4]], np.float32)
    trials.logits = {frozenset(): plain, frozenset("a"): plain + np.float32(0.5), frozenset("b"): plain[:, ::-1]}
    assert trials.snr(frozenset("a")) == pytest.approx(10 * np.log10(25 / 1))
    assert trials.snr(frozenset()) == np.inf
    figures = trials.figures(frozenset("b"))
    assert (figures.drop_top1_points, figures.agreement) == (100, 0)
    assert trials.figures(frozenset()).snr_db is None
    assert trials.float_accuracy().value == 1


def test_every_layer_and_block_is_measured(trials: Mixtures) -> None:
    macs = dict.fromkeys(trials.simulation.layers, 10)
    timed = list(macs)[1:]
    costs = LayerCosts(dict.fromkeys(timed, 1.0), dict.fromkeys(timed, 3.0), ())
    measured = measure(trials, "onnx", macs, 100, QUIET, lambda: costs)
    assert [layer.name for layer in measured.layers] == list(trials.simulation.layers)
    assert sum(layer.noise_share for layer in measured.layers) == pytest.approx(1)
    assert (measured.target, measured.verdict) == ("onnx", "pass")
    assert measured.culprits.layers == ()
    blocks = {block.name: block for block in measured.blocks}
    pair = blocks["stages.1.blocks.0"]
    assert pair.layers == ("stages.1.blocks.0.mlp.fc1", "stages.1.blocks.0.mlp.fc2")
    assert pair.macs == 20
    everything = measured.int8.snr_db
    assert everything is not None
    for layer in measured.layers:
        alone, without = layer.only_int8.snr_db, layer.only_float.snr_db
        assert alone is not None
        assert alone > everything, "one layer makes less noise than all layers"
        assert without is not None
        assert layer.only_float.snr_gain_db == pytest.approx(without - everything)
    assert [layer.time for layer in measured.layers] == [None, *[LayerTime(3.0, 1.0, 2.0)] * len(timed)]
    assert pair.time == LayerTime(6.0, 2.0, 4.0)
    assert blocks[measured.layers[0].block].time is None, "one of its layers has no time"


def test_the_worst_layer_is_named(graph: GraphModule, tiny_convnext: Any) -> None:
    """Ranges from an image that is a thousand times too dark clip everything. The first layer's ranges suffice."""
    pixels = random_crops(range(10)).pixels
    images = list(tiny_convnext.preprocessing.normalize(pixels)[:, None])
    simulation = Simulation(quantized(graph, [images[0] / 1000]))
    labels = np.array([simulation.run(image, ()).logits.argmax() for image in images])
    trials = Mixtures(simulation, LabelledCrops(pixels, labels), tiny_convnext.preprocessing)
    measured = measure(trials, "onnx", {}, 0, QUIET)
    assert measured.verdict == "fail"
    assert measured.culprits.layers[0] == max(measured.layers, key=lambda layer: layer.noise_share).name
    assert measured.culprits.then.drop_top1_points <= 0
    fewer = trials.everything - frozenset(measured.culprits.layers[:-1])
    assert trials.figures(fewer).drop_top1_points > 0, "every named layer is necessary"


@pytest.fixture(scope="module")
def job(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A job whose recipe takes the ranges from one grey image, so that everything else is clipped."""
    folder = tmp_path_factory.mktemp("job")
    (folder / "broken.toml").write_text(BROKEN)
    (folder / "outlier" / "class_0").mkdir(parents=True)
    Image.new("RGB", (40, 40), (124, 116, 104)).save(folder / "outlier" / "class_0" / "grey.png")
    model = ["tests.helpers.odd:paddle", "--imgsz", "16", "--data", str(photos), "--target", "onnx", "--threads", "1"]
    return [*model, "--recipe", str(folder / "broken.toml"), "--calibration-data", str(folder / "outlier")]


@pytest.fixture(scope="module")
def deployed(job: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run. Copy it before you change it."""
    folder = tmp_path_factory.mktemp("deployed") / "run"
    few = ["--num-eval-samples", "40", "--iterations", "1", "--warmup", "0"]
    with without_fresh_processes():
        assert main(["deploy", *job, *few, "-o", str(folder), "--quiet"]) == 1, (
            "nothing is concluded if a network guesses"
        )
    return folder


def test_command(deployed: Path, job: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """In the run of a broken recipe, the loss that the simulation reports is the one that the runtime has."""
    folder = tmp_path / "run"
    shutil.copytree(deployed, folder)
    command = ["sensitivity", *job, "--num-eval-samples", "40", "--max-drop", "100", "-o", str(folder)]
    assert main([*command, "--json"]) == 0
    out, err = capfd.readouterr()
    assert (folder / "sensitivity.json").read_text() == out
    sensitivity = parse(out, Sensitivity, "the output")
    assert sensitivity.evaluation.count == 40
    (part,) = sensitivity.targets
    assert {layer.name for layer in part.layers} == DENSE_LAYERS
    assert all(layer.macs > 0 for layer in part.layers)
    assert any(layer.time and layer.time.int8_ms > 0 for layer in part.layers)
    assert "onnx-int8: reused from an earlier run" in err, "the times are those of deploy's bundle"
    report = load_report(folder)
    assert report.sensitivity == sensitivity
    assert "Sensitivity of the layers" in (folder / "report.html").read_text()
    assert (folder / "sensitivity.svg").read_text().startswith("<svg")
    real = next(row.accuracy for row in report.results if row.bundle == "onnx-int8")
    assert real is not None
    assert part.int8.snr_db is not None
    assert part.int8.snr_db < 10
    assert part.int8.agreement < 0.8
    assert real.agreement == pytest.approx(part.int8.agreement, abs=0.06)

    (folder / "report.json").write_text("{")
    assert main(command) == 0
    out, err = capfd.readouterr()
    assert "onnx: reused from an earlier run" in err
    assert f"'{folder / 'report.json'}' is not a valid Report" in err, "the user learns that the report was not updated"
    assert (folder / "report.json").read_text() == "{"
    assert "1.depthwise" in out
    assert "within 100 points." in out


@pytest.mark.parametrize(
    ("more", "message"),
    [(["--max-drop", "-1"], "--max-drop is '-1'"), (["--num-eval-samples", "500"], "500 images requested")],
)
def test_bad_input(job: list[str], tmp_path: Path, capfd: Any, more: list[str], message: str) -> None:
    assert main(["sensitivity", *job, "-o", str(tmp_path / "run"), *more]) == 2
    err = capfd.readouterr().err
    assert message in err
    assert "Traceback" not in err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("content", [None, "", "{}"])
def test_a_damaged_report_is_left_unchanged_with_a_warning(
    content: str | None, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    report, unused = tmp_path / "report.json", cast(Any, None)
    if content is not None:
        report.write_text(content)
    analysis._add_to_report(tmp_path, unused, Reporter(quiet=True))
    err = capfd.readouterr().err
    if content is None:
        assert err == ""
        assert list(tmp_path.iterdir()) == []
    else:
        assert err.startswith("warning: the sensitivity was not added to the report: ")
        assert report.read_text() == content
