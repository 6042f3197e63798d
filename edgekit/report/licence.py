"""The licence of a model's weights, as far as edgekit knows it."""

import re
from pathlib import Path

from edgekit.report.document import Model

LICENSES = re.compile(r"\b(apache-2\.0|mit|bsd-[23]-clause|cc0-1\.0|cc-by(?:-nc)?(?:-sa|-nd)?-\d\.0)\b", re.IGNORECASE)
"""Identifiers of licences that model hubs know, as timm and open_clip spell them."""
NO_LICENSE = "edgekit does not know the licence of these weights."


def license_id(model: Model) -> str | None:
    """The identifier of the licence of published weights in lower case, if their note names one that hubs know."""
    named = LICENSES.search(model.license or "")
    return named[0].lower() if named and not _is_file(model) else None


def license_text(model: Model) -> str:
    """What edgekit knows about the licence, in sentences."""
    if model.license is None:
        return NO_LICENSE
    note = f"{model.license[0].upper()}{model.license[1:]}."
    return f"{NO_LICENSE} {note}" if _is_file(model) else note


def _is_file(model: Model) -> bool:
    """Whether the weights are a checkpoint, about which the note says what holds if it is derived from others."""
    return bool(Path(model.weights).suffix)
