"""Every rewrite preserves the network's function, and changes the graph as intended."""

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.fx import GraphModule

from edgekit.compiler.graph import A, constant
from edgekit.compiler.layers import dense_layers, layers
from edgekit.compiler.layouts import ConvolutionShape
from edgekit.compiler.rewrites import REWRITES, rewrite, weights_after
from edgekit.config.recipes import Recipe
from edgekit.config.runtimes import PRECISIONS, DeviceClass
from edgekit.errors import ProfileError
from edgekit.images.preprocess import Preprocessing
from edgekit.models.checkpoint import random_images, randomize
from tests.helpers.graphs import check_values, export_graph
from tests.helpers.refusals import refuses
from tests.helpers.tiny import ROOT

SMALL: dict[str, Any] = {"depths": (1, 1, 1, 1), "dims": (8, 16, 32, 64), "num_classes": 10}


EXACT = 1e-4
TOLERANCE = {"polynomial-gelu": 1e-3, "coarse-polynomial-gelu": 0.1, "tanh-gelu": 1e-2}
"""Largest difference of a logit, as a share of the largest logit, for rewrites that aren't exact."""


AFTER = {"patch-linear": ["channels-last"]}
"""Rewrites that find their places behind others."""


@dataclass(frozen=True)
class Case:
    """A small network, and the number of places that each rewrite must change in it (0 if not listed)."""

    name: str
    arguments: dict[str, Any]
    side: int = 64
    places: dict[str, int] = field(default_factory=dict)


PLAIN_NORMS = ("plain-layer-norm", "half-precision-layer-norm")
GELUS = ("coarse-polynomial-gelu", "polynomial-gelu", "tanh-gelu")
CONVNEXT_V2 = {
    **dict.fromkeys(GELUS, 4),
    "patch-linear": 3,
    "image-patch-linear": 1,
    "layer-norm-affine": 7,
    "response-norm": 4,
    "vector-norm-sum": 4,
    "vector-norm-mean": 4,
    "vector-norm-matmul": 4,
    "depthwise-blocks": 3,
    "split-depthwise": 4,
    "split-depthwise-in-three": 4,
    "plain-layer-norm": 9,
    "half-precision-layer-norm": 9,
    "channels-first-layer-norm": 9,
    "rows-layer-norm": 9,
    "centred-layer-norm": 1,
}
CASES = {
    "convnextv2": Case(
        "convnextv2_atto",
        SMALL,
        places=CONVNEXT_V2 | {"channels-last": 8},
    ),
    "convnextv2 with linears": Case(
        "convnextv2_atto",
        SMALL | {"conv_mlp": False},
        places=CONVNEXT_V2 | {"channels-first": 8},
    ),
    "convnextv2 down to one pixel": Case(
        "convnextv2_atto",
        SMALL,
        side=32,
        places=CONVNEXT_V2 | {"channels-last": 8, "depthwise-blocks": 2},
    ),
    "convnext with layer scale": Case(
        "convnext_atto",
        SMALL,
        places={
            **dict.fromkeys(GELUS, 4),
            "channels-last": 8,
            "patch-linear": 3,
            "image-patch-linear": 1,
            "layer-scale": 4,
            "layer-norm-affine": 7,
            "depthwise-blocks": 3,
            "split-depthwise": 4,
            "split-depthwise-in-three": 4,
            "plain-layer-norm": 9,
            "half-precision-layer-norm": 9,
            "channels-first-layer-norm": 9,
            "rows-layer-norm": 9,
            "centred-layer-norm": 1,
        },
    ),
    "mobilenetv3": Case("mobilenetv3_small_050", {"num_classes": 10}, places={"channels-last": 41}),
    "vit": Case(
        "vit_tiny_patch16_224",
        {"img_size": 64, "embed_dim": 32, "depth": 2, "num_heads": 2, "num_classes": 10, "init_values": 0.1},
        places={"image-patch-linear": 1, "layer-scale": 4, "layer-norm-affine": 4}
        | dict.fromkeys(PLAIN_NORMS, 5)
        | dict.fromkeys(GELUS, 2),
    ),
    "davit": Case(
        "davit_tiny",
        {"depths": (1, 1), "embed_dims": (16, 32), "num_heads": (2, 4), "num_classes": 10},
        places={
            "patch-linear": 1,
            "layer-norm-affine": 7,
            "channels-first-layer-norm": 3,
            "rows-layer-norm": 3,
            "centred-layer-norm": 1,
        }
        | dict.fromkeys(PLAIN_NORMS, 11)
        | dict.fromkeys(GELUS, 4),
    ),
}


