"""open_clip: image towers without the rest of their model. The library is passed in, as it is an optional extra."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn


def build_vision_tower(library: Any, config: Mapping[str, Any]) -> nn.Module:
    """The untrained image tower of a model's configuration, on torch's default device.

    Checked with open_clip_torch 3.3. `_build_vision_tower` is private; the public `create_model` builds all towers,
    and those of a CoCa take twice the memory of its image tower.
    """
    tower: nn.Module = library.model._build_vision_tower(
        config["embed_dim"], dict(config["vision_cfg"]), bool(config.get("quick_gelu"))
    )
    return tower


@torch.no_grad()
def keep_first_query(visual: nn.Module) -> None:
    """Keep only the first of the pooling queries, in place, where the others don't reach the logits.

    Checked with open_clip_torch 3.3. The names `attn_pool`, `attn_pool_contrastive`, `pool_type` and `query` are those
    of its VisionTransformer: a CoCa pools with 256 queries, and a classifier uses the first of them.
    """
    pool: Any = getattr(visual, "attn_pool", None)
    if pool is not None and visual.attn_pool_contrastive is None and visual.pool_type == "tok":
        pool.query = nn.Parameter(pool.query[:1].clone())
