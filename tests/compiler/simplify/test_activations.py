"""Each activation gets one operation however it is spelled, and numbers after a layer become weights."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import onnx
import pytest
import torch
from onnx.helper import make_node
from onnx.reference import ReferenceEvaluator
from torch import Tensor, nn
from torch.nn import functional as F

from edgekit.compiler.arithmetic import fold_hard_sigmoids, fold_numbers, restore_activations
from edgekit.compiler.graph import A
from edgekit.compiler.simplify import remove_copies
from edgekit.models.onnx_source import import_graph
from tests.helpers.graphs import export_graph, simplified, targets_of
from tests.helpers.onnx_files import written

IMAGE = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 4
ROOT, TANH = math.sqrt(2), math.sqrt(2 / math.pi)
tensor = torch.tensor


class Elementwise(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def with_gate(gate: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    return lambda x: x * gate(x)


Spelling: TypeAlias = Callable[[Tensor], Tensor]
SPELLINGS: list[tuple[Any, tuple[Any, ...], dict[str, str], Sequence[Spelling]]] = [
    (
        A.hardswish.default,
        (),
        {},
        [
            F.hardswish,
            with_gate(F.hardsigmoid),
            lambda x: x * F.relu6(x + 3) / 6,
            lambda x: x * (F.relu6(x + 3) / 6),
            lambda x: x / 6 * F.hardtanh(3 + x, 0, 6),
            lambda x: x * torch.clamp(x + 3, 0, 6) * (1 / 6),
            lambda x: x * torch.clamp(x / 6 + 0.5, 0, 1),
            lambda x: tensor([1 / 6]) * (x * torch.minimum(F.relu(x + tensor(3.0)), tensor(6.0))),
            lambda x: x.add(3).clamp_(0.0, 6).mul_(x).div_(6),
        ],
    ),
    (
        A.hardsigmoid.default,
        (),
        {},
        [
            F.hardsigmoid,
            lambda x: F.relu6(x + 3) / 6,
            lambda x: torch.clamp(x + 3, 0, 6) / 6,
            lambda x: torch.clip(x * tensor([[0.1666667]]) + 0.5, 0, 1),
        ],
    ),
    (
        A.silu.default,
        (),
        {},
        [
            F.silu,
            with_gate(torch.sigmoid),
            lambda x: torch.sigmoid(x) * x,
            lambda x: x / (1 + torch.exp(-x)),
            lambda x: x * (1 / (torch.exp(-x) + 1)),
            lambda x: 0.5 * x * (1 + torch.tanh(x / 2)),
        ],
    ),
    (
        A.gelu.default,
        (),
        {},
        [
            F.gelu,
            lambda x: x * 0.5 * (1 + torch.erf(x / ROOT)),
            lambda x: 0.5 * (x + x * torch.erf(x * 0.7071067)),
            lambda x: (torch.erf(x / tensor(ROOT)) + tensor(1.0)) * x * tensor([0.5]),
        ],
    ),
    (
        A.gelu.default,
        (),
        {"approximate": "tanh"},
        [
            lambda x: F.gelu(x, approximate="tanh"),
            lambda x: 0.5 * x * (1 + torch.tanh(TANH * (x + 0.044715 * x**3))),
            lambda x: x * (0.5 + 0.5 * torch.tanh(x * 0.7978846 * (1 + 0.044715 * x * x))),
        ],
    ),
    (
        A.mish.default,
        (),
        {},
        [
            F.mish,
            lambda x: x * torch.tanh(F.softplus(x)),
            lambda x: x * torch.tanh(torch.log(1 + torch.exp(x))),
            lambda x: torch.log1p(x.exp()).tanh() * x,
        ],
    ),
    (A.sigmoid.default, (), {}, [torch.sigmoid, lambda x: 1 / (1 + torch.exp(-x))]),
    (
        A.relu.default,
        (),
        {},
        [F.relu, lambda x: x.clamp(min=0), lambda x: x.clamp_min(0), lambda x: torch.maximum(x, tensor(0.0))],
    ),
    (
        A.clamp.default,
        (0.0, 6.0),
        {},
        [
            F.relu6,
            nn.ReLU6(),
            lambda x: x.clamp(0, 6.0),
            lambda x: x.clamp_min(0).clamp_max(6),
            lambda x: torch.minimum(F.relu(x), tensor(6.0)),
            lambda x: torch.clamp(x, tensor(0.0), tensor([6.0])),
        ],
    ),
    (A.clamp.default, (None, 1.5), {}, [lambda x: x.clamp(max=1.5), lambda x: torch.minimum(x, tensor(1.5))]),
]


@pytest.mark.parametrize(("target", "args", "options", "spellings"), SPELLINGS)
def test_each_spelling_becomes_one_operation(
    target: Any, args: tuple[Any, ...], options: dict[str, str], spellings: Sequence[Callable[[Tensor], Tensor]]
) -> None:
    for spelling in spellings:
        graph, _ = simplified(Elementwise(spelling), IMAGE, remove_copies, restore_activations)
        (activation,) = graph.graph.find_nodes(op="call_function", target=target)
        assert targets_of(graph) == [target]
        assert (activation.args[1:], activation.kwargs) == (args, options)
        assert restore_activations(graph) == 0


def gated(x: Tensor) -> Tensor:
    gate = F.hardsigmoid(x)
    return x * gate + gate


@pytest.mark.parametrize(
    "other",
    [
        lambda x: x * torch.sigmoid(1.702 * x),
        lambda x: torch.clamp(x * 0.2 + 0.5, 0.0, 1.0),
        lambda x: x * torch.clamp(x * 0.2 + 0.5, 0.0, 1.0),
        lambda x: x * (torch.clamp(x + 3, 0.0, 6.0) / 5),
        lambda x: x * torch.sigmoid(x[:, :1]),
        lambda x: (x * torch.sigmoid(x.double())).float(),
        lambda x: 0.5 * x * (1 + torch.erf(x / 1.4)),
        lambda x: x * torch.tanh(F.softplus(x, 2)),
        lambda x: x * torch.tensor([0.1, 0.2, 0.3]).view(1, 3, 1, 1),
        lambda x: x * F.relu6(x.mean((2, 3), keepdim=True) + 3) / 6,
        gated,
    ],
)
def test_what_is_no_activation_stays(other: Callable[[Tensor], Tensor]) -> None:
    before, _ = simplified(Elementwise(other), IMAGE, remove_copies)
    after, _ = simplified(Elementwise(other), IMAGE, remove_copies, restore_activations)
    canonical = {A.relu6.default: A.clamp.default}
    assert targets_of(after) == [canonical.get(target, target) for target in targets_of(before)]


def test_an_activation_of_an_activation() -> None:
    """The longest spelling isn't one, and a value between them may have other readers."""

    def both(x: Tensor) -> Tensor:
        y = F.relu(x)
        y = y * F.relu6(y + 3) / 6
        z: Tensor = y * torch.sigmoid(y)
        return z + y

    graph, places = simplified(Elementwise(both), IMAGE, restore_activations)
    assert places == 2
    assert targets_of(graph) == [A.relu.default, A.hardswish.default, A.silu.default, A.add.Tensor]


