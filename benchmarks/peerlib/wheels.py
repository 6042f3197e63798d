"""Runtimes that edgekit doesn't compile for, from their public wheels. It needs no torch."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Wheel:
    """A runtime and the package that converts a model for it."""

    title: str
    requirement: str
    converter: str


WHEELS = {
    "mnn": Wheel("MNN", "MNN==3.6.1", "MNN==3.6.1"),
    "ncnn": Wheel("ncnn", "ncnn==1.0.20261020", "pnnx==20261020"),
}
"""They run networks in float. Nothing of edgekit depends on them."""


def wheel_versions() -> dict[str, str]:
    """Version of each package."""
    requirements = {text for wheel in WHEELS.values() for text in (wheel.requirement, wheel.converter)}
    return dict(sorted(text.split("==", 1) for text in requirements))
