"""Every pass leaves fake tensors on all nodes, and the tests would notice if one didn't."""

import importlib
from typing import Any

import pytest
import timm
import torch
from torch.fx import GraphModule

from edgekit.compiler.graph import A, insert
from edgekit.compiler.rewrites import REWRITES, rewrite
from edgekit.config.recipes import Recipe
from edgekit.config.runtimes import RUNTIMES
from tests.helpers.graphs import check_values, export_graph

SMALL: dict[str, Any] = {"depths": (1, 1, 1, 1), "dims": (8, 16, 32, 64), "num_classes": 10}


@pytest.fixture(scope="module")
def two_norms() -> GraphModule:
    """A ConvNeXt for small images, whose stem's norm stands right before that of the first downsampling."""
    network = timm.create_model("convnextv2_atto", patch_size=2, **SMALL).eval().requires_grad_(False)
    return export_graph(network, (1, 3, 32, 32))


@pytest.mark.parametrize("target", RUNTIMES)
def test_a_norm_behind_a_norm_is_rewritten(target: str, two_norms: GraphModule) -> None:
    names = Recipe.for_model("convnextv2_atto", REWRITES).targets[target].rewrites_of("int8")
    graph, x = rewrite(two_norms, names).graph, torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(graph(x), two_norms(x), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("graph", "plain-layer-norm"),
        ("graph", "channels-last"),
        ("rewrites", "vector-norm-mean"),
        ("graph", "polynomial-gelu"),
        ("graph", "split-depthwise"),
    ],
)
def test_a_pass_that_leaves_none_is_noticed(
    module: str, name: str, two_norms: GraphModule, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forgetful(*args: Any, **kwargs: Any) -> Any:
        node = insert(*args, **kwargs)
        del node.meta["val"]
        return node

    monkeypatch.setattr(importlib.import_module(f"edgekit.compiler.{module}"), "insert", forgetful)
    with pytest.raises((AssertionError, KeyError), match=r"without a fake tensor|^'val'$"):
        rewrite(two_norms, [name])


def test_a_wrong_value_is_noticed(two_norms: GraphModule) -> None:
    graph = rewrite(two_norms, []).graph
    node = graph.graph.find_nodes(op="call_function", target=A.layer_norm.default)[0]
    node.meta["val"] = node.meta["val"][..., :1]
    with pytest.raises(AssertionError, match="with a wrong fake tensor"):
        check_values(graph)