def test_the_activation_has_the_name_of_its_module() -> None:
    class Swish(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * torch.sigmoid(x)

    graph, _ = simplified(nn.Sequential(nn.Identity(), Swish()), IMAGE, restore_activations)
    (silu,) = graph.graph.find_nodes(op="call_function", target=A.silu.default)
    assert [path for path, _ in silu.meta["nn_module_stack"].values()] == ["", "1"]


NUMBERS: dict[str, Any] = {"zero": 0, "half": 0.5, "one": [1], "three": [[[[3]]]], "six": 6, "sixth": [1 / 6]}
NUMBERS |= {"root": ROOT, "quick": 1.702}

NODES = {
    ("HardSwish image",): [A.hardswish.default],
    ("HardSigmoid image alpha=0.1666667", "Mul image _"): [A.hardswish.default],
    ("Add image three", "Clip _ zero six", "Mul image _", "Div _ six"): [A.hardswish.default],
    ("Add image three", "Clip _ zero six", "Mul _ sixth", "Mul _ image"): [A.hardswish.default],
    ("Add image three", "Clip _ zero six", "Div _ six"): [A.hardsigmoid.default],
    ("HardSigmoid image", "Mul image _"): [A.mul.Tensor, A.add.Tensor, A.clamp.default, A.mul.Tensor],
    ("Sigmoid image", "Mul image _"): [A.silu.default],
    ("Mul image quick", "Sigmoid _", "Mul image _"): [A.mul.Tensor, A.sigmoid.default, A.mul.Tensor],
    ("Gelu image",): [A.gelu.default],
    ("Div image root", "Erf _", "Add _ one", "Mul image _", "Mul _ half"): [A.gelu.default],
    ("Div image root", "Erf _", "Add one _", "Mul _ half", "Mul _ image"): [A.gelu.default],
    ("Div image root", "Erf _", "Add _ one", "Mul _ _"): [A.div.Tensor, A.erf.default, A.add.Tensor, A.mul.Tensor],
    ("Mish image",): [A.mish.default],
    ("Softplus image", "Tanh _", "Mul image _"): [A.mish.default],
    ("Exp image", "Add _ one", "Log _", "Tanh _", "Mul image _"): [A.mish.default],
    ("Clip image zero six",): [A.clamp.default],
    ("Relu image", "Min _ six"): [A.clamp.default],
    ("Max image zero",): [A.relu.default],
    ("Clip image zero",): [A.relu.default],
}
"""Nodes of ONNX files, in which _ stands for the output of the node before, and the operations that they become."""


@pytest.mark.parametrize("nodes", NODES)
def test_spellings_of_onnx_files(nodes: Sequence[str], tmp_path: Path) -> None:
    made = []
    for place, text in enumerate(nodes):
        kind, *inputs = text.replace("_", f"v{place - 1}").split()
        numbers: Any = {name: float(value) for name, found, value in (part.partition("=") for part in inputs) if found}
        inputs = [name for name in inputs if "=" not in name]
        made.append(make_node(kind, inputs, [f"v{place}"], **numbers))
    read = {name: np.array(NUMBERS[name], np.float32) for node in made for name in node.input if name in NUMBERS}
    path = written(tmp_path / "model.onnx", made, read, opset=20, inputs={"image": IMAGE.shape})
    (expected,) = ReferenceEvaluator(str(path)).run(None, {"image": IMAGE.numpy()})
    graph = export_graph(import_graph(onnx.load(path), IMAGE), IMAGE.shape)
    assert targets_of(graph) == NODES[tuple(nodes)]
    torch.testing.assert_close(graph(IMAGE), torch.from_numpy(expected), rtol=1e-5, atol=1e-5)


class Layer(nn.Module):
    """A layer and a function of its output."""

    def __init__(self, function: Spelling, layer: nn.Module) -> None:
        super().__init__()
        self.layer, self.function = layer, function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.layer(x))


