"""The smallest classifier of each of timm's model modules."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import timm
import torch

from edgekit.models.timm_source import resolve_name
from edgekit.support.files import replace_text

CACHE = Path(__file__).resolve().parents[1] / "coverage_models.json"
HEAD = {"num_classes": 1000}
"""Arguments that give a model the head for ImageNet."""


@dataclass(frozen=True)
class Smallest:
    """The smallest classifier of a module, by its number of parameters."""

    model: str
    params: int
    side: int
    """Default input side in pixels."""
    model_args: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of the constructor: a head for ImageNet if the model has none."""


def smallest_models(modules: Sequence[str]) -> dict[str, Smallest]:
    """The smallest classifier of each module. coverage_models.json remembers them."""
    known = json.loads(CACHE.read_text()) if CACHE.exists() else {}
    missing = [module for module in modules if module not in known]
    for module in missing:
        known[module] = asdict(_smallest(module))
    if missing:
        lines = [f"{json.dumps(module)}: {json.dumps(known[module])}" for module in sorted(known)]
        replace_text(CACHE, "{\n" + ",\n".join(lines) + "\n}\n")
    return {module: Smallest(**known[module]) for module in modules}


def _smallest(module: str) -> Smallest:
    """Build every model of a module on the meta device, where it needs no memory."""
    configs = {name: resolve_name(name) for name in timm.list_models(module=module)}
    classifiers = [name for name, config in configs.items() if config.num_classes]
    candidates = []
    for name in classifiers or configs:
        arguments: dict[str, Any] = {} if configs[name].num_classes == HEAD["num_classes"] else HEAD
        with torch.device("meta"):
            network = timm.create_model(name, **arguments)
        params = sum(parameter.numel() for parameter in network.parameters())
        candidates.append(Smallest(name, params, configs[name].input_size[-1], arguments))
    return min(candidates, key=lambda candidate: candidate.params)
