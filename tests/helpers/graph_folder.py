"""Folders as `edgekit quantize` writes them, with graphs that can't be loaded."""

import zipfile
from pathlib import Path

from edgekit.pipeline.request import GRAPH, SAMPLES, STAGE, GraphFacts
from edgekit.report.document import to_json
from tests.helpers.tiny import X86, tiny_manifest

FINGERPRINT = "0" * 64


def graph_folder(folder: Path, fingerprint: str = FINGERPRINT) -> Path:
    """Make such a folder for ONNX Runtime: its graph and samples are empty archives."""
    facts = GraphFacts(tiny_manifest(precision="int8", fingerprint=fingerprint), (), X86, ())
    folder.mkdir(parents=True)
    (folder / STAGE).write_text(to_json(facts))
    for name in (GRAPH, SAMPLES):
        zipfile.ZipFile(folder / name, "w").close()
    return folder
