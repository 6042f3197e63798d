"""A graph that doesn't compute what its network does is refused in every job, and the message says why."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from edgekit.cli.main import main
from edgekit.compiler import ranges
from edgekit.compiler.graph import set_weights, weight_of
from edgekit.compiler.layers import dense_layers
from edgekit.compiler.rewrites import REWRITES
from edgekit.config.recipes import Recipe
from edgekit.errors import EdgekitError, ModelError, ParityError
from edgekit.models.loading import load_network
from edgekit.models.network import torch_logits
from edgekit.models.options import ModelOptions
from edgekit.pipeline import graphs
from edgekit.pipeline.graphs import (
    Rewriter,
    WrongRewrite,
    calibrate_together,
    check_graph,
    first_differing_layer,
    quantize_stage,
)
from edgekit.pipeline.request import ParitySamples
from edgekit.report import load_report
from tests.helpers.calibration import network_of, noise_for, spec_of
from tests.helpers.graphs import export_graph
from tests.helpers.tiny import TINY_VIT, X86


@pytest.fixture
def job(photos: Path) -> list[str]:
    return ["tests.helpers.odd:two_faced", "--imgsz", "16", "--data", str(photos), "--quiet"]


CALIBRATION, EVALUATION = (["--num-calibration-samples", "4"], ["--num-eval-samples", "4"])
COMMANDS = {
    "quantize": ["--target", "onnx", "--target", "openvino", *CALIBRATION],
    "compile": ["--target", "onnx"],
    "sensitivity": ["--target", "onnx", *CALIBRATION, *EVALUATION],
    "deploy": ["--target", "onnx", "--precision", "int8", *CALIBRATION, *EVALUATION],
}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_refuses_a_wrong_graph(
    command: str, job: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main([command, *job, *COMMANDS[command], "-o", str(tmp_path / "run")]) == 1
    message = capfd.readouterr().err
    assert "edgekit can't convert 'tests.helpers.odd:two_faced' correctly" in message
    assert "its graph differs from torch by " in message
    assert "first in the output of layer 'act'" in message
    assert "Choose other runtimes" not in message
    assert "Traceback" not in message


def test_the_graph_is_compared_once(job: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compared = []

    def check(*args: Any) -> None:
        compared.append(args)
        check_graph(*args)

    monkeypatch.setattr(graphs, "check_graph", check)
    assert main(["deploy", *job, *CALIBRATION, *EVALUATION, "-o", str(tmp_path / "run")]) == 1
    assert len(compared) == 1


class Small(nn.Module):
    """A classifier [N,3,16,16] -> [N,5]."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.norm, self.act = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.GELU()
        self.norm.running_var = torch.rand(8) + 0.5
        self.middle, self.head = nn.Conv2d(8, 8, 3), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.middle(self.act(self.norm(self.stem(x))))
        logits: Tensor = self.head(x.mean((2, 3)))
        return logits


class Drops(Small):
    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.dropout(super().forward(x), 0.5)


class Batches(Small):
    def forward(self, x: Tensor) -> Tensor:
        logits = super().forward(x)
        return logits - logits.mean(0) * (len(x) > 1)


class TakesOneImage(Small):
    """Its forward has the batch size 1 in it, as code for a device often has."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.middle(self.act(self.norm(self.stem(x))))
        logits: Tensor = self.head(x.reshape(1, 8, -1).mean(2))
        return logits


class Untrained(Small):
    """Its head has the zeros with which many networks begin."""

    def __init__(self) -> None:
        super().__init__()
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)


def untrained() -> nn.Module:
    return Untrained()


class RaisesOnABatch(Small):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).view(5)[None]


def takes_one_image() -> nn.Module:
    return TakesOneImage()


def raises_on_a_batch() -> nn.Module:
    return RaisesOnABatch()


def small() -> nn.Module:
    return Small()


def drops() -> nn.Module:
    return Drops()


def batches() -> nn.Module:
    return Batches()


def checked(factory: str, change: Any = lambda graph: None) -> EdgekitError | None:
    network = load_network(ModelOptions(f"{__name__}:{factory}", imgsz=16))
    pixels = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3), np.uint8)
    graph = export_graph(network.module, (1, 3, 16, 16))
    change(graph)
    try:
        check_graph(network, graph, ParitySamples(pixels, torch_logits(network, pixels)))
    except EdgekitError as error:
        return error
    return None


@pytest.mark.parametrize("factory", ["small", "untrained"])
def test_a_right_graph_passes(factory: str) -> None:
    assert checked(factory) is None


def test_a_network_that_draws_random_numbers() -> None:
    error = checked("drops")
    assert isinstance(error, ModelError)
    assert "returns other logits when it runs again on the same image" in error.problem
    assert "training=self.training" in error.fix


def test_a_network_whose_logits_depend_on_the_batch() -> None:
    error = checked("batches")
    assert isinstance(error, ModelError)
    assert "for an image alone than for the same image in a batch" in error.problem


@pytest.mark.parametrize("factory", ["takes_one_image", "raises_on_a_batch"])
def test_a_network_for_one_image_at_a_time_passes(factory: str) -> None:
    assert checked(factory) is None


def spoil(layer: str) -> Any:
    def change(graph: GraphModule) -> None:
        part = graph.get_submodule(layer)
        assert isinstance(part.weight, Tensor)
        part.weight = nn.Parameter(part.weight * 2, requires_grad=False)  # the network keeps its own

    return change


@pytest.mark.parametrize("layer", ["middle", "head"])
def test_the_first_differing_layer_is_named(layer: str) -> None:
    error = checked("small", spoil(layer))
    assert isinstance(error, ParityError)
    assert f"first in the output of layer '{layer}'" in error.problem


def test_no_layer_is_named_where_all_are_equal() -> None:
    network, image = Small().eval(), torch.randn(1, 3, 16, 16)
    assert first_differing_layer(network, export_graph(network, image.shape), image, 1e-3) is None


class Chaotic(nn.Module):
    """A network that amplifies rounding: differences grow a thousandfold per step."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.norm = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)
        self.norm.running_var = torch.rand(8) + 0.5

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.stem(x)).mean((2, 3))
        for _ in range(2):
            x = torch.sin(500 * x)
        return x