LAYERS: dict[str, Callable[[], nn.Module]] = {
    "conv": lambda: nn.Conv2d(3, 4, 3, stride=2),
    "depthwise": lambda: nn.Conv2d(3, 6, 3, groups=3, bias=False),
    "linear": lambda: nn.Linear(8, 5),
}


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize(
    ("gate", "limits"),
    [
        (F.hardsigmoid, (0.0, 1.0)),
        (lambda x: F.relu6(3 + x) / 6, (0.0, 1.0)),
        (lambda x: torch.clip(x * 0.2 + tensor([0.5]), 0, 1), (0.0, 1.0)),
        (lambda x: torch.clip(1 - x / 3, -1, 2), (-1.0, 2.0)),
    ],
)
def test_the_slope_of_a_gate_becomes_weights(gate: Spelling, limits: tuple[float, float], layer: str) -> None:
    module = Layer(gate, LAYERS[layer]())
    graph, _ = simplified(module, IMAGE, remove_copies, restore_activations, fold_numbers, fold_hard_sigmoids)
    assert targets_of(graph) == [(A.linear if layer == "linear" else A.conv2d).default, A.clamp.default]
    (clamp,) = graph.graph.find_nodes(op="call_function", target=A.clamp.default)
    assert clamp.args[1:] == limits


@pytest.mark.parametrize(
    ("other", "last"),
    [
        (F.hardswish, A.hardswish.default),
        (lambda x: F.hardsigmoid(x) + x.mean(), A.add.Tensor),
        (lambda x: x * F.hardsigmoid(x * 2), A.mul.Tensor),
        (lambda x: torch.clip(x * x, 0, 1), A.clamp.default),
        (lambda x: torch.clip(x * 0, 0, 1), A.clamp.default),
    ],
)
def test_gates_that_stay(other: Spelling, last: Any) -> None:
    """Those of a layer with other readers, and functions without a slope."""
    module = Layer(other, LAYERS["conv"]())
    before, _ = simplified(module, IMAGE, remove_copies, restore_activations)
    graph, _ = simplified(module, IMAGE, remove_copies, restore_activations, fold_numbers, fold_hard_sigmoids)
    assert targets_of(graph) == targets_of(before)
    assert targets_of(graph)[-1] is last


def test_layers_that_share_weights() -> None:
    """Only the gate's call gets other weights."""

    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 1)

        def forward(self, x: Tensor) -> Tensor:
            product: Tensor = self.conv(x) * F.hardsigmoid(self.conv(x.mean((2, 3), keepdim=True)))
            return product

    graph, places = simplified(Twice(), IMAGE, fold_hard_sigmoids)
    assert places == 1
    graph = export_graph(Twice(), IMAGE.shape)
    assert targets_of(graph).count(A.conv2d.default) == 2
