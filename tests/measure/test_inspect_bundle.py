"""The summary of an inspection: what ran in INT8, what in float, and where."""

from dataclasses import replace
from pathlib import Path

import pytest

from edgekit.measure.inspect_bundle import (
    Int8Detail,
    ModelInspection,
    inspect_bundle,
    inspect_model,
    portability,
    summary,
)
from edgekit.runtime.profile import OpProfile
from tests.helpers.measurements import device
from tests.helpers.tiny import MakeBundle


def inspected(*float_layers: str) -> ModelInspection:
    """The inspection of a model file of which 97.6 % ran in INT8."""
    detail = Int8Detail(
        share_of_macs=0.976,
        method="executed graph",
        float_layers=float_layers,
        simulated=False,
        total_macs=1000,
        int8_macs=976,
        time_by_kind_ms=None,
        ops=(OpProfile("fc", "gemm", 976, True),),
    )
    return ModelInspection(model="m.tflite", size_bytes=1, int8=detail, target="tflite", engine="ai-edge-litert 2.3.0")


@pytest.mark.parametrize(
    ("inspection", "here", "line"),
    [
        (
            inspected("stem", "head"),
            "x86-64-v4",
            "98 % of the multiply-accumulates ran in INT8; in float: stem, head; LiteRT 2.3.0 on x86-64-v4",
        ),
        (inspected(), None, "98 % of the multiply-accumulates ran in INT8; LiteRT 2.3.0 on this machine"),
        (
            replace(inspected("stem"), device=device("pi", device_class="raspberry-pi-5")),
            "x86-64-v4",
            "98 % of the multiply-accumulates ran in INT8; in float: stem; LiteRT 2.3.0 on raspberry-pi-5",
        ),
        (
            replace(inspected(*(f"layer.{n}" for n in range(10))), device=device("pi", device_class=None), engine=None),
            None,
            "98 % of the multiply-accumulates ran in INT8; in float: layer.0, layer.1, layer.2, layer.3, layer.4, "
            "layer.5, layer.6, layer.7 and 2 more; LiteRT on pi",
        ),
    ],
)
def test_summary(inspection: ModelInspection, here: str | None, line: str) -> None:
    assert summary(inspection, here) == line


def test_summary_of_a_profile_without_products() -> None:
    empty = replace(inspected().int8, total_macs=0, int8_macs=0, share_of_macs=0.0, ops=())
    assert summary(replace(inspected(), int8=empty), "cortex-a76") == (
        "nothing that multiplies and accumulates was profiled; LiteRT 2.3.0 on cortex-a76"
    )


def test_a_bundle_and_its_model_file_have_the_same_summary(make_bundle: MakeBundle) -> None:
    bundle = make_bundle("onnx", provenance={"model": {"name": "tiny"}})
    whole = summary(inspect_bundle(bundle, 1), "here")
    assert whole.startswith("0 % of the multiply-accumulates ran in INT8; in float: all layers; ONNX Runtime ")
    assert summary(inspect_model(next(Path(bundle).glob("*.onnx")), 1), "here") == whole


@pytest.mark.parametrize(
    ("pairs", "target", "sentence"),
    [
        (0, "tflite", "INT8 computes the same on every x86 processor"),
        (1234, "onnx", "1,234 pairs of INT8 weights can saturate on x86 processors without VNNI"),
        (None, "onnx", "it isn't known whether pairs of INT8 weights can saturate on x86 processors without VNNI"),
    ],
)
def test_a_sentence_says_whether_other_processors_compute_the_same(
    pairs: int | None, target: str, sentence: str
) -> None:
    text = portability(replace(inspected().int8, pairs_that_can_saturate=pairs), target)
    assert text is not None
    assert text.startswith(sentence)


def test_there_is_no_sentence_about_a_float_model() -> None:
    detail = replace(inspected().int8, share_of_macs=0.0, int8_macs=0, ops=())
    assert portability(detail, "onnx") is None
