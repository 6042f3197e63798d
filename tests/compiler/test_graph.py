"""The exported graph equals its network, and the helpers for graphs describe and change it correctly."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from edgekit.compiler.graph import (
    A,
    add_constant,
    constant,
    constants,
    example_input,
    layer_name,
    operand,
    pair,
    refresh,
    set_weights,
    value_of,
)
from edgekit.compiler.layers import Layer, layers
from edgekit.compiler.placement import take_pixels
from edgekit.compiler.rewrites import REWRITES, rewrite
from edgekit.compiler.simplify import COPIES
from edgekit.images.preprocess import Preprocessing
from tests.helpers.graphs import export_graph

SHAPE = (1, 3, 16, 16)


class Small(nn.Module):
    """Convolutions with batch norms, an in-place activation, dropout, a view and attention."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, bias=False), nn.BatchNorm2d(8), nn.ReLU(inplace=True))
        self.spatial = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.norm = nn.BatchNorm2d(8)
        self.qkv = nn.Linear(8, 24)
        self.head = nn.Linear(8, 5)
        self.drop = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.spatial(self.stem(x)))
        tokens = x.view(1, 8, -1).transpose(1, 2)
        query, key, value = self.qkv(tokens).chunk(3, -1)
        tokens = tokens + nn.functional.scaled_dot_product_attention(query, key, value)
        tokens = tokens.add_(torch.softmax(tokens @ tokens.transpose(1, 2), -1) @ tokens)
        logits: Tensor = self.head(self.drop(tokens).mean(1))
        return logits


@pytest.fixture(scope="module")
def network() -> Small:
    torch.manual_seed(0)
    module = Small().eval()
    norm: Any
    for norm in (module.stem[1], module.norm):
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.normal_(norm.bias)
        nn.init.normal_(norm.running_mean)
        nn.init.uniform_(norm.running_var, 0.5, 2)
    return module.requires_grad_(False)


@pytest.fixture
def graph(network: nn.Module) -> GraphModule:
    return export_graph(network, SHAPE)


def calls(graph: GraphModule, target: Any) -> list[Node]:
    return [node for node in graph.graph.nodes if node.target is target]


def test_graph_equals_the_network(network: nn.Module, graph: GraphModule) -> None:
    image = torch.randn(SHAPE)
    torch.testing.assert_close(graph(image), network(image), rtol=1e-4, atol=1e-5)


def test_batch_norms_are_folded_and_no_ops_removed(graph: GraphModule) -> None:
    targets = {node.target for node in graph.graph.nodes}
    assert not targets & {*COPIES, A.dropout.default, A.batch_norm.default, A.view.default}
    assert not [target for target in targets if str(target).endswith("_.default") or "_.Tensor" in str(target)]


def test_the_network_is_not_changed(network: nn.Module) -> None:
    before = {name: value.clone() for name, value in network.state_dict().items()}
    graph = export_graph(network, SHAPE)
    rewrite(graph, REWRITES)
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name])
    assert isinstance(network.stem[1], nn.BatchNorm2d)  # type: ignore[index]


def test_a_network_in_training_mode_is_exported_for_evaluation(network: nn.Module) -> None:
    image = torch.randn(SHAPE)
    wanted = network(image)
    network.train()
    try:
        graph = export_graph(network, SHAPE)
        assert network.training
    finally:
        network.eval()
    torch.testing.assert_close(graph(image), wanted, rtol=1e-4, atol=1e-5)


def test_layers_and_their_macs(graph: GraphModule) -> None:
    actual = [layer for _, layer in layers(graph)]
    tokens = 7 * 7
    assert actual == [
        Layer("stem.0", "conv", 8 * tokens * 27),
        Layer("spatial", "depthwise", 8 * tokens * 9),
        Layer("qkv", "linear", tokens * 8 * 24),
        Layer(actual[3].name, "matmul", 2 * tokens * tokens * 8),
        Layer(actual[4].name, "matmul", tokens * tokens * 8),
        Layer(actual[5].name, "matmul", tokens * tokens * 8),
        Layer("head", "linear", 8 * 5),
    ]


def test_constants_and_values_that_depend_on_the_input(graph: GraphModule) -> None:
    (stem, spatial) = calls(graph, A.conv2d.default)
    weight = constant(graph, operand(spatial, 1))
    assert weight is not None
    assert weight.shape == (8, 1, 3, 3)
    assert constant(graph, operand(stem)) is None
    assert constant(graph, spatial) is None
    assert constants(graph, 3) is None
    kernel, absent = constants(graph, spatial.args[1], None) or ()
    assert (kernel is not None, absent) == (True, None)
    assert constants(graph, spatial.args[1], spatial) is None
    assert layer_name(spatial) == "spatial"


