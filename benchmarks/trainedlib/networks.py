"""Networks that are no timm names: EfficientNet-Lite, a narrow EfficientNet, and the text-direction classifier.

`edgekit deploy` takes each as a factory, `benchmarks.trainedlib.networks:NAME`, with `--weights FILE`.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from timm.models._efficientnet_blocks import SqueezeExcite
from timm.models._efficientnet_builder import decode_arch_def
from timm.models.efficientnet import EfficientNet
from timm.models.mobilenetv3 import MobileNetV3
from torch import Tensor, nn


def lite0() -> nn.Module:
    """EfficientNet-Lite0 for ImageNet at 224 px."""
    return _lite("efficientnet-lite0")


def lite1() -> nn.Module:
    """EfficientNet-Lite1 for ImageNet at 240 px."""
    return _lite("efficientnet-lite1")


def lite2() -> nn.Module:
    """EfficientNet-Lite2 for ImageNet at 260 px."""
    return _lite("efficientnet-lite2")


def _lite(name: str) -> nn.Module:
    import efficientnet_lite_pytorch

    module: nn.Module = efficientnet_lite_pytorch.EfficientNet.from_name(name)
    return module


def efficientnet_narrow() -> nn.Module:
    """An EfficientNet for 10 classes: the blocks of B0 (SiLU, squeeze-and-excitation), but fewer and narrower."""
    blocks = ["ds_r1_k3_s1_e1_c16_se0.25", "ir_r2_k3_s2_e4_c24_se0.25", "ir_r2_k5_s2_e4_c48_se0.25"]
    return EfficientNet(
        _decoded(*blocks, "ir_r2_k3_s1_e4_c64_se0.25"),
        num_classes=10,
        num_features=256,
        stem_size=16,
        act_layer=nn.SiLU,
    )


def mobilenetv3_narrow() -> nn.Module:
    """A MobileNetV3 for 10 classes: the blocks of its small variant (ReLU, then hard swish), but fewer and narrower."""
    blocks = ["ds_r1_k3_s1_e1_c16_se0.25_nre", "ir_r2_k3_s2_e4_c24_nre", "ir_r2_k5_s2_e4_c48_se0.25"]
    return MobileNetV3(
        _decoded(*blocks, "ir_r2_k5_s1_e4_c64_se0.25", "cn_r1_k1_s1_c256"),
        num_classes=10,
        num_features=256,
        stem_size=16,
        act_layer=nn.Hardswish,
        se_layer=partial(SqueezeExcite, gate_layer="hard_sigmoid", force_act_layer=nn.ReLU, rd_round_fn=round),
    )


def _decoded(*stages: str) -> Any:
    """timm's arguments for stages of one kind of block each."""
    return decode_arch_def([[stage] for stage in stages])  # type: ignore[no-untyped-call]


@dataclass(frozen=True)
class Size:
    """Sizes of a block: kernel, channels, whether it has squeeze-and-excitation and hard swish, and vertical stride."""

    kernel: int
    inputs: int
    wide: int
    outputs: int
    squeeze: bool
    swish: bool
    stride: int


BLOCKS = (
    Size(3, 8, 8, 8, True, False, 2),
    Size(3, 8, 24, 8, False, False, 2),
    Size(3, 8, 32, 8, False, False, 1),
    Size(5, 8, 32, 16, True, True, 2),
    Size(5, 16, 88, 16, True, True, 1),
    Size(5, 16, 88, 16, True, True, 1),
    Size(5, 16, 40, 16, True, True, 1),
    Size(5, 16, 48, 16, True, True, 1),
    Size(5, 16, 104, 32, True, True, 2),
    Size(5, 32, 200, 32, True, True, 1),
    Size(5, 32, 200, 32, True, True, 1),
)


class TextDirection(nn.Module):
    """PaddleOCR's classifier of upside-down text: MobileNetV3-small at 0.35 of its width, for images of 48 x 192 px."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = ConvNorm(3, 8, 3, (2, 2))
        self.blocks = nn.Sequential(*(Block(size) for size in BLOCKS))
        self.conv_last = ConvNorm(BLOCKS[-1].outputs, 200, 1)
        self.fc = nn.Linear(200, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(hard_swish(self.conv1(x)))
        x = nn.functional.max_pool2d(hard_swish(self.conv_last(x)), 2)
        logits: Tensor = self.fc(x.mean((2, 3)))
        return logits


class ConvNorm(nn.Sequential):
    """Convolution without bias, and batch normalization."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: tuple[int, int] = (1, 1), groups: int = 1):
        conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
        super().__init__(conv, nn.BatchNorm2d(outputs))


class Block(nn.Module):
    """Inverted residual of MobileNetV3."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.act = hard_swish if size.swish else nn.functional.relu
        self.expand = ConvNorm(size.inputs, size.wide, 1)
        self.depthwise = ConvNorm(size.wide, size.wide, size.kernel, (size.stride, 1), groups=size.wide)
        self.se = PaddleGate(size.wide) if size.squeeze else nn.Identity()
        self.linear = ConvNorm(size.wide, size.outputs, 1)
        self.shortcut = size.stride == 1 and size.inputs == size.outputs

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.linear(self.se(self.act(self.depthwise(self.act(self.expand(x))))))
        return x + y if self.shortcut else y


class PaddleGate(nn.Module):
    """Squeeze-and-excitation whose hard sigmoid has Paddle's slope of 0.2; torch's own has 1/6."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(channels, channels // 4, 1)
        self.expand = nn.Conv2d(channels // 4, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        gate = self.expand(torch.relu(self.reduce(x.mean((2, 3), keepdim=True))))
        return x * torch.clamp(gate * 0.2 + 0.5, 0, 1)


def hard_swish(x: Tensor) -> Tensor:
    """Hard swish as the sum, clamp and product that the published model consists of."""
    return x * torch.clamp(x + 3, 0, 6) / 6
