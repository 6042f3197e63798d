"""A bill of materials in CycloneDX 1.6: the model with its figures, its bundles, the images and the runtimes."""

import hashlib
import json
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from importlib.metadata import PackageNotFoundError, metadata
from typing import Any
from urllib.parse import quote

from edgekit.report.document import Calibration, Evaluation, Report
from edgekit.report.figure import Figure, score_figures, table_figures
from edgekit.report.provenance import license_id, license_text
from edgekit.report.row import Row
from edgekit.report.serialization import to_json
from edgekit.support.distribution import NAME

Component = dict[str, Any]
"""A part of the document: a model, a bundle, a file, a set of images or a package."""
FileHashes = Mapping[str, Mapping[str, str]]
"""SHA-256 of each file of each bundle, by the names of the bundle and the file."""
SPDX = {"apache-2.0": "Apache-2.0", "bsd-2-clause": "BSD-2-Clause", "bsd-3-clause": "BSD-3-Clause"}
"""Identifiers of licences that the SPDX list doesn't spell in capitals."""


def render_bom(report: Report, files: FileHashes) -> str:
    """The JSON text. The same report and files give the same text; bundles that `files` lacks are without hashes."""
    rows = [row for row in report.results if row.bundle and not row.failure]
    bundles = {row.name: _bundle(row, files.get(row.name, {})) for row in reversed(rows)}
    runtimes = {row.engine: _runtime(row.engine) for row in report.results if row.engine}
    images = list(_images(report))
    needed = {"model": [*images, *bundles.values()]} | {
        bundle["bom-ref"]: [runtimes[row.engine] for row in rows if row.name == name and row.engine]
        for name, bundle in bundles.items()
    }
    parts = [*images, *(bundles[name] for name in sorted(bundles)), *runtimes.values()]
    document = {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": uuid.uuid5(uuid.NAMESPACE_OID, hashlib.sha256(to_json(report).encode()).hexdigest()).urn,
        "version": 1,
        "metadata": {
            "timestamp": datetime.fromisoformat(report.created).isoformat(),
            "tools": {"components": [{"type": "application", "name": NAME, "version": report.edgekit}]},
            "component": {**_model(report), "modelCard": _model_card(report, images)},
        },
        "components": parts,
        "dependencies": [
            _dependency(ref, needed.get(ref, ())) for ref in ("model", *(part["bom-ref"] for part in parts))
        ],
    }
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


def _component(kind: str, ref: str, name: str, sha256: str | None = None, **others: object) -> Component:
    hashes = [{"alg": "SHA-256", "content": sha256}] if sha256 else None
    known = {key: value for key, value in {"hashes": hashes, **others}.items() if value}
    return {"type": kind, "bom-ref": ref, "name": name, **known}


def _dependency(ref: str, needed: Iterable[Component]) -> dict[str, object]:
    refs = sorted({part["bom-ref"] for part in needed})
    return {"ref": ref, **({"dependsOn": refs} if refs else {})}


def _model(report: Report) -> Component:
    model, identifier = report.model, license_id(report.model)
    known = {"id": SPDX.get(identifier, identifier.upper())} if identifier else {"name": license_text(model)}
    return _component(
        "machine-learning-model",
        "model",
        model.name,
        model.weights_sha256,
        version=model.weights,
        description=f"{model.params:,} parameters, from {model.source}",
        licenses=[{"license": known}],
    )


def _images(report: Report) -> Iterator[Component]:
    parts: Mapping[str, Calibration | Evaluation] = {"calibration": report.calibration, "evaluation": report.evaluation}
    for use, part in parts.items():
        if part.count:
            description = f"{part.count:,} images"
            yield _component("data", f"{use}-images", f"{use} images", part.sha256, description=description)


def _bundle(row: Row, files: Mapping[str, str]) -> Component:
    ref = f"bundle/{row.name}"
    return _component(
        "machine-learning-model",
        ref,
        row.name,
        description=f"{row.target}, {row.scheme}",
        components=[_component("file", f"{ref}/{name}", name, sha256) for name, sha256 in files.items()],
    )


def _runtime(engine: str) -> Component:
    """The distribution of a runtime, such as "onnxruntime 1.32.0", with the licence that its own metadata names."""
    package, _, version = engine.partition(" ")
    license_ = _license_of(package, version)
    return _component(
        "library",
        f"runtime/{package}@{version}",
        package,
        version=version,
        purl=f"pkg:pypi/{quote(package.lower().replace('_', '-'))}@{quote(version)}",
        licenses=[{"license": {"name": license_}}] if license_ else [],
    )


def _license_of(package: str, version: str) -> str | None:
    """The licence of a distribution; None if another version, or none, is installed here."""
    try:
        facts = metadata(package)
    except PackageNotFoundError:
        return None
    classifiers = [each.rpartition(" :: ")[2] for each in facts.get_all("Classifier") or () if "License ::" in each]
    named = [*(facts[name] for name in ("License-Expression", "License") if name in facts), *classifiers]
    return next(filter(None, named), None) if facts["Version"] == version else None


def _model_card(report: Report, images: Sequence[Component]) -> dict[str, object]:
    model = report.model
    shape = ", ".join(map(str, model.input_shape))
    return {
        "modelParameters": {
            "approach": {"type": "supervised"},
            "task": model.hub_task,
            "modelArchitecture": model.name,
            "datasets": [{"ref": part["bom-ref"]} for part in images],
            "inputs": [{"format": f"float32 [{shape}]"}],
            "outputs": [{"format": f"float32 [{model.input_shape[0]}, {model.classes}]"}],
        },
        "quantitativeAnalysis": {"performanceMetrics": list(_metrics(report))},
    }


def _metrics(report: Report) -> Iterator[dict[str, object]]:
    """The accuracy of the float network, then the figures of the tables for each row."""
    meaningful, reference = report.model.accuracy_meaningful, report.reference
    if meaningful and report.evaluation.count:
        score, _ = score_figures(report.results)
        low, high = reference.top1_ci95 or (None, None)
        ends = None if low is None or high is None else (low * score.scale, high * score.scale)
        yield _metric(score, reference.value * score.scale, ends, reference.engine)
    for row in report.results:
        for figure in table_figures(report.results):
            value = figure.value(row, meaningful)
            if value is not None:
                yield _metric(figure, value, figure.ends(row, meaningful), row.label)


def _metric(figure: Figure, value: float, ends: tuple[float, float] | None, where: str) -> dict[str, object]:
    """A figure in its unit, with the digits of report.json and its 95 % interval."""
    interval = {"confidenceInterval": {"lowerBound": repr(ends[0]), "upperBound": repr(ends[1])}} if ends else {}
    return {"type": f"{figure.title} ({figure.unit})", "value": repr(value), "slice": where, **interval}
