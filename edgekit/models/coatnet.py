"""CoAtNet-7, the image tower of BASIC-L: timm has CoAtNet-0 to -5."""

from dataclasses import replace
from functools import partial
from typing import Any

from timm.layers.classifier import NormMlpClassifierHead
from timm.layers.create_norm import get_norm_layer
from timm.models import build_model_with_cfg, generate_default_cfgs, is_model, register_model
from timm.models.maxxvit import MaxxVit, MaxxVitCfg, MaxxVitStage, MaxxVitTransformerCfg
from torch import nn

WIDTHS = (256, 512, 1024, 2048, 3072)
DEPTHS = (4, 14, 8, 42, 2)
"""Blocks of each entry of WIDTHS, from the table of larger models in Dai et al., arXiv 2106.04803: stages 1 and 2 are
MBConv; stage 3 is 8 MBConv, then 42 transformer blocks at twice the width and the same resolution; stage 4 is 2
transformer blocks."""
STEM = 192
HEAD_WIDTH = 128

default_cfgs = generate_default_cfgs(
    {
        "coatnet_7_224.untrained": {
            "url": "",
            "num_classes": 1000,
            "input_size": (3, 224, 224),
            "pool_size": (7, 7),
            "crop_pct": 0.95,
            "interpolation": "bicubic",
            "fixed_input_size": True,
            "mean": (0.5, 0.5, 0.5),
            "std": (0.5, 0.5, 0.5),
            "first_conv": "stem.conv1",
            "classifier": "head.fc",
        }
    }
)


class CoAtNet7(MaxxVit):
    """timm's MaxxVit with two widths in its third stage. A 1x1 convolution joins them; the paper doesn't say how."""

    def __init__(
        self, img_size: int | tuple[int, int] = 224, num_classes: int = 1000, drop_rate: float = 0.0, **kwargs: Any
    ) -> None:
        transformer = MaxxVitTransformerCfg(dim_head=HEAD_WIDTH)
        convolutional = MaxxVitCfg(
            embed_dim=WIDTHS[:3], depths=DEPTHS[:3], block_type=("C",) * 3, stem_width=STEM, head_hidden_size=WIDTHS[2]
        )
        super().__init__(convolutional, img_size, num_classes=num_classes, drop_rate=drop_rate, **kwargs)
        height, width_in = self.img_size if isinstance(self.img_size, tuple) else (self.img_size, self.img_size)
        for width, depth, stride, reduction in ((WIDTHS[3], DEPTHS[3], 1, 16), (WIDTHS[4], DEPTHS[4], 2, 32)):
            if stride == 1:
                self.stages.append(nn.Conv2d(self.num_features, width, 1))
            stage = MaxxVitStage(
                width if stride == 1 else self.num_features, width, stride, depth,
                (height // reduction, width_in // reduction), "T", replace(transformer), drop_path=[0.0] * depth,
            )  # fmt: skip
            self.stages.append(stage)
            self.num_features = self.embed_dim = width
            self.feature_info.append({"num_chs": width, "reduction": reduction, "module": f"stages.{len(self.stages)}"})
        norm = partial(get_norm_layer(transformer.norm_layer), eps=transformer.norm_eps)  # type: ignore[no-untyped-call]
        self.head = NormMlpClassifierHead(
            self.num_features, num_classes, hidden_size=self.num_features, drop_rate=drop_rate, norm_layer=norm
        )
        self.head_hidden_size = self.head.num_features


def register_coatnet_7() -> None:
    """Register `coatnet_7_224` with timm, so that it can be built by name. Calling it again does nothing."""
    if not is_model("coatnet_7_224"):
        register_model(coatnet_7_224)


def coatnet_7_224(pretrained: bool = False, **kwargs: Any) -> MaxxVit:
    """CoAtNet-7 of BASIC-L, with 2.44 G parameters. Its weights are not public."""
    return build_model_with_cfg(CoAtNet7, "coatnet_7_224", pretrained, **kwargs)