def chaotic() -> nn.Module:
    return Chaotic()


def test_rounding_is_no_defect(monkeypatch: pytest.MonkeyPatch) -> None:
    assert checked("chaotic") is None
    monkeypatch.setattr("edgekit.pipeline.graphs.ROUNDINGS", 0)
    assert checked("chaotic") is not None


class Normed(Small):
    """A classifier with a norm whose affine and whose channels can move into the linear layer after it."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.LayerNorm(8)
        nn.init.uniform_(self.last.weight, 0.5, 1.5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.last(self.middle(self.act(self.norm(self.stem(x)))).mean((2, 3)))
        logits: Tensor = self.head(x)
        return logits


GELU = "coarse-polynomial-gelu"
NAMES = ("layer-norm-affine", "plain-layer-norm", GELU)


def planted(apply: Any, factor: float) -> Any:
    """A rewrite that also multiplies the head's weight."""

    def rewrite(graph: GraphModule) -> int:
        places: int = apply(graph)
        head = next(layer for layer in dense_layers(graph) if layer.name == "head")
        set_weights(graph, head.node, weight_of(graph, head.weight) * factor, weight_of(graph, head.bias))
        return places

    return rewrite


@pytest.mark.parametrize(("wrong", "factor"), [*dict.fromkeys(NAMES[:2], 1.01).items(), (GELU, 1.5)])
def test_a_wrong_rewrite_is_named(wrong: str, factor: float, monkeypatch: pytest.MonkeyPatch) -> None:
    network = network_of(Normed(), 16)
    graph, rewriter = export_graph(network.module, (1, 3, 16, 16)), Rewriter(network, noise_for(network))
    assert all(rewriter.rewrite(graph, NAMES).counts.values())
    monkeypatch.setitem(REWRITES, wrong, planted(REWRITES[wrong], factor))
    with pytest.raises(WrongRewrite, match=f"^the rewrite '{wrong}' changes what 'Normed' computes: "):
        rewriter.rewrite(graph, NAMES)
    assert all(rewriter.rewrite(graph, {*NAMES} - {wrong}).counts.values())


def test_a_wrong_equalization_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    network, images = network_of(Normed(), 16), [np.ones((1, 3, 16, 16), np.float32)]
    graph, samples = export_graph(network.module, (1, 3, 16, 16)), noise_for(network)
    recipe = replace(Recipe.load("default"), equalization=0.5).for_class(X86)
    monkeypatch.setattr(ranges, "scale_input", lambda *_: None)
    message = "^the equalization changes what 'Normed' computes: "
    with pytest.raises(WrongRewrite, match=message):
        calibrate_together(recipe, X86, Rewriter(network, samples), graph, images)
    with pytest.raises(WrongRewrite, match=message):
        quantize_stage(spec_of(network, recipe, X86), "onnx", "int8", graph, samples, images)


@pytest.mark.parametrize("factor", [1, 1.01])
def test_float_leaves_out_approximations_that_cost_too_much(factor: float, monkeypatch: pytest.MonkeyPatch) -> None:
    network, name = network_of(Normed(), 16), "polynomial-gelu"
    monkeypatch.setitem(REWRITES, name, planted(REWRITES[name], factor))
    graph, samples = export_graph(network.module, (1, 3, 16, 16)), noise_for(network)
    recipe = Recipe.load("vit").for_class(X86)
    facts = quantize_stage(spec_of(network, recipe, X86), "openvino", "float", graph, samples).facts
    assert (name in facts.manifest.provenance["rewrites"]) == (factor == 1)
    assert name not in facts.unmatched


def test_a_wrong_rewrite_costs_the_rows_that_it_is_in(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Of the recipe for ViT, OpenVINO alone approximates GELU."""
    monkeypatch.setitem(REWRITES, "polynomial-gelu", planted(REWRITES["polynomial-gelu"], 2))
    job = [*TINY_VIT, "--weights", "random", "--data", str(photos), "--target", "openvino", "--target", "onnx"]
    assert main(["quantize", *job, *CALIBRATION, "-o", str(tmp_path / "run"), "--json", "--quiet"]) == 1
    made = json.loads(capfd.readouterr().out)
    assert made["graphs"] == [str(tmp_path / "run" / "onnx-int8-graph")]
    (failed,) = made["failures"]
    assert (failed["name"], failed["failure"]["stage"]) == ("openvino-int8", "bug in edgekit")
    assert "WrongRewrite: the rewrite 'polynomial-gelu' changes what 'vit_tiny_patch16_224' computes" in str(failed)


def test_a_wrong_rewrite_of_every_row_ends_with_a_report(
    vit_arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(REWRITES, "layer-norm-affine", planted(REWRITES["layer-norm-affine"], 2))
    targets = ["--target", "openvino", "--target", "onnx", "--recipe", "davit"]
    assert main(["deploy", *vit_arguments, *targets, "-o", str(tmp_path / "run"), "--quiet"]) == 1
    rows = load_report(tmp_path / "run").results
    assert len(rows) == 4
    for row in rows:
        assert row.reasons[0].startswith(
            "bug in edgekit: edgekit.pipeline.graphs.WrongRewrite: the rewrite 'layer-norm"
        )