@pytest.fixture(scope="module")
def networks() -> dict[str, tuple[nn.Module, GraphModule]]:
    """Cache of networks and their graphs."""
    return {}


def cached(name: str, networks: dict[str, tuple[nn.Module, GraphModule]]) -> tuple[nn.Module, GraphModule]:
    if name not in networks:
        case = CASES[name]
        torch.manual_seed(0)
        module = timm.create_model(case.name, **case.arguments).eval().requires_grad_(False)
        randomize(module, (case.side, case.side))
        networks[name] = module, export_graph(module, (1, 3, case.side, case.side))
    return networks[name]


@pytest.fixture(scope="session")
def real_images() -> list[Any]:
    """Four photos from the shared data; empty if that is missing, so that tests generate images."""
    from edgekit.images.dataset import Dataset
    from edgekit.images.selection import select

    path = ROOT.parent / "shared" / "data" / "imagenet-500.zip"
    if not path.is_file():
        return []
    dataset = Dataset.open(Path(path), [f"class_{index}" for index in range(1000)])
    return [dataset.image(sample) for sample in select(dataset, 4, 0).samples]


@pytest.fixture(scope="module")
def difference(networks: Any, real_images: list[Any]) -> Callable[[str, GraphModule], float]:
    """A function of a case and its graph: the largest difference of a logit, as a share of the largest logit."""

    @cache
    def torch_computes(name: str) -> tuple[Tensor, Tensor]:
        """The images, and the network's logits of them."""
        images, (network, _) = images_of(CASES[name].side, real_images), cached(name, networks)
        with torch.no_grad():
            logits = torch.cat([network(image[None]) for image in images])
        assert logits.std(0).max() > 1e-3 * logits.abs().max(), "different images must have different logits"
        return images, logits

    def difference_of(name: str, graph: GraphModule) -> float:
        images, wanted = torch_computes(name)
        with torch.no_grad():
            actual = torch.cat([graph(image[None]) for image in images])
        return float((actual - wanted).abs().max() / wanted.abs().max())

    return difference_of


def images_of(side: int, photos: list[Any]) -> Tensor:
    if not photos:
        torch.manual_seed(1)
        return random_images(4, (side, side))
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    size = Preprocessing(side, side, "bicubic", 0.875, "center", mean, std)
    stacked: NDArray[np.float32] = np.concatenate([size(photo) for photo in photos])
    return torch.from_numpy(stacked)


def operations(graph: GraphModule) -> Counter[Any]:
    return Counter(node.target for node in graph.graph.nodes if node.op == "call_function")


@pytest.mark.parametrize("name", CASES)
def test_export_is_equal(name: str, networks: Any, difference: Callable[[str, GraphModule], float]) -> None:
    _, graph = cached(name, networks)
    assert difference(name, graph) <= 1e-5


LISTED = [(name, rewrite_name) for name, case in CASES.items() for rewrite_name in case.places]


@pytest.mark.parametrize(("name", "rewrite_name"), LISTED)
def test_each_rewrite_is_equal_and_finds_its_places(
    name: str, rewrite_name: str, networks: Any, difference: Callable[[str, GraphModule], float]
) -> None:
    _, graph = cached(name, networks)
    before = rewrite(graph, AFTER[rewrite_name]).graph if rewrite_name in AFTER else graph
    rewritten = rewrite(before, [rewrite_name])
    assert rewritten.counts[rewrite_name] == CASES[name].places[rewrite_name]
    check_values(rewritten.graph)
    assert difference(name, rewritten.graph) <= TOLERANCE.get(rewrite_name, EXACT)


