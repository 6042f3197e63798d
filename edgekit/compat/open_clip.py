"""open_clip: image towers without the rest of the model. Callers pass the library, which is an optional extra."""

from collections.abc import Mapping
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn


def build_vision_tower(library: Any, config: Mapping[str, Any]) -> nn.Module:
    """Build the untrained image tower of a model's configuration on torch's default device.

    Checked with open_clip_torch 3.3. `_build_vision_tower` is private. The public `create_model` builds all towers,
    which for a CoCa need twice the memory of the image tower.
    """
    tower: nn.Module = library.model._build_vision_tower(
        config["embed_dim"], dict(config["vision_cfg"]), bool(config.get("quick_gelu"))
    )
    return tower


def present_layout(library: Any, state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """A checkpoint's tensors as open_clip gives them to a model of both towers, or to one with the image tower `visual`
    alone: renamed, and resized to its image size.

    Checked with open_clip_torch 3.3, whose `load_checkpoint` reads a file and converts its tensors in one step.
    """
    converted: dict[str, Tensor] = {}

    is_alone = {name for name, _ in model.named_children()} <= {"visual", "head"}  # without what belongs to both towers

    class Receiver:
        def __getattr__(self, name: str) -> Any:
            return getattr(model, name, None) if is_alone else getattr(model, name)

        def load_state_dict(self, state: dict[str, Tensor], strict: bool) -> None:
            converted.update(state)

    with patch.object(library.factory, "load_state_dict", lambda *_, **__: state):
        library.load_checkpoint(Receiver(), "")
    return converted


@torch.no_grad()
def keep_first_query(visual: nn.Module) -> None:
    """Drop all pooling queries but the first, in place, if the others don't influence the logits.

    Checked with open_clip_torch 3.3. Its VisionTransformer has the attributes `attn_pool`, `attn_pool_contrastive`,
    `pool_type` and `query`. A CoCa pools with 256 queries, and a classifier uses only the first.
    """
    pool: Any = getattr(visual, "attn_pool", None)
    if pool is not None and visual.attn_pool_contrastive is None and visual.pool_type == "tok":
        pool.query = nn.Parameter(pool.query[:1].clone())
