"""The networks of published systems that no library has, with random weights, for benchmarks/giants.py.

    edgekit deploy benchmarks.giant_networks:coatnet_7_224 --recipe coatnet --data photos

Neither network's weights are public.
"""

from dataclasses import replace
from functools import partial
from typing import Any

from timm.layers.classifier import NormMlpClassifierHead
from timm.layers.create_norm import get_norm_layer
from timm.models.maxxvit import MaxxVit, MaxxVitCfg, MaxxVitStage, MaxxVitTransformerCfg
from torch import nn

from edgekit.models.checkpoint import randomize
from edgekit.models.open_clip_source import ImageClassifier, build_vision_tower, deployable
from edgekit.support.libraries import import_needed

WIDTHS = (256, 512, 1024, 2048, 3072)
DEPTHS = (4, 14, 8, 42, 2)
"""Blocks of each entry of WIDTHS, from the table of larger models in Dai et al., arXiv 2106.04803: stages 1 and 2 are
MBConv; stage 3 is 8 MBConv, then 42 transformer blocks at twice the width and the same resolution; stage 4 is 2
transformer blocks."""
STEM = 192
HEAD_WIDTH = 128
COCA: dict[str, Any] = {
    "embed_dim": 1408,
    "vision_cfg": {
        "image_size": 288,
        "layers": 40,
        "width": 1408,
        "head_width": 88,
        "mlp_ratio": 4.3637,
        "patch_size": 18,
        "attentional_pool": True,
        "attn_pooler_heads": 16,
        "output_tokens": True,
    },
}
"""open_clip's configuration of the image tower of the largest CoCa of Yu et al., arXiv 2205.01917, with the published
width, layers, heads and patches. The paper doesn't state the heads of the poolers, of which there are as many as in the
encoder."""


class CoAtNet7(MaxxVit):
    """CoAtNet-7 of BASIC-L, with 2.44 G parameters; timm has CoAtNet-0 to -5.

    It is timm's MaxxVit with two widths in its third stage. A 1x1 convolution joins them; the paper doesn't say how.
    """

    def __init__(self, img_size: int = 224, num_classes: int = 1000) -> None:
        transformer = MaxxVitTransformerCfg(dim_head=HEAD_WIDTH)
        convolutional = MaxxVitCfg(
            embed_dim=WIDTHS[:3], depths=DEPTHS[:3], block_type=("C",) * 3, stem_width=STEM, head_hidden_size=WIDTHS[2]
        )
        super().__init__(convolutional, img_size, num_classes=num_classes)
        for width, depth, stride, reduction in ((WIDTHS[3], DEPTHS[3], 1, 16), (WIDTHS[4], DEPTHS[4], 2, 32)):
            if stride == 1:
                self.stages.append(nn.Conv2d(self.num_features, width, 1))
            stage = MaxxVitStage(
                width if stride == 1 else self.num_features, width, stride, depth,
                (img_size // reduction, img_size // reduction), "T", replace(transformer), drop_path=[0.0] * depth,
            )  # fmt: skip
            self.stages.append(stage)
            self.num_features = self.embed_dim = width
        norm = partial(get_norm_layer(transformer.norm_layer), eps=transformer.norm_eps)  # type: ignore[no-untyped-call]
        self.head = NormMlpClassifierHead(
            self.num_features, num_classes, hidden_size=self.num_features, norm_layer=norm
        )
        self.pretrained_cfg = {
            "input_size": (3, img_size, img_size),
            "crop_pct": 0.95,
            "mean": (0.5,) * 3,
            "std": (0.5,) * 3,
        }


def coatnet_7_224(num_classes: int = 1000) -> nn.Module:
    """The image tower of BASIC-L, the system of "Model soups" with the best published accuracy."""
    module = CoAtNet7(num_classes=num_classes)
    if not module.head.fc.weight.is_meta:  # batch norms can't be measured without weights, and a plan needs neither
        randomize(module, (224, 224))
    return module


def coca_2b(num_classes: int = 1000, image_size: int = COCA["vision_cfg"]["image_size"]) -> nn.Module:
    """The image tower of the 2 B CoCa at the resolution of its pretraining, with a classifier."""
    library = import_needed("open_clip", "open-clip")
    config = COCA | {"vision_cfg": COCA["vision_cfg"] | {"image_size": image_size}}
    module = ImageClassifier(build_vision_tower(library, config), nn.Linear(COCA["embed_dim"], num_classes))
    randomize(module, (image_size, image_size))
    module.pretrained_cfg = {  # type: ignore[assignment]
        "input_size": (3, image_size, image_size),
        "mean": library.OPENAI_DATASET_MEAN,
        "std": library.OPENAI_DATASET_STD,
        "crop_pct": 1.0,
    }
    return deployable(module)