@pytest.mark.parametrize("name", CASES)
def test_all_other_rewrites_find_nothing(name: str, networks: Any) -> None:
    _, graph = cached(name, networks)
    others = set(REWRITES) - CASES[name].places.keys()
    for before in ([], *AFTER.values()):
        after = {each for each in others if AFTER.get(each, []) == before}
        assert set(rewrite(rewrite(graph, before).graph, after).counts.values()) <= {0}


def combinations() -> dict[str, tuple[str, tuple[str, ...]]]:
    """Every distinct list of rewrites that a recipe has for a case and a precision, with the case's name.

    The keys name the case, the target and the first device class with this list. Raspberry Pis have their own variants.
    """
    titles: dict[tuple[str, tuple[str, ...]], str] = {}
    for name, case in CASES.items():
        recipe = Recipe.for_model(case.name, REWRITES)
        for device_class in DeviceClass.listed():
            for target, row in recipe.for_class(DeviceClass.load(device_class)).targets.items():
                for precision in PRECISIONS:
                    rewrites = row.rewrites_of(precision)
                    titles.setdefault((name, rewrites), f"{name}, {target} {precision} on {device_class}")
    return {title: key for key, title in titles.items()}


def test_variants_for_device_classes_are_among_the_combinations() -> None:
    """The matrix includes every `on` table of the shipped recipes, so new variants are tested automatically."""
    tested = set(combinations().values())
    for name, case in CASES.items():
        for row in Recipe.for_model(case.name, REWRITES).targets.values():
            for variant in (row, *row.on.values()):
                assert {(name, variant.rewrites_of(precision)) for precision in PRECISIONS} <= tested
    assert any("raspberry-pi" in title for title in combinations())


@pytest.mark.parametrize(("name", "rewrites"), combinations().values(), ids=list(combinations()))
def test_all_rewrites_of_a_recipe_together(
    name: str, rewrites: tuple[str, ...], networks: Any, difference: Callable[[str, GraphModule], float]
) -> None:
    _, graph = cached(name, networks)
    before = operations(graph)
    result = rewrite(graph, rewrites)
    unmatched = {each for each, count in result.counts.items() if not count}
    # Otherwise the demo, and every network of a family, would cause warnings.
    assert unmatched <= set(Recipe.for_model(CASES[name].name, REWRITES).optional_rewrites)
    rewritten = result.graph
    tolerance = max(TOLERANCE.get(each, EXACT) for each in ("", *rewrites))
    assert difference(name, rewritten) <= tolerance
    check_values(rewritten)
    assert operations(graph) == before, "the original graph must not change"
    macs = {layer.name: layer.macs for _, layer in layers(graph) if layer.op != "depthwise"}
    for _, layer in layers(rewritten):
        if layer.name in macs and layer.op in ("conv", "linear"):
            assert layer.macs == macs[layer.name]


