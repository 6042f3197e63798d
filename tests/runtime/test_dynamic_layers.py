"""Layers whose inputs get their ranges at run time, beside static ones, on the runtimes that have kernels for them."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import edgekit
from edgekit.config.recipes import Recipe
from edgekit.config.runtimes import DeviceClass, LayerKind
from edgekit.errors import EngineError
from edgekit.job import Job
from edgekit.measure.accuracy import snr_db
from edgekit.pipeline.build import compile_stage
from edgekit.pipeline.graphs import JobGraphs, Rewriter, calibrate_together, quantize_stage
from edgekit.pipeline.loading import settings_of
from edgekit.runtime.bundle import Bundle, read_bundle
from edgekit.runtime.openvino.engine import GROUP, config_of
from edgekit.runtime.openvino.profiler import _quantizes_inputs
from edgekit.runtime.profile import profile_bundle
from edgekit.runtime.session import Session, lacks_vnni
from edgekit.runtime.tflite.flatbuffer import put_dynamic
from edgekit.tuning.mixtures import LayerStep
from edgekit.tuning.study import Candidate
from tests.helpers.calibration import network_of, noise_for, spec_of
from tests.helpers.graphs import export_graph

VNNI = DeviceClass.load("x86-64-v4")
SIDE = 16
KINDS: dict[str, LayerKind] = {"steady": "static", "exact": "float", "*": "dynamic"}
needs_vnni = pytest.mark.skipif(lacks_vnni(), reason="OpenVINO quantizes at run time on x86 with VNNI alone")


class Rows(nn.Module):
    """Linear layers on the rows of 16 patches, of which one is always static and one in float, all of other sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.up, self.steady = nn.Conv2d(3, 136, 4, 4), nn.Linear(136, 256), nn.Linear(256, 160)
        self.exact, self.narrow, self.wide = nn.Linear(160, 144), nn.Linear(144, 16), nn.Linear(16, 176)
        self.head = nn.Linear(176, 5)

    def forward(self, x: Tensor) -> Tensor:
        rows = torch.relu(self.stem(x)).flatten(2).transpose(1, 2)
        rows = torch.relu(self.exact(torch.relu(self.steady(torch.relu(self.up(rows))))))
        logits: Tensor = self.head(torch.relu(self.wide(torch.relu(self.narrow(rows)))).mean(1))
        return logits


def recipe_with(kinds: dict[str, LayerKind]) -> Recipe:
    recipe = Recipe.load("vit").for_class(VNNI)
    targets = {name: replace(row, lowerings=(), kinds=kinds) for name, row in recipe.targets.items()}
    return replace(recipe, targets=targets)


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Bundle]:
    """A bundle for each runtime that has dynamic layers; OpenVINO's shares its calibration."""
    torch.manual_seed(0)
    network, folder = network_of(Rows(), SIDE), tmp_path_factory.mktemp("dynamic")
    graph, noise, recipe = export_graph(network.module, (1, 3, SIDE, SIDE)), noise_for(network, 8), recipe_with(KINDS)
    images = [network.preprocessing.normalize(pixels[None]) for pixels in noise.pixels]
    shared = calibrate_together(recipe, VNNI, Rewriter(network, noise), graph, images)
    made = {}
    for target, calibration in (("openvino", shared), ("tflite", None)):
        spec = spec_of(network, recipe, VNNI)
        stage = quantize_stage(spec, target, "int8", graph, noise, images, shared=calibration)
        made[target], _ = compile_stage(stage, folder / target, golden_count=8)
        assert snr_db(noise.logits, made[target].golden().logits) > 25
    return made


@pytest.mark.parametrize(
    ("target", "wide"), [pytest.param("openvino", "static", marks=needs_vnni), ("tflite", "dynamic")]
)
def test_each_layer_has_its_kind_and_runs_as_it_says(target: str, wide: str, bundles: dict[str, Bundle]) -> None:
    """OpenVINO computes a layer with fewer inputs than share a range in float, so this layer is static there."""
    bundle = bundles[target]
    kinds = {layer["name"]: layer["kind"] for layer in bundle.manifest.layers}
    expected = dict.fromkeys(("up", "narrow", "head"), "dynamic") | {"stem": "static", "steady": "static"}
    assert kinds == expected | {"exact": "float", "wide": wide}
    assert "ranges at run time" in bundle.manifest.scheme
    assert bundle.manifest.engine["minimum"] in ("2.0", "2026.4")
    ran = {op.name: op.int8 for op in profile_bundle(bundle, threads=1, runs=1).ops}
    assert ran == {name: kind != "float" for name, kind in kinds.items()}


@needs_vnni
@pytest.mark.parametrize(("inputs", "expected"), [(127, False), (128, True), (136, True)])
def test_openvino_quantizes_inputs_of_as_many_values_as_share_a_range(inputs: int, expected: bool) -> None:
    """A canary of the least number of inputs in the lowering; no property of OpenVINO tells it."""
    assert _quantizes_inputs(inputs, config_of({GROUP: "128"})) is expected
    assert not _quantizes_inputs(inputs, config_of({GROUP: "0"}))


def test_a_wrong_size_of_groups_is_refused(bundles: dict[str, Bundle]) -> None:
    wrong = replace(bundles["openvino"].manifest, session={GROUP: "many"})
    with pytest.raises(EngineError, match="DYNAMIC_QUANTIZATION_GROUP_SIZE"):
        Session(replace(bundles["openvino"], manifest=wrong))


