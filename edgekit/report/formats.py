"""A report in the forms that other tools read.

They are summaries in Markdown, such as GitHub shows on the page of a job; model cards, as model hubs show them; JUnit
XML, with a test case for each row and gate, or for each row and compared figure; and a bill of materials in CycloneDX
1.6, of the model with its figures, its bundles, the images and the runtimes.
"""

import hashlib
import json
import re
import shlex
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import singledispatch
from importlib.metadata import PackageNotFoundError, metadata
from typing import Any
from urllib.parse import quote
from xml.etree import ElementTree

from edgekit.config.runtimes import Precision
from edgekit.report import sentences
from edgekit.report.answer import decision
from edgekit.report.compare import (
    Comparison,
    RowComparison,
    compared_figures,
    describe_change,
    regression,
)
from edgekit.report.document import (
    Calibration,
    Evaluation,
    Report,
    license_id,
    license_text,
    provenance,
    to_json,
)
from edgekit.report.figure import (
    Figure,
    all_figures,
    figure_at,
    score_figures,
    table_figures,
)
from edgekit.report.page import Paragraph, Steps, backticks, escaped, markdown_page, page_of
from edgekit.report.plot import templates
from edgekit.report.row import Gate, Judged, Row
from edgekit.report.sentences import (
    RUN,
    heading,
    limits,
    steps_in_report,
    warnings,
)
from edgekit.support.libraries import NAME


@singledispatch
def summary(document: Any) -> str:
    """The page of a document in Markdown."""
    return markdown_page(document.title, page_of(document))


@summary.register
def summary_of_report(report: Report) -> str:
    """The page of a report, with the limits, the next steps and the model."""
    steps = Steps(steps_in_report(report), f"Next, with {RUN} for the run folder:")
    limited, model = Paragraph(limits(report.results)), Paragraph(heading(report))
    return markdown_page(report.title, [*page_of(report), limited, steps, model])


@singledispatch
def junit(document: Any) -> str:
    """JUnit XML of a document with rows."""
    doubts, meaningful = getattr(document, "doubts", ()), getattr(document, "accuracy_meaningful", True)
    return junit_of_rows(document.title, document.results, meaningful, doubts)


OF_DEVICES = ("latency_ms.p50", "speedup.ratio")
"""Paths of the figures that each device has for itself."""
KINDS = {"float": "original", "int8": "optimized"}


def render_card(report: Report) -> str:
    """The whole card. Raises MissingExtraError if jinja2 is not installed."""
    model, pair, command = report.model, _pair(report), shlex.join(("edgekit", *report.command))
    figures = table_figures(report.results, model.accuracy_meaningful)
    return (
        templates()
        .get_template("card.md.j2")
        .render(
            report=report,
            words=sentences,
            pair=pair,
            scored=[row for row in pair if row.accuracy and model.accuracy_meaningful],
            kinds=KINDS,
            license_id=license_id(model),
            tags=dict.fromkeys(["edgekit", "int8", *(row.target for row in report.results)]),
            decisions=[decision(report, advice) for advice in report.recommendations],
            compared=[
                (figure, where, rows)
                for figure, where, rows in _compared(pair)
                if any(figure.value(row, model.accuracy_meaningful) is not None for row in rows.values())
            ],
            columns=[figure for figure in figures if figure.is_main],
            license=license_text(model),
            provenance=provenance(report),
            command=command,
            fence=backticks(command, 3),
            escaped=escaped,
        )
    )


def _pair(report: Report) -> list[Row]:
    """The rows of the runtime to ship, float before int8: on each device, the original and the optimized model.

    If no bundle is recommended, the rows are those of the first runtime with an int8 bundle, or with any bundle.
    """
    measured = sorted((row for row in report.results if not row.failure), key=lambda row: row.precision == "float")
    shipped = [row for row in measured if row.bundle == report.recommendation.bundle]
    target = next((row.target for row in (*shipped, *measured)), None)
    return sorted((row for row in measured if row.target == target), key=lambda row: row.precision)


def _compared(pair: Sequence[Row]) -> Iterator[tuple[Figure, str, Mapping[Precision, Row]]]:
    """Each figure that compares the original with the optimized model, the device, and their rows by precision."""
    of_bundles = (figure_at("size_bytes"), *score_figures(pair), figure_at("int8.share_of_macs"))
    yield from ((figure, "", {row.precision: row for row in reversed(pair)}) for figure in of_bundles)
    for device in dict.fromkeys(row.device for row in pair):
        rows = {row.precision: row for row in pair if row.device.name == device.name}
        yield from ((figure_at(path), f" on {escaped(device.label)}", rows) for path in OF_DEVICES)


Result = tuple[str, str, str]
"""The element that says why a test case did not pass ("failure", "error" or "skipped"), its message and its type."""

DECISION = "ship"
"""Name of the class of the test cases that say what to ship to each device."""
MEASURED = "measured"
"""Name of the test case of a row's measurement, which passes if the row has figures."""
_NOT_IN_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@junit.register
def junit_of_report(report: Report) -> str:
    """JUnit XML of a report: doubts about the reference, the decision for each device, and the rows' test cases."""
    meaningful = report.model.accuracy_meaningful
    cases = [
        *_doubt_cases(warnings(report) if meaningful else ()),
        *_decision_cases(report),
        *(case for row in report.results for case in _row_cases(row, meaningful)),
    ]
    return _document(report.title, cases)


