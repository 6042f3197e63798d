"""A bill of materials in CycloneDX 1.6: the model with its figures, its bundles, the images and the runtimes."""

import hashlib
import json
import uuid
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from importlib.metadata import PackageNotFoundError, metadata
from typing import TYPE_CHECKING, Any

from edgekit.report.document import Calibration, Evaluation, Report
from edgekit.report.figure import Figure, all_figures, table_figures
from edgekit.report.provenance import license_id, license_text
from edgekit.report.row import Row
from edgekit.report.serialization import to_json
from edgekit.support.distribution import NAME
from edgekit.support.libraries import needs

if TYPE_CHECKING:
    from cyclonedx.model.component import Component

FileHashes = Mapping[str, Mapping[str, str]]
"""SHA-256 of each file of each bundle, by the names of the bundle and the file."""


def render_bom(report: Report, files: FileHashes) -> str:
    """The JSON text; MissingExtraError if cyclonedx-python-lib is not installed.

    The same report and files give the same text. `files` may lack bundles, which are then listed without hashes.
    """
    with needs("bom"):
        from cyclonedx.model.bom import Bom, BomMetaData
        from cyclonedx.model.component import Component, ComponentType
        from cyclonedx.model.tool import ToolRepository
        from cyclonedx.output.json import JsonV1Dot6

    tool = Component(name=NAME, version=report.edgekit, type=ComponentType.APPLICATION)
    model, images = _model(report), _images(report)
    runtimes = {engine: _runtime(engine) for row in report.results if (engine := row.engine)}
    bundles = {name: _bundle(name, rows, files.get(name, {})) for name, rows in _by_bundle(report).items()}
    bom = Bom(
        serial_number=uuid.uuid5(uuid.NAMESPACE_OID, hashlib.sha256(to_json(report).encode()).hexdigest()),
        metadata=BomMetaData(
            timestamp=datetime.fromisoformat(report.created), component=model, tools=ToolRepository(components=[tool])
        ),
        components=[*images, *bundles.values(), *runtimes.values()],
    )
    bom.register_dependency(model, [*images, *bundles.values()])
    for name, rows in _by_bundle(report).items():
        bom.register_dependency(bundles[name], {runtimes[row.engine] for row in rows if row.engine})
    document = json.loads(JsonV1Dot6(bom).output_as_string())
    # cyclonedx-python-lib 11 has no class for model cards.
    document["metadata"]["component"]["modelCard"] = _model_card(report, images)
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


def _model(report: Report) -> "Component":
    from cyclonedx.contrib.license.factories import LicenseFactory
    from cyclonedx.model.component import Component, ComponentType
    from cyclonedx.model.license import DisjunctiveLicense

    model, identifier = report.model, license_id(report.model)
    known = LicenseFactory().make_from_string(identifier) if identifier else None
    return Component(
        name=model.name,
        version=model.weights,
        type=ComponentType.MACHINE_LEARNING_MODEL,
        bom_ref="model",
        description=f"{model.params:,} parameters, from {model.source}",
        hashes=_hashes(model.weights_sha256),
        licenses=[known or DisjunctiveLicense(name=license_text(model))],
    )


def _images(report: Report) -> list["Component"]:
    from cyclonedx.model.component import Component, ComponentType

    parts: Mapping[str, Calibration | Evaluation] = {
        "calibration": report.calibration,
        "evaluation": report.evaluation,
    }
    return [
        Component(
            name=f"{use} images",
            type=ComponentType.DATA,
            bom_ref=f"{use}-images",
            description=f"{part.count:,} images",
            hashes=_hashes(part.sha256),
        )
        for use, part in parts.items()
        if part.count
    ]


def _by_bundle(report: Report) -> dict[str, list[Row]]:
    """The measured rows of each bundle."""
    bundles: dict[str, list[Row]] = {}
    for row in report.results:
        if row.bundle and not row.failure:
            bundles.setdefault(row.bundle, []).append(row)
    return bundles


def _bundle(name: str, rows: Sequence[Row], files: Mapping[str, str]) -> "Component":
    from cyclonedx.model.component import Component, ComponentType

    return Component(
        name=name,
        type=ComponentType.MACHINE_LEARNING_MODEL,
        bom_ref=f"bundle/{name}",
        description=f"{rows[0].target}, {rows[0].scheme}",
        components=[
            Component(name=file, type=ComponentType.FILE, bom_ref=f"bundle/{name}/{file}", hashes=_hashes(sha256))
            for file, sha256 in files.items()
        ],
    )


def _runtime(engine: str) -> "Component":
    """The distribution of a runtime, such as "onnxruntime 1.32.0", with the licence that its own metadata names."""
    from cyclonedx.model.component import Component, ComponentType
    from cyclonedx.model.license import DisjunctiveLicense
    from packageurl import PackageURL

    package, _, version = engine.partition(" ")
    found = _license_of(package, version)
    return Component(
        name=package,
        version=version,
        type=ComponentType.LIBRARY,
        bom_ref=f"runtime/{package}@{version}",
        purl=PackageURL("pypi", name=package, version=version),
        licenses=[DisjunctiveLicense(name=found)] if found else [],
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


def _hashes(sha256: str | None) -> list[Any]:
    from cyclonedx.model import HashAlgorithm, HashType

    return [HashType(alg=HashAlgorithm.SHA_256, content=sha256)] if sha256 else []


def _model_card(report: Report, images: Sequence["Component"]) -> dict[str, object]:
    model = report.model
    shape = ", ".join(map(str, model.input_shape))
    return {
        "modelParameters": {
            "approach": {"type": "supervised"},
            "task": "image-classification",
            "modelArchitecture": model.name,
            "datasets": [{"ref": part.bom_ref.value} for part in images],
            "inputs": [{"format": f"float32 [{shape}]"}],
            "outputs": [{"format": f"float32 [{model.input_shape[0]}, {model.classes}]"}],
        },
        "quantitativeAnalysis": {"performanceMetrics": list(_metrics(report))},
    }


def _metrics(report: Report) -> Iterator[dict[str, object]]:
    """The accuracy of the float network, then the figures of the tables for each row."""
    meaningful, reference = report.model.accuracy_meaningful, report.reference
    if meaningful and report.evaluation.count:
        (top1,) = (figure for figure in all_figures() if figure.path == "accuracy.top1")
        low, high = reference.top1_ci95 or (None, None)
        ends = None if low is None or high is None else (low * top1.scale, high * top1.scale)
        yield _metric(top1, reference.top1 * top1.scale, ends, reference.engine)
    for row in report.results:
        for figure in table_figures(report.results):
            value = figure.value(row, meaningful)
            if value is not None:
                yield _metric(figure, value, figure.ends(row, meaningful), row.label)


def _metric(figure: Figure, value: float, ends: tuple[float, float] | None, where: str) -> dict[str, object]:
    """A figure in its unit, with the digits of report.json and its 95 % interval."""
    interval = {"confidenceInterval": {"lowerBound": repr(ends[0]), "upperBound": repr(ends[1])}} if ends else {}
    return {"type": f"{figure.title} ({figure.unit})", "value": repr(value), "slice": where, **interval}
