"""The image tower of an open_clip model with a head, in a form that the exporter and the recipes understand."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgekit.compat.open_clip import keep_first_query


class Attention(nn.Module):
    """nn.MultiheadAttention built of Linear layers, so that the exporter and the recipes see each layer."""

    def __init__(self, attention: nn.MultiheadAttention) -> None:
        super().__init__()
        self.heads, width = attention.num_heads, attention.embed_dim
        packed = attention.in_proj_weight
        separate = (attention.q_proj_weight, attention.k_proj_weight, attention.v_proj_weight)
        weights = packed.chunk(3) if packed is not None else separate
        biases = attention.in_proj_bias.chunk(3)
        self.query, self.key, self.value = (_linear(weight, bias) for weight, bias in zip(weights, biases, strict=True))
        self.projection = _linear(attention.out_proj.weight, attention.out_proj.bias)
        self.width = width

    def forward(self, query: Tensor, key: Tensor, value: Tensor, **_: Any) -> tuple[Tensor, None]:
        """Attend from [N,L,C] to keys and values [N,S,K]; returns [N,L,C]. Image towers use no masks or weights."""
        mixed = F.scaled_dot_product_attention(
            self._split(self.query(query)), self._split(self.key(key)), self._split(self.value(value))
        )
        return self.projection(mixed.transpose(1, 2).flatten(2)), None

    def _split(self, x: Tensor) -> Tensor:
        return x.reshape(x.shape[0], x.shape[1], self.heads, self.width // self.heads).transpose(1, 2)


class ImageClassifier(nn.Module):
    """Logits [N,classes] = head(normalized features), which is what zero-shot heads and CLIP fine-tunes expect."""

    def __init__(self, visual: nn.Module, head: nn.Linear) -> None:
        super().__init__()
        self.visual, self.head = visual, head

    def forward(self, images: Tensor) -> Tensor:
        output = self.visual(images)
        features = output[0] if isinstance(output, tuple) else output
        logits: Tensor = self.head(F.normalize(features, dim=-1))
        return logits


@torch.no_grad()
def deployable(module: ImageClassifier) -> ImageClassifier:
    """Use fewer operations for the same function: only the first of CoCa's 256 pooling queries reaches the logits."""
    # By name, because a list of the layers would keep the old ones: a fourth of CoCa's weights.
    for name in [name for name, layer in module.named_modules() if isinstance(layer, nn.MultiheadAttention)]:
        layer = module.get_submodule(name)
        assert isinstance(layer, nn.MultiheadAttention)
        module.set_submodule(name, Attention(layer))
    keep_first_query(module.visual)
    return module


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias is not None, device="meta")
    layer.weight = nn.Parameter(weight.detach().clone())
    if bias is not None:
        layer.bias = nn.Parameter(bias.detach().clone())
    return layer