def test_layers_of_which_the_converter_made_something_else_stay_in_float() -> None:
    weights = {b"": ({"a", "b"}, np.zeros((2, 3), np.int8), np.ones(2, np.float32))}
    assert put_dynamic(SimpleNamespace(subgraphs=[]), weights) == {"a", "b"}


@pytest.mark.parametrize("name", ["x86-64-v3", "raspberry-pi-4", "raspberry-pi-5"])
def test_processors_without_vnni_get_static_layers(name: str) -> None:
    """So that nothing saturates there, and that older runtimes load a board's bundles."""
    recipe = Recipe.load("vit")
    row = replace(recipe.targets["tflite"], on={}, kinds=KINDS)
    recipe = replace(recipe, targets={**recipe.targets, "tflite": row})
    assert recipe.for_class(VNNI).targets["tflite"].kinds == KINDS
    kinds = recipe.for_class(DeviceClass.load(name)).targets["tflite"].kinds
    assert kinds == {"steady": "static", "exact": "float", "*": "static"}


@pytest.mark.parametrize(
    ("target", "kinds", "names"),
    [
        ("tflite", {}, {"up", "steady", "exact", "narrow", "wide", "head"}),
        ("openvino", {}, {"up", "steady", "exact", "narrow", "head"}),
        ("tflite", KINDS, set()),
        ("tflite", {"*t*": "static", "up": "dynamic"}, {"narrow", "wide", "head"}),
        ("onnx", {}, set()),
    ],
    ids=["all linear ones", "of enough inputs", "those stated", "whose kind is open", "a runtime without them"],
)
def test_layers_that_a_repair_may_make_dynamic(target: str, kinds: dict[str, LayerKind], names: set[str]) -> None:
    graph, recipe = export_graph(network_of(Rows(), SIDE).module, (1, 3, SIDE, SIDE)), recipe_with(kinds)

    def could_be_dynamic(recipe: Recipe) -> set[str]:
        graphs: Any = SimpleNamespace(spec=SimpleNamespace(recipe=recipe))
        return JobGraphs.could_be_dynamic(graphs, target, graph)

    assert could_be_dynamic(recipe) == names
    assert could_be_dynamic(recipe.static()) == set(), "in a browser, on Arm and without VNNI"
    first: list[LayerStep] = [(name, "dynamic") for name in sorted(names)]
    changed = Candidate(tuple(first)).keeping_in_float(sorted(names)[1:]).applied(recipe, target)
    row = changed.for_target(target).targets[target]
    assert [name for name in sorted(names) if row.kind_of(name) == "dynamic"] == sorted(names)[:1]


def test_kinds_of_single_layers_come_first_and_need_no_calibration() -> None:
    recipe = recipe_with({"*.fc1": "dynamic"})
    changed = recipe.with_kinds("tflite", {"blocks.0.fc1": "static", "a[0]": "float"})
    row = changed.targets["tflite"]
    assert [row.kind_of(name) for name in ("blocks.0.fc1", "blocks.1.fc1", "a[0]", "a0")] == [
        "static",
        "dynamic",
        "float",
        "static",
    ]
    assert changed.sharing_calibration("tflite") == recipe.sharing_calibration("tflite")


def test_a_manifest_without_kinds_is_read(bundles: dict[str, Bundle]) -> None:
    """As older versions of edgekit wrote it."""
    values = bundles["tflite"].manifest.to_dict()
    for layer in values["layers"]:  # type: ignore[attr-defined]
        del layer["kind"]
    read = type(bundles["tflite"].manifest).from_dict(values | {"schema_version": 1})
    assert all("kind" not in layer for layer in read.layers)


def test_the_bundles_load(bundles: dict[str, Bundle]) -> None:
    for bundle in bundles.values():
        with edgekit.load(read_bundle(bundle.path).path, threads=1, verify=True) as session:
            assert session.bundle.manifest.layers


def test_a_network_of_nothing_else_is_compiled(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = network_of(nn.Sequential(nn.Flatten(), nn.Linear(3 * SIDE * SIDE, 5)), SIDE)
    noise = noise_for(network, 2)
    spec = spec_of(network, recipe_with({"*": "dynamic"}), VNNI)
    images = [network.preprocessing.normalize(pixels[None]) for pixels in noise.pixels]
    bundle, _ = compile_stage(
        quantize_stage(spec, "tflite", "int8", export_graph(network.module, images[0].shape), noise, images),
        tmp_path / "b",
    )
    (op,) = profile_bundle(bundle, threads=1, runs=1).ops
    assert op.int8


def test_a_job_with_a_browser_gets_static_layers() -> None:
    """Nobody has measured dynamic ones in LiteRT.js."""
    job = Job("vit_tiny_patch16_224", Path("images"), weights="random", devices=("local",), device_class=VNNI.name)
    assert "dynamic" in settings_of(job).recipe.targets["tflite"].kinds.values()
    row = settings_of(replace(job, devices=("local", "web"))).recipe.targets["tflite"]
    assert row.kinds.keys() == settings_of(job).recipe.targets["tflite"].kinds.keys()
    assert set(row.kinds.values()) == {"static"}
    assert row.weight_rounding is None, "GPTQ, which suits the inputs of dynamic layers, costs static ones 14 dB"