def test_a_view_of_a_constant_is_one(graph: GraphModule) -> None:
    (head,) = [node for node in calls(graph, A.linear.default) if layer_name(node) == "head"]
    with graph.graph.inserting_before(head):
        view = graph.graph.call_function(A.reshape.default, (head.args[1], [8, 5]))
    tensor = constant(graph, view)
    assert tensor is not None
    assert tensor.shape == (8, 5)


def test_added_constants_have_names_of_their_own(graph: GraphModule) -> None:
    node = calls(graph, A.linear.default)[0]
    first, second = (add_constant(graph, node, "a.b", torch.full((2,), float(value))) for value in (1, 2))
    assert first.target != second.target
    for new, value in ((first, 1.0), (second, 2.0)):
        tensor = constant(graph, new)
        assert tensor is not None
        assert tensor.tolist() == [value, value]


def test_new_weights_change_only_one_layer(network: nn.Module) -> None:
    shared = nn.Linear(4, 4)
    graph = export_graph(nn.Sequential(shared, nn.ReLU(), shared).eval(), (1, 4))
    first, _ = calls(graph, A.linear.default)
    image = torch.randn(1, 4)
    set_weights(graph, first, torch.eye(4), None)
    refresh(graph)
    with torch.no_grad():
        torch.testing.assert_close(graph(image), shared(image.relu()))


def test_example_input_has_the_shape(graph: GraphModule) -> None:
    assert example_input(graph).shape == SHAPE


@pytest.mark.parametrize(("value", "wanted"), [(3, (3, 3)), ([3], (3, 3)), ([3, 5], (3, 5)), ((1, 2), (1, 2))])
def test_pair(value: Any, wanted: tuple[int, int]) -> None:
    assert pair(value) == wanted


def test_replaced_weights_are_deleted(network: Small, graph: GraphModule) -> None:
    (layer, _) = calls(graph, A.linear.default)
    old = str(layer.args[1].target)  # type: ignore[union-attr]
    set_weights(graph, layer, torch.zeros(24, 8), None)
    assert old not in dict(graph.named_parameters())
    used = {str(node.target) for node in graph.graph.nodes if node.op == "get_attr"}
    refresh(graph)
    names = {name for name, _ in (*graph.named_parameters(), *graph.named_buffers())}
    assert names == used & names
    assert "qkv.bias" not in names
    assert torch.equal(network.qkv.weight, dict(network.named_parameters())["qkv.weight"])


def test_a_graph_shares_the_networks_weights(network: nn.Module, graph: GraphModule) -> None:
    addresses = {weight.data_ptr() for weight in network.parameters()}
    assert addresses & {weight.data_ptr() for weight in graph.parameters()}


def test_blocks_with_their_own_settings_are_part_of_the_graph() -> None:
    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(3, 4), nn.Linear(4, 5)

        def forward(self, x: Tensor) -> Tensor:
            with torch.autocast("cpu", enabled=False):
                x = self.first(x.mean((2, 3)).float())
            with torch.no_grad():
                logits: Tensor = self.second(x)
            return logits

    torch.manual_seed(0)
    module = Wrapped().eval()
    graph = export_graph(module, SHAPE)
    calls = [node for node in graph.graph.nodes if node.op == "call_function"]
    assert [node.target for node in calls] == [A.mean.dim, A.linear.default, A.linear.default]
    assert [layer.name for _, layer in layers(graph)] == ["first", "second"]
    x = torch.randn(SHAPE)
    torch.testing.assert_close(graph(x), module(x))


def test_an_enabled_autocast_stays() -> None:
    class Half(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            with torch.autocast("cpu", torch.bfloat16):
                return nn.functional.linear(x.mean((2, 3)), torch.ones(5, 3))

    x = torch.randn(SHAPE)
    assert export_graph(Half(), SHAPE)(x).dtype == Half()(x).dtype == torch.bfloat16


@torch.no_grad()
@pytest.mark.parametrize("std", [(0.5, 0.5, 0.5), (0.229, 0.224, 0.225)])
def test_a_graph_takes_the_pixels_of_a_crop(std: tuple[float, ...]) -> None:
    size = Preprocessing(16, 16, "bilinear", 1.0, "center", (0.45, 0.45, 0.45), std)
    graph, pixels = (
        export_graph(Small().eval(), SHAPE),
        np.random.default_rng(0).integers(0, 256, (1, 16, 16, 3), np.uint8),
    )
    expected = graph(torch.from_numpy(size.normalize(pixels)))
    take_pixels(graph, size.mean, size.std)
    assert (example_input(graph).dtype, example_input(graph).shape) == (torch.uint8, (1, 16, 16, 3))
    torch.testing.assert_close(graph(torch.from_numpy(pixels)), expected, rtol=1e-5, atol=1e-5)
    (image,) = (node for node in graph.graph.nodes if node.target is A.contiguous.default)
    assert value_of(image).is_contiguous()
