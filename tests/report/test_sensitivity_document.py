"""The sensitivity of layers as a table and as a picture."""

from dataclasses import replace
from xml.etree import ElementTree

from edgekit.report.page import lines_of
from edgekit.report.plot import render_svg
from edgekit.report.sensitivity_document import (
    Culprits,
    Sensitivity,
    advice,
    draw_sensitivity,
    ranked,
)
from tests.helpers.sensitivities import LAYER, TARGET, WHOLE, sensitivity


def printed(document: Sensitivity) -> str:
    return "".join(f"{line}\n" for line in lines_of(document.page(), 200))


def test_table() -> None:
    text = printed(sensitivity())
    assert "convnextv2_atto, recipe convnextv2: simulated on 2,000 images." in text
    (whole,) = (line for line in text.splitlines() if line.startswith("onnx: "))
    assert text.startswith(f"onnx-int8: {advice(sensitivity(), TARGET)}\n")
    assert "20.0 dB" in whole
    assert whole.endswith("2.00 points [95 %: 1.00, 3.00]")
    (layer,) = (line.split() for line in text.splitlines() if line.startswith("stem.0 "))
    assert layer == ["stem.0", "5.00", "100.0", "20.0", "2.00", "10.0", "1.50", "1.000", "3.000", "2.000"]


def test_harmful_layers_are_flagged() -> None:
    flagged = advice(sensitivity(), TARGET)
    assert flagged.startswith("FLAGGED: ")
    assert "exceeds 1 point." in flagged
    assert flagged.endswith(": stem.0")
    harmless = replace(TARGET, culprits=Culprits((), WHOLE), verdict="pass")
    assert advice(sensitivity(max_drop_points=2.5), harmless) == "The drop is within 2.5 points."


def test_random_weights_have_no_accuracy() -> None:
    text = printed(sensitivity(accuracy_meaningful=False))
    assert "n/a" in text
    assert "the weights are random" in text
    assert "2.00 points" not in text


def test_picture() -> None:
    picture = draw_sensitivity(sensitivity())
    svg, words = render_svg(picture), picture.words
    assert ">stem.0<" in svg
    assert "time saved by INT8, ms" in svg
    assert "stem.0 100%" in words
    untimed = replace(TARGET, layers=(replace(LAYER, time=None),))
    svg = render_svg(draw_sensitivity(sensitivity(targets=(untimed,))))
    assert "time saved: unknown" in svg
    evil = replace(TARGET, layers=(replace(LAYER, name="</text><script>"),))
    root = ElementTree.fromstring(render_svg(draw_sensitivity(sensitivity(targets=(evil,)))))
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert "</text><script>" in [(each.text or "") for each in root.iter()]


def test_layers_to_keep_in_float_come_first_and_the_others_are_counted() -> None:
    layers = tuple(replace(LAYER, name=f"layer{index:02}", noise_share=index / 100) for index in range(20))
    assert [layer.name for layer in ranked(layers)][:2] == ["layer19", "layer18"]
    document = sensitivity(targets=(replace(TARGET, layers=layers),))
    text = printed(document)
    assert "layer19" in text
    assert "layer04" not in text
    assert "and 5 more in sensitivity.json" in text
    assert ">layer04<" not in render_svg(draw_sensitivity(document))
