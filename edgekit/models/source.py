"""What a model source gives."""

from dataclasses import dataclass

from torch import nn


@dataclass(frozen=True)
class Source:
    """A module with its weights, and where they are from; the fields are those of `Network`."""

    module: nn.Module
    weights: str
    weights_sha256: str
    license_note: str | None
