"""Documents of `edgekit sensitivity` and `edgekit tune` with plausible figures."""

from dataclasses import replace
from typing import Any

from edgekit.report.recipe_search import SearchSummary, TargetSearch, TrialSummary
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


def trial(number: int, **changes: Any) -> TrialSummary:
    """A complete trial that meets the bounds."""
    whole = TrialSummary(
        number=number,
        state="complete",
        met=True,
        estimator="histogram",
        smooth_quant=True,
        bias_correction="fast",
        layers_in_float=1,
        float_layers=("stem.0",),
        drop_top1_points=0.5,
        drop_ci95_points=(0.1, 0.9),
        agreement=0.97,
        p50_ms=7.0,
        time_share=0.5,
        speedup=2.0,
        speedup_ci95=(1.9, 2.1),
        drop_kept=True,
        fast_enough=True,
        files={"model.onnx": "0" * 64},
    )
    return replace(whole, **changes)


def unmeasured_trial(number: int, **changes: Any) -> TrialSummary:
    """A trial that was skipped."""
    whole = TrialSummary(
        number=number,
        state="pruned",
        met=False,
        estimator="minmax",
        smooth_quant=False,
        bias_correction="none",
        layers_in_float=2,
    )
    return replace(whole, **changes)


def search(**changes: Any) -> SearchSummary:
    """A search of three trials for one target. The second is the best, and the third was skipped."""
    whole = SearchSummary(
        recipe="recipe.toml",
        max_drop_points=1.0,
        min_speedup=1.0,
        images=ImageSet(500, "12" * 32),
        targets=(
            TargetSearch(
                target="onnx",
                trials=(
                    trial(0, met=False, drop_kept=False, drop_top1_points=1.5, time_share=0.4),
                    trial(1),
                    unmeasured_trial(2),
                ),
                front=(0, 1),
                best=1,
                reproduced=True,
            ),
        ),
    )
    return replace(whole, **changes)
