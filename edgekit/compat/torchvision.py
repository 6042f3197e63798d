"""torchvision's own way to read the published files of some architectures."""

import sys
from types import SimpleNamespace
from typing import Any

import torchvision


def renamed_as_published(model: str, state: dict[str, Any]) -> dict[str, Any]:
    """The tensors of a published file under the names of torchvision's present code, which renames those of DenseNets.

    Checked with torchvision 0.28. It documents no way to rename without a download. By convention, the module that
    defines such a model has a global function `_load_state_dict` for it.
    """
    load = getattr(sys.modules[torchvision.models.get_model_builder(model).__module__], "_load_state_dict", None)
    if load is None:
        return state
    renamed: dict[str, Any] = {}
    file = SimpleNamespace(get_state_dict=lambda **_: dict(state))
    load(SimpleNamespace(load_state_dict=renamed.update), file, progress=False)
    return renamed
