"""Times on a Raspberry Pi 5 that Arm published."""

from dataclasses import dataclass

_CARDS = "https://huggingface.co/Arm"
_COURSE = "https://learn.arm.com/courses/executorch-on-arm/optimize-image-classification"


@dataclass(frozen=True)
class Published:
    """A network's time in ExecuTorch, quantized to static INT8 for XNNPACK, at 224 x 224 pixels and batch 1."""

    ms: float
    """Median of an inference, in milliseconds."""
    page: str
    """Address of the page that states it, read in December 2026."""


PUBLISHED = {
    "mobilenetv2_100": Published(3.98, f"{_COURSE}/evaluate-int8-mobilenetv2/bring-the-runtime-paths-into-one-view/"),
    "resnet50": Published(20.64, f"{_CARDS}/resnet-50-int8-xnnpack-executorch"),
    "resnet18": Published(8.751, f"{_CARDS}/resnet-18-int8-xnnpack-executorch"),
    "wide_resnet50_2": Published(49.43, f"{_CARDS}/wideresnet50-int8-xnnpack-executorch-raspberrypi5"),
    "squeezenet1_0": Published(5.09, f"{_CARDS}/squeezenet-1-0-int8-xnnpack-executorch-raspberrypi5"),
    "squeezenet1_1": Published(2.307, f"{_CARDS}/squeezenet-1-1-int8-xnnpack-executorch"),
    "googlenet": Published(25.33, f"{_CARDS}/googlenet-int8-xnnpack-executorch-raspberrypi5"),
    "shufflenet_v2_x1_0": Published(3.63, f"{_CARDS}/shufflenet-v2-x1-0-int8-xnnpack-executorch"),
}
"""By network, as `pi_instructions.py` names it."""
FIRST = ("mobilenetv2_100", "resnet50")
"""The networks that made the first estimate, before the others were counted."""
