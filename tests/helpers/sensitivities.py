"""Documents of `edgekit sensitivity` with plausible figures."""

from dataclasses import replace
from typing import Any

from edgekit.report.sensitivity_document import (
    Culprits,
    FloatAccuracy,
    ImageSet,
    LayerTime,
    NamedModel,
    SensitiveBlock,
    SensitiveLayer,
    Sensitivity,
    Simulated,
    Spared,
    TargetSensitivity,
)

WHOLE = Simulated(snr_db=20.0, drop_top1_points=2.0, drop_ci95_points=(1.0, 3.0), agreement=0.9)
"""Figures with all layers in INT8."""
SPARED = Spared(
    snr_db=30.0,
    drop_top1_points=0.5,
    drop_ci95_points=(0.1, 0.9),
    agreement=0.97,
    snr_gain_db=10.0,
    gain_top1_points=1.5,
)
"""Figures with all layers in INT8 except the harmful one."""
LAYER = SensitiveLayer(
    name="stem.0",
    block="stem",
    macs=5_000_000,
    only_int8=WHOLE,
    only_float=SPARED,
    noise_share=1.0,
    time=LayerTime(float_ms=3.0, int8_ms=1.0, saved_ms=2.0),
)
TARGET = TargetSensitivity(
    target="onnx",
    float=FloatAccuracy(0.75),
    int8=WHOLE,
    layers=(LAYER,),
    blocks=(
        SensitiveBlock(
            name="stem",
            layers=("stem.0",),
            macs=LAYER.macs,
            only_int8=LAYER.only_int8,
            only_float=LAYER.only_float,
            noise_share=LAYER.noise_share,
            time=LAYER.time,
        ),
    ),
    culprits=Culprits(
        ("stem.0",), Simulated(snr_db=30.0, drop_top1_points=0.5, drop_ci95_points=(0.1, 0.9), agreement=0.97)
    ),
    verdict="fail",
)
"""A network of one layer, which costs two points of top-1."""


def sensitivity(**changes: Any) -> Sensitivity:
    """A complete sensitivity.json."""
    whole = Sensitivity(
        edgekit="0.1.0",
        created="2026-01-01T00:00:00Z",
        command=("sensitivity", "convnextv2_atto"),
        model=NamedModel("convnextv2_atto", "ab" * 32),
        accuracy_meaningful=True,
        recipe="convnextv2",
        calibration=ImageSet(128, "cd" * 32),
        evaluation=ImageSet(2_000, "ef" * 32),
        max_drop_points=1.0,
        targets=(TARGET,),
    )
    return replace(whole, **changes)
