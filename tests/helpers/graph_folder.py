"""Folders as `edgekit quantize` writes them, with graphs that can't be loaded."""

import zipfile
from pathlib import Path

from edgekit.pipeline.request import GRAPH, SAMPLES, STAGE, GraphFacts, ModelOrigin, Provenance
from edgekit.report.document import to_json
from tests.helpers.tiny import X86, tiny_manifest

FINGERPRINT = "0" * 64


def graph_folder(folder: Path, fingerprint: str = FINGERPRINT) -> Path:
    """Make such a folder for ONNX Runtime: its graph and samples are empty archives."""
    facts = GraphFacts(
        target="onnx",
        precision="int8",
        scheme="static w8a8",
        preprocessing=tiny_manifest().preprocessing,
        labels=(),
        layers=(),
        provenance=Provenance(
            {}, ModelOrigin("tiny", "timm", "random", "0" * 64, 1, None), "default", (), "nearest", "0" * 64
        ),
        device_class=X86,
        fingerprint=fingerprint,
        unmatched=(),
    )
    folder.mkdir(parents=True)
    (folder / STAGE).write_text(to_json(facts))
    for name in (GRAPH, SAMPLES):
        zipfile.ZipFile(folder / name, "w").close()
    return folder
