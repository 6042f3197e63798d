"""The choices that the bench compares: changes of the family's recipe, and the stock tools."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from benchmarks.peerlib.candidates import ACCURATE, PERCENTILE
from edgekit.config.recipes import Recipe, TargetRecipe

KEYS = ("network", "runtime", "choice")
"""Names of the fields that identify a row."""
SHIPPED = "shipped"
"""The recipe of the network's family as it is."""
REPAIRED = "repaired"
"""The same, and the layers in float with which `edgekit deploy` repairs bundles that lose more than `MOST_DROP`."""
STOCK = {
    "openvino": ("nncf", "nncf-transformer"),
    "onnx": ("ort-minmax", "ort-percentile"),
    "tflite": ("ai-edge", "ai-edge-dynamic"),
}
"""The settings of each runtime's stock tool, of which the tables show the best for each network."""
MOST_DROP = 0.3
"""Largest drop of top-1 in percentage points that isn't repaired."""


@dataclass(frozen=True)
class Choice:
    """One way to make an INT8 model."""

    keys: Mapping[str, Any] = field(default_factory=dict)
    """Keys of the recipe, or of the runtime's table in it, and the values that replace theirs."""
    stock: str | None = None
    """The candidate of benchmarks/peerlib that is built instead of edgekit's."""
    repaired: bool = False
    """Whether `edgekit deploy` makes the bundle, and repairs it."""
    runtimes: tuple[str, ...] = ("openvino", "onnx", "tflite")


CHOICES: Mapping[str, Choice] = {
    SHIPPED: Choice(),
    REPAIRED: Choice(repaired=True),
    "nearest": Choice({"weight_rounding": "nearest"}),
    "gptq": Choice({"weight_rounding": "gptq"}),
    "fit": Choice({"weight_rounding": "fit"}),
    "fit-mse": Choice({"weight_rounding": "fit", "estimator": "mse"}),
    "fit-minmax": Choice({"weight_rounding": "fit", "estimator": "minmax"}),
    "histogram": Choice({"estimator": "histogram"}),
    "minmax": Choice({"estimator": "minmax"}),
    "mse": Choice({"estimator": "mse"}),
    "fast-bias": Choice({"bias_correction": "fast"}),
    "accurate-bias": Choice({"bias_correction": "accurate"}),
    "equalization": Choice({"equalization": 0.5}),
    "equalization-mse": Choice({"equalization": 0.5, "estimator": "mse"}),
    "float-se": Choice({"float_layers": ("*.se.*",)}),
    "no-outputs": Choice({"quantize_outputs": False, "quantize_residuals": False}),
    "outputs": Choice({"quantize_outputs": True}, runtimes=("openvino",)),
    "float-depthwise": Choice({"quantize_depthwise": False}),
    "int8": Choice({"activations": "int8"}, runtimes=("openvino", "onnx")),
    "nncf": Choice(stock="nncf.quantize", runtimes=("openvino",)),
    "nncf-transformer": Choice(stock="nncf.quantize TRANSFORMER", runtimes=("openvino",)),
    "nncf-accurate": Choice(stock=ACCURATE, runtimes=("openvino",)),
    "ort-minmax": Choice(stock="quantize_static", runtimes=("onnx",)),
    "ort-percentile": Choice(stock=PERCENTILE, runtimes=("onnx",)),
    "ai-edge": Choice(stock="litert-quantizer static", runtimes=("tflite",)),
    "ai-edge-dynamic": Choice(stock="litert-quantizer dynamic", runtimes=("tflite",)),
}


def varied(recipe: Recipe, target: str, keys: Mapping[str, Any]) -> Recipe:
    """The recipe with these keys for a target. A key that the target's table may override is set in the table."""
    of_table = {f.name for f in fields(TargetRecipe)}
    table = replace(recipe.targets[target], **{key: value for key, value in keys.items() if key in of_table})
    own = {key: value for key, value in keys.items() if key not in of_table}
    return replace(recipe, targets={**recipe.targets, target: table}, **own)