def junit_of_rows(title: str, rows: Sequence[Judged], meaningful: bool = True, doubts: Sequence[str] = ()) -> str:
    """JUnit XML of rows: whether each was measured, and the outcome of its gates.

    Doubts about the reference come first, each as a failure. A gate that failed or could not be confirmed is a failure,
    a row with an error is an error, and a gate that does not apply is only mentioned. `meaningful` is false for random
    weights.
    """
    of_rows = [case for row in rows for case in _row_cases(row, meaningful)]
    return _document(title, [*_doubt_cases(doubts), *of_rows])


@junit.register
def junit_of_comparison(comparison: Comparison) -> str:
    """JUnit XML of a comparison: a test case for each row's verdict, and for each figure that can be a regression."""
    slowdown = comparison.max_slowdown_percent
    other = ("failure", "; ".join(comparison.reasons), "inconclusive") if comparison.reasons else None
    cases = [case for row in comparison.results for case in _compared_cases(row, slowdown)]
    return _document("edgekit compare", [_case("runs", "comparable", other, []), *cases])


def _doubt_cases(doubts: Sequence[str]) -> Iterator[ElementTree.Element]:
    for doubt in doubts:
        yield _case("reference", "above-chance", ("failure", doubt, "inconclusive"), [])


def _decision_cases(report: Report) -> Iterator[ElementTree.Element]:
    """What to ship to each device, and what that gains and costs; skipped for nothing, since rows fail themselves."""
    for advice in report.recommendations:
        headline, *details = decision(report, advice)
        result = None if advice.bundle else ("skipped", headline, "nothing to ship")
        lines = [*(() if result else (headline,)), *details, limits(report.results)]
        yield _case(DECISION, str(advice.device), result, [line for line in lines if line])


def _row_cases(row: Judged, meaningful: bool) -> Iterator[ElementTree.Element]:
    lines = [f"{figure.title}: {figure.words(row, meaningful)}" for figure in table_figures([row], meaningful)]
    error = ("error", str(row.failure), row.failure.error) if row.failure else None
    of_gates = {reason for gate in row.gates for reason in gate.reasons}
    lines += [note for note in row.notes if not error and note not in of_gates]
    lines += [
        f"{gate.name} does not apply: {'; '.join(gate.reasons)}" for gate in row.gates if gate.verdict == "skipped"
    ]
    yield _case(row.label, MEASURED, error, lines)
    for gate in row.gates:
        if gate.verdict != "skipped":
            result = None if gate.verdict == "pass" else ("failure", "; ".join(gate.reasons), gate.verdict)
            yield _case(row.label, gate.name, result, _measured(gate, row))


def _measured(gate: Gate, row: Judged) -> list[str]:
    """The measured figure and the limit, and the remarks on a gate that passed."""
    remarks = gate.reasons if gate.verdict == "pass" else ()
    figures = [figure for figure in all_figures() if figure.path == gate.figure]
    return [*(f"{figure.title}: {figure.words(row)}; limit: {gate.limit:g}" for figure in figures), *remarks]


def _compared_cases(row: RowComparison, max_slowdown: float) -> Iterator[ElementTree.Element]:
    of_figures = {figure.title: regression(figure, row, max_slowdown) for figure in compared_figures()}
    others = [text for text in row.regressions if text not in of_figures.values()]
    verdicts = " -> ".join(verdict or "missing" for verdict in row.verdicts)
    yield _case(row.label, "verdict", ("failure", "; ".join(others), "fail") if others else None, [verdicts])
    for figure in compared_figures():
        change = row.changes.get(figure.csv_column)
        if change and (change.ci95 or figure.tolerance is not None):
            worse = of_figures[figure.title]
            result = ("failure", worse, "fail") if worse else None
            yield _case(row.label, figure.title, result, [describe_change(figure, change)])


def _case(row: str, name: str, result: Result | None, output: Sequence[str]) -> ElementTree.Element:
    """A test case of a row, which passes if it has no result. Its message is in both places where pipelines look."""
    case = ElementTree.Element("testcase", name=_clean(name), classname=_clean(row))
    if result:
        kind, message, type_ = result
        ElementTree.SubElement(case, kind, message=_clean(message), type=_clean(type_)).text = _clean(message)
    if output:
        ElementTree.SubElement(case, "system-out").text = _clean("\n".join(output))
    return case


def _document(title: str, cases: Sequence[ElementTree.Element]) -> str:
    kinds = {"failures": "failure", "errors": "error", "skipped": "skipped"}
    counts = {name: sum(case.find(kind) is not None for case in cases) for name, kind in kinds.items()}
    totals = {name: str(count) for name, count in {"tests": len(cases), **counts, "time": 0}.items()}
    document = ElementTree.Element("testsuites", {"name": "edgekit", **totals})
    ElementTree.SubElement(document, "testsuite", {"name": _clean(title), **totals}).extend(cases)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{ElementTree.tostring(document, encoding="unicode")}\n'


def _clean(text: str) -> str:
    """Text without the control characters that XML can't represent, such as colours in a compiler's message."""
    return _NOT_IN_XML.sub("\N{REPLACEMENT CHARACTER}", text)


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
        for figure in table_figures(report.results, meaningful):
            value = figure.value(row, meaningful)
            if value is not None:
                yield _metric(figure, value, figure.ends(row, meaningful), row.label)


def _metric(figure: Figure, value: float, ends: tuple[float, float] | None, where: str) -> dict[str, object]:
    """A figure in its unit, with the digits of report.json and its 95 % interval."""
    interval = {"confidenceInterval": {"lowerBound": repr(ends[0]), "upperBound": repr(ends[1])}} if ends else {}
    return {"type": f"{figure.title} ({figure.unit})", "value": repr(value), "slice": where, **interval}