@pytest.mark.parametrize(("side", "stride"), [(8, 1), (9, 1), (20, 1), (16, 2)])
def test_a_pass_makes_as_many_weights_as_it_says(side: int, stride: int) -> None:
    name = "depthwise-blocks"
    conv = torch.nn.Conv2d(2, 2, 7, stride, padding=3, groups=2)
    rewritten = rewrite(export_graph(conv.eval(), (1, 2, side, side)), [name])
    (kernel,) = {
        constant(rewritten.graph, node.args[1])
        for node in rewritten.graph.graph.find_nodes(op="call_function", target=A.conv2d.default)
    }
    output = (side // stride, side // stride)
    expected = weights_after([name], ConvolutionShape((2, 1, 7, 7), output, (stride, stride), (3, 3), (1, 1), 2))
    assert kernel is not None
    assert rewritten.counts[name] == (expected is not None)
    assert kernel.numel() == (expected or conv.weight.numel())


def test_counts_of_passes_are_in_the_order_of_the_passes(networks: Any) -> None:
    _, graph = cached("convnextv2", networks)
    counts = rewrite(graph, ["response-norm", "layer-scale", "channels-last"]).counts
    assert list(counts.items()) == [("layer-scale", 0), ("response-norm", 4), ("channels-last", 8)]


def test_channels_last_leaves_one_pair_of_transposes_around_each_spatial_convolution(networks: Any) -> None:
    _, graph = cached("convnextv2", networks)
    counts = operations(rewrite(graph, ["channels-last"]).graph)
    before = operations(graph)
    assert counts[A.linear.default] == before[A.linear.default] + 8
    assert counts[A.conv2d.default] == before[A.conv2d.default] - 8
    # around the stem, three downsamplings and four depthwise convolutions, except for the stem's input, the image
    assert counts[A.permute.default] <= 2 * 8 - 1


def test_channels_first_leaves_no_transpose(networks: Any) -> None:
    _, graph = cached("convnextv2 with linears", networks)
    counts = operations(rewrite(graph, ["channels-first", "channels-first-layer-norm"]).graph)
    assert counts[A.permute.default] == 0
    assert counts[A.layer_norm.default] == 0
    assert counts[A.linear.default] == 1  # the classifier
    assert counts[A.conv2d.default] == operations(graph)[A.conv2d.default] + 8


def test_a_layer_norm_in_one_pass_is_exact_despite_a_large_mean() -> None:
    class Norm(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.LayerNorm(40, eps=1e-6)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            normed: torch.Tensor = self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
            return normed

    module, shape = Norm().eval(), (1, 40, 8, 8)
    new = rewrite(export_graph(module, shape), ["channels-first-layer-norm"]).graph
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.allclose(new(x + 10), module(x + 10), atol=1e-4)
        flat = torch.full(shape, 3.0)  # its variance is 0, and rounding may make it negative
        assert torch.allclose(new(flat), module(flat), atol=1e-2)


def test_layer_norms_on_rows_need_no_mean_behind_a_dense_convolution(networks: Any) -> None:
    _, graph = cached("convnextv2 with linears", networks)
    new = rewrite(graph, ["channels-first", "rows-layer-norm"]).graph
    before, counts = operations(rewrite(graph, ["channels-first"]).graph), operations(new)
    norms = new.graph.find_nodes(op="call_function", target=A.layer_norm.default)
    assert all(len(norm.args[0].meta["val"].shape) == 3 for norm in norms)
    # The stem alone is dense and read by nothing but its norm; a square and its mean take that norm's place.
    assert counts[A.layer_norm.default] == before[A.layer_norm.default] - 1
    assert counts[A.mean.dim] == before[A.mean.dim] + 1
    weight, original = (constant(each, first_convolution(each).args[1]) for each in (new, graph))
    assert weight is not None
    assert original is not None
    assert weight.mean(0).abs().max() < 1e-6 < original.mean(0).abs().max()


def first_convolution(graph: GraphModule) -> Any:
    return next(node for node in graph.graph.nodes if node.target is A.conv2d.default)


def test_patches_become_linear(networks: Any) -> None:
    _, graph = cached("convnextv2 with linears", networks)
    counts = operations(rewrite(graph, ["channels-last", "patch-linear"]).graph)
    assert counts[A.conv2d.default] == 5  # the stem and the depthwise convolutions
    assert counts[A.linear.default] == operations(graph)[A.linear.default] + 3


def test_the_image_is_transposed_directly_into_patches(networks: Any) -> None:
    _, graph = cached("convnextv2", networks)
    before, counts = (
        operations(rewrite(graph, ["channels-last", *more]).graph) for more in ([], ["image-patch-linear"])
    )
    assert counts[A.conv2d.default] == before[A.conv2d.default] - 1
    assert counts[A.linear.default] == before[A.linear.default] + 1
    # one permute for the patches replaces one for the stem's output
    assert counts[A.permute.default] == before[A.permute.default]


def test_response_norm_leaves_one_wide_product(networks: Any) -> None:
    _, graph = cached("convnextv2 with linears", networks)
    before, after = operations(graph), operations(rewrite(graph, ["response-norm"]).graph)
    assert before[A.addcmul.default] == 4
    assert after[A.addcmul.default] == 0


def test_affine_leaves_layer_norms_bare(networks: Any) -> None:
    _, graph = cached("convnextv2 with linears", networks)
    norms = [n for n in rewrite(graph, ["layer-norm-affine"]).graph.graph.nodes if n.target is A.layer_norm.default]
    bare = [node for node in norms if node.args[2:4] == (None, None)]
    # the stem's norm feeds a depthwise convolution with padding, and the last norm feeds a view
    assert (len(norms), len(bare)) == (9, 7)


def test_layer_scale_is_folded(networks: Any) -> None:
    _, graph = cached("convnext with layer scale", networks)
    before, after = operations(graph), operations(rewrite(graph, ["layer-scale"]).graph)
    assert before[A.mul.Tensor] - after[A.mul.Tensor] == 4


@pytest.mark.parametrize("rewrite_name", ["vector-norm-sum", "vector-norm-matmul"])
def test_norms_are_decomposed(rewrite_name: str, networks: Any) -> None:
    _, graph = cached("convnextv2 with linears", networks)
    counts = operations(rewrite(graph, [rewrite_name]).graph)
    assert counts[A.linalg_vector_norm.default] == 0
    assert counts[A.sqrt.default] == 4
    assert counts[A.matmul.default] == (4 if rewrite_name.endswith("matmul") else 0)


@pytest.mark.parametrize(
    ("rewrite_name", "sizes"),
    [
        ("split-depthwise", [(5, 5), (2, 4), (2, 3), (3, 2), (2, 2)]),
        ("split-depthwise-in-three", [(3, 7), (4, 5), (4, 2)]),
    ],
)
def test_split_depthwise_has_small_kernels_with_all_taps(
    rewrite_name: str, sizes: list[tuple[int, int]], networks: Any
) -> None:
    _, graph = cached("convnextv2", networks)
    rewritten = rewrite(graph, [rewrite_name]).graph
    kernels = [layer.kernel for layer in dense_layers(rewritten) if layer.is_depthwise]
    assert kernels == sizes * 4
    assert sum(math.prod(kernel) for kernel in kernels) == 4 * 49


def test_grouped_kernels_replace_depthwise_ones(networks: Any) -> None:
    _, graph = cached("convnextv2", networks)
    rewritten = rewrite(graph, ["channels-last", "depthwise-blocks"]).graph
    grouped = [layer for layer in dense_layers(rewritten) if layer.groups > 1]
    assert [layer.kernel for layer in grouped if not layer.is_depthwise] == [(3, 3)] * 3
    assert sum(layer.is_depthwise for layer in grouped) == 1


@pytest.mark.parametrize("rewrite_name", PLAIN_NORMS)
def test_plain_layer_norms_leave_none(rewrite_name: str, networks: Any) -> None:
    _, graph = cached("vit", networks)
    counts = operations(rewrite(graph, [rewrite_name]).graph)
    assert counts[A.layer_norm.default] == 0
    assert counts[A.rsqrt.default] == 5


def test_rewriting_twice_changes_nothing_more(networks: Any) -> None:
    _, graph = cached("convnextv2", networks)
    once = rewrite(graph, REWRITES).graph
    assert operations(rewrite(once, REWRITES).graph) == operations(once)


def test_the_order_is_that_of_the_table(networks: Any) -> None:
    _, graph = cached("convnextv2", networks)
    assert operations(rewrite(graph, list(REWRITES)[::-1]).graph) == operations(rewrite(graph, REWRITES).graph)


@pytest.mark.parametrize(
    ("name", "most"), [("polynomial-gelu", 1.7e-4), ("coarse-polynomial-gelu", 3.6e-3), ("tanh-gelu", 4.8e-4)]
)
def test_approximations_of_gelu_stay_within_their_error(name: str, most: float) -> None:
    graph = rewrite(export_graph(nn.GELU(), (1, 100_001)), [name]).graph
    x = torch.linspace(-10, 10, 100_001)[None]
    error = (graph(x).double() - nn.functional.gelu(x.double())).abs()
    assert most / 2 < error.max() <= most
    outliers = torch.full((1, 100_001), 1000.0)
    for value in (outliers, -outliers):
        assert torch.allclose(graph(value), nn.functional.gelu(value), atol=1e-3, rtol=1e-6)


def test_unknown_rewrite() -> None:
    with refuses(ProfileError, "fold-everything") as caught:
        rewrite(GraphModule(nn.Module(), torch.fx.Graph()), ["fold-everything"])
    assert "channels-last" in caught.value.valid
