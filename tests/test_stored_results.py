"""Each stored result is made again when any of its inputs changes. The tests find the fields by themselves."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from edgekit.config.recipes import Recipe
from edgekit.config.runtimes import DeviceClass
from edgekit.images.dataset import Dataset, LabelledCrops, LabelledImage
from edgekit.images.preprocess import Preprocessing
from edgekit.images.selection import select
from edgekit.measure import accuracy
from edgekit.measure.accuracy import EvaluationImages, Shard, ShardInputs, evaluate_shards
from edgekit.measure.bundles import GroupInputs, MeasureSpec
from edgekit.measure.executors import ThisProcess
from edgekit.measure.settings import Gates, Timing
from edgekit.measure.tasks import MultiLabel, SingleLabel, TopClasses
from edgekit.models.network import NetworkIdentity
from edgekit.pipeline import build, builder, reference
from edgekit.pipeline.build import build_one
from edgekit.pipeline.job_images import JobImages, ReferenceInputs
from edgekit.pipeline.reference import ChoiceInputs, torch_answers
from edgekit.pipeline.request import BuildSpec, BundleInputs, CalibrationInputs
from edgekit.report.row import Measurement
from edgekit.report.sensitivity_document import TargetSensitivity
from edgekit.runtime.bundle import Bundle, read_bundle
from edgekit.support.files import Inputs
from edgekit.support.progress import Reporter, no_step
from edgekit.support.run_folder import RunFolder, open_run
from edgekit.tuning import sensitivity as analysis
from edgekit.tuning.sensitivity import SensitivityInputs
from edgekit.tuning.study import Candidate, StudyInputs
from tests.helpers.changes import changes
from tests.helpers.measurements import FakeHost, device, measurement
from tests.helpers.sensitivities import sensitivity
from tests.helpers.tiny import MakeBundle, tiny_labels
from tests.helpers.trials import measured, studied

QUIET = Reporter(quiet=True)
VERSIONS = {"edgekit": "0.1", "torch": "2.12"}
HALF = (0.5, 0.5, 0.5)

NETWORK = NetworkIdentity("tiny", "a1", "b2", Preprocessing(32, 32, "bilinear", 1.0, "center", HALF, HALF), VERSIONS)
RECIPE = Recipe.load("convnextv2").for_target("onnx")
BUNDLE = BundleInputs(
    network=NETWORK,
    target="onnx",
    precision="int8",
    rewrites_and_placement=RECIPE.targets["onnx"],
    device_class=DeviceClass.load("x86-64-v3"),
    calibration=CalibrationInputs(replace(RECIPE, targets={}), "c3", ("d4", "e5"), ("e6",), RECIPE),
    task=("single-label", ()),
    input_dtype="float32",
    versions=VERSIONS,
)
REFERENCE = ReferenceInputs(NETWORK, ("f6", "07"), ((0,), (1,)), "single-label ()")
OTHERS = ReferenceInputs(NETWORK, ("18",), ((1,),), "single-label ()")
ROW = GroupInputs(
    bundles=(("onnx-float", "18"), ("onnx-int8", "29")),
    images=REFERENCE.key,
    image_names=("cat/1.png", "dog/1.png"),
    timing=Timing(),
    device=device(),
    versions=VERSIONS,
)
SHARD = ShardInputs("18", 1, ("f6",), "Zen 3", VERSIONS)
STUDY = StudyInputs((BUNDLE,), REFERENCE, OTHERS, Timing(), device(), "ssh://pi@pi4", "3a")
SENSITIVITY = SensitivityInputs(STUDY, 1.0)
THRESHOLDS = ChoiceInputs(NETWORK, ("f6", "07"), ((0, 1), (1,)))

SAMPLES: dict[type[Inputs], Inputs] = {
    type(each): each for each in (BUNDLE, REFERENCE, ROW, SHARD, SENSITIVITY, STUDY, THRESHOLDS)
}
"""Inputs of each kind of stored result."""
CHANGES = [(inputs, path, changed) for inputs in SAMPLES.values() for path, changed in changes(inputs)]
NAMES = [f"{type(inputs).__name__}.{path}" for inputs, path, _ in CHANGES]

each_change = pytest.mark.parametrize(("inputs", "path", "changed"), CHANGES, ids=NAMES)


def test_every_kind_of_inputs_is_tested_here() -> None:
    """A new kind needs an entry in SAMPLES, and one in MAKERS that makes its result."""
    own = {kind for kind in Inputs.__subclasses__() if kind.__module__.startswith("edgekit.")}
    assert own == SAMPLES.keys()
    assert {kind for kind, _ in MAKERS} == own


@each_change
def test_the_key_covers_every_field(inputs: Inputs, path: str, changed: Inputs) -> None:
    assert changed.key != inputs.key
    assert inputs.key == replace(inputs).key  # type: ignore[type-var]


def test_each_change_gives_another_key() -> None:
    keys = Counter(changed.key for _, _, changed in CHANGES)
    assert [key for key, count in keys.items() if count > 1] == []


class Made:
    """Counts how often results were made, and not reused."""

    count = 0

    def __call__(self, *_: object, **__: object) -> None:
        self.count += 1


@dataclass(frozen=True)
class Place:
    """Where the results of one test are stored, and what counts them."""

    run: RunFolder
    patch: pytest.MonkeyPatch
    made: Made
    make_bundle: MakeBundle


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_bundle: MakeBundle) -> Iterator[Place]:
    with open_run(tmp_path / "run") as run:
        yield Place(run, monkeypatch, Made(), make_bundle)


def make_bundle_of(place: Place, inputs: Any) -> None:
    """Build a bundle with these inputs, or reuse the one that is there."""

    def compiled(to_compile: object, path: Path, reporter: Reporter) -> Bundle:
        place.made()
        return read_bundle(place.make_bundle("onnx", f"run/{path.name}", fingerprint=inputs.key))

    place.patch.setattr(build, "compile_graph", compiled)
    spec = SimpleNamespace(network=SimpleNamespace(labels=tuple(tiny_labels())), inputs=lambda *_: inputs)
    graphs: Any = SimpleNamespace(spec=spec, reporter=QUIET, graph_to_compile=lambda *_: SimpleNamespace(graph=None))
    build_one(graphs, "onnx", "int8", place.run.path / "onnx-int8")


def make_graph(place: Place, inputs: Any) -> None:
    """Quantize a graph with these inputs, or reuse the one that is there."""
    stored = place.run.path / "fingerprint"

    def read(folder: Path) -> Any:
        return SimpleNamespace(
            manifest=SimpleNamespace(fingerprint=stored.read_text() if stored.exists() else ""), labels=()
        )

    place.patch.setattr(builder, "read_facts", read)
    if not builder._has_graph(place.run.path, inputs, ()):
        place.made()
        stored.write_text(inputs.key)


def make_reference(place: Place, inputs: Any) -> None:
    """Let torch answer for images with these inputs, or reuse its answers."""

    def predict(*_: object) -> TopClasses:
        place.made()
        return TopClasses(np.array([[1], [2]]), np.ones(2, np.float32))

    place.patch.setattr(reference, "predict", predict)
    crops: Any = LabelledCrops(np.zeros((2, 4, 4, 3), np.uint8), np.zeros(2, np.int64))
    network: Any = None
    answers: Any = torch_answers(network, SingleLabel(), crops, inputs, place.run, QUIET, [])
    assert (answers.best.tolist(), answers.confidence.tolist()) == ([1, 2], [1, 1])


def make_row(place: Place, inputs: Any) -> None:
    """Measure a bundle with these inputs, or resume its measurement."""
    images: EvaluationImages = SimpleNamespace()  # type: ignore[assignment]
    spec, host = MeasureSpec(Timing(), images, place.run), FakeHost()
    place.patch.setattr(MeasureSpec, "inputs", lambda *_: inputs)
    manifest: Any = SimpleNamespace(target="onnx")
    bundle = Bundle(Path("onnx-int8"), manifest, ("cat", "dog"))

    def measure(*_: object) -> Any:
        place.made()
        return {"onnx-int8": measurement()}

    place.patch.setattr(host, "rows", measure)
    assert host.measure({"onnx-int8": bundle}, spec) == [measurement()]


def make_shard(place: Place, inputs: Any) -> None:
    """Evaluate a shard with these inputs, or reuse its answers."""

    def answer(shard: Shard) -> TopClasses:
        place.made()
        return TopClasses(np.array([[1]]), np.ones(1, np.float32))

    place.patch.setattr(accuracy, "answer", answer)
    dataset: Any = SimpleNamespace(samples=())
    shard = Shard(Path("bundle"), dataset, inputs)
    answers: Any = evaluate_shards(SingleLabel(), [shard], ThisProcess(), place.run, "0", no_step)
    assert answers.best.tolist() == [1]


def make_sensitivity(place: Place, inputs: Any) -> None:
    """Measure the sensitivity of layers with these inputs, or reuse it."""
    (result,) = sensitivity().targets

    def measure(*_: object) -> TargetSensitivity:
        place.made()
        return result

    for name in ("simulate", "layer_macs", "copy_sharing"):
        place.patch.setattr(analysis, name, lambda *_: None)
    place.patch.setattr(analysis, "measure", measure)
    place.patch.setattr(analysis, "study_inputs", lambda *_: inputs.layers)
    spec = SimpleNamespace(network=SimpleNamespace(preprocessing=None))
    images: Any = SimpleNamespace(dataset=SimpleNamespace(crop=lambda *_: None), evaluation=SimpleNamespace(samples=()))
    graphs: Any = SimpleNamespace(spec=spec, reporter=QUIET, graph_to_compile=lambda *_: SimpleNamespace(graph=None))
    options: Any = SimpleNamespace(gates=Gates(max_drop=inputs.max_drop), timing=Timing())
    assert analysis._analysed(graphs, images, "onnx", options, place.run) == result


def make_study(place: Place, inputs: Any) -> None:
    """Run a trial of a study with these inputs, or reuse it."""

    def measure(candidate: Candidate) -> Measurement:
        place.made()
        return measured(candidate)

    study = studied(place.run, inputs, measure, count=1)
    assert study.trials[-1].measured


def make_thresholds(place: Place, inputs: Any) -> None:
    """Choose the thresholds of several labels with these inputs, or reuse them."""

    def outputs(*_: object) -> Any:
        place.made()
        return np.zeros((2, 2), np.float32)

    place.patch.setattr(reference, "ChoiceInputs", lambda *_: inputs)
    place.patch.setattr(reference, "torch_logits", outputs)
    crops = SimpleNamespace(pixels=None)
    any_: Any = SimpleNamespace(identity=None, preprocessing=None)
    choosing: Any = SimpleNamespace(samples=[LabelledImage("1.png", 0, "", (0,))], hashes=())
    dataset: Any = SimpleNamespace(targets=lambda _: np.eye(2, dtype=bool), crop=lambda *_, **__: crops)
    images = JobImages(dataset, any_, any_, choosing)
    spec = BuildSpec(any_, any_, any_, any_, any_, MultiLabel())
    assert reference.with_thresholds(spec, images, place.run, QUIET).task.thresholds == (0.5, 0.5)


MAKERS: Sequence[tuple[type[Inputs], Callable[[Place, Inputs], None]]] = [
    (BundleInputs, make_bundle_of),
    (BundleInputs, make_graph),
    (ReferenceInputs, make_reference),
    (GroupInputs, make_row),
    (ShardInputs, make_shard),
    (SensitivityInputs, make_sensitivity),
    (StudyInputs, make_study),
    (ChoiceInputs, make_thresholds),
]
"""For each stored result, a function that makes it or, if it was stored with equal inputs, reuses it."""


@pytest.mark.parametrize(("kind", "make"), MAKERS, ids=[make.__name__ for _, make in MAKERS])
def test_a_result_is_made_again_when_a_field_of_its_inputs_changes(
    kind: type[Inputs], make: Callable[[Place, Inputs], None], place: Place
) -> None:
    same = SAMPLES[kind]
    make(place, same)
    make(place, replace(same))  # type: ignore[type-var]
    assert place.made.count == 1, "equal inputs: it is reused"
    reused = []
    for path, changed in changes(same):
        make(place, same)  # otherwise the result of the change before would be stored
        before = place.made.count
        make(place, changed)
        if place.made.count == before:
            reused.append(path)
    assert reused == []


@dataclass(frozen=True)
class Anything(Inputs):
    """Inputs with a value of any type."""

    value: Any


@dataclass(frozen=True)
class Other(Inputs):
    """Inputs of another kind with the same field."""

    value: Any


@pytest.mark.parametrize("value", [Path("a"), {1: 2}, object(), np.float32(1), b"a", {"a"}, (1, {"b": object()})])
def test_values_whose_text_could_differ_are_refused(value: object) -> None:
    with pytest.raises(TypeError):
        _ = Anything(value).key


def test_kinds_of_inputs_have_different_keys() -> None:
    assert Anything(1).key != Other(1).key
    assert Anything((1, 2)).key == Anything([1, 2]).key != Anything((2, 1)).key
    assert Anything({"a": 1, "b": 2}).key == Anything({"b": 2, "a": 1}).key
    different: tuple[Any, ...] = (None, 0, False, "", (), {}, 0.0)
    assert len({Anything(value).key for value in different}) == len(different)


def test_a_shard_is_evaluated_with_what_its_inputs_say(photos: Path, make_bundle: MakeBundle) -> None:
    dataset = Dataset.open(photos, [f"class_{index}" for index in range(10)])
    bundle = read_bundle(make_bundle("onnx"))
    chosen = select(dataset, 5, 0)
    (shard,) = accuracy.shards_of(bundle, dataset, chosen, 1)
    assert (shard.inputs.bundle, shard.inputs.threads) == (bundle.sha256, 1)
    assert shard.inputs.images == chosen.hashes
    assert {"onnxruntime", "numpy", "pillow", "edgekit", "python"} <= shard.inputs.versions.keys()
