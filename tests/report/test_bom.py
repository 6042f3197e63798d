"""Bills of materials, held against CycloneDX's schema."""

import json
import uuid
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from edgekit.cli.main import main
from edgekit.report import write_report
from edgekit.report.document import Reference, Report
from edgekit.report.figure import table_figures
from edgekit.report.formats import FileHashes, render_bom
from edgekit.runtime.bundle import MANIFEST, read_bundle
from edgekit.support.files import file_sha256
from tests.helpers.reports import MODEL, RANDOM_MODEL, ROWS, report
from tests.helpers.tiny import MakeBundle


@cache
def validator() -> Any:
    """Imported when a test needs it: to load jsonschema's formats takes two seconds."""
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    return JsonStrictValidator(SchemaVersion.V1_6)


def valid(text: str) -> Any:
    """The document, which must fit the schema."""
    assert validator().validate_str(text) is None
    return json.loads(text)


def bom_of(whole: Report, files: FileHashes | None = None) -> Any:
    return valid(render_bom(whole, files or {}))


def metrics_of(document: Any) -> dict[tuple[str, str], Any]:
    """The metrics by row and name."""
    card = document["metadata"]["component"]["modelCard"]
    found = card["quantitativeAnalysis"]["performanceMetrics"]
    by_name = {(each["slice"], each["type"]): each for each in found}
    assert len(by_name) == len(found)
    return by_name


def ends(metric: Any) -> list[float]:
    return [float(metric["confidenceInterval"][end]) for end in ("lowerBound", "upperBound")]


def components(document: Any, kind: str) -> list[Any]:
    return [each for each in document["components"] if each["type"] == kind]


def test_the_command_writes_the_figures_and_intervals_of_the_report(tmp_path: Path) -> None:
    whole = report(reference=Reference(engine="torch", top1=0.7664, top5=0.9304, top1_ci95=(0.7580, 0.7746)))
    write_report(whole, tmp_path / "run")
    path = tmp_path / "bom.json"
    assert main(["report", str(tmp_path / "run"), "--bom", str(path)]) == 0
    document = valid(path.read_text())
    assert (document["bomFormat"], document["specVersion"]) == ("CycloneDX", "1.6")
    metrics = metrics_of(document)
    rows = [row for row in json.loads((tmp_path / "run/report.json").read_text())["results"] if row["bundle"]]
    for row in rows:
        where = f"{row['bundle']} on local"
        drop = metrics[where, "loss (points)"]
        assert float(drop["value"]) == row["accuracy"]["drop_top1_points"]
        assert ends(drop) == row["accuracy"]["drop_ci95_points"]
        assert float(metrics[where, "p50 (ms)"]["value"]) == row["latency_ms"]["p50"]
        if row["speedup"]:
            (speedup,) = (each for key, each in metrics.items() if key[0] == where and "speedup" in key[1])
            assert float(speedup["value"]) == row["speedup"]["ratio"]
            assert ends(speedup) == row["speedup"]["ci95"]
    assert {where for where, _ in metrics} == {"torch", *(f"{row['bundle']} on local" for row in rows)}
    assert ends(metrics["torch", "top-1 (%)"]) == pytest.approx([75.80, 77.46])
    assert render_bom(whole, {}) == path.read_text()  # which the command can write again, byte for byte


def test_every_figure_of_the_tables_is_a_metric() -> None:
    names = {name for _, name in metrics_of(bom_of(report()))}
    assert names == {
        f"{figure.title} ({figure.unit})"
        for figure in table_figures(ROWS)
        if any(figure.value(row) is not None for row in ROWS)
    }


def test_random_weights_have_no_accuracy() -> None:
    names = {name for _, name in metrics_of(bom_of(report(model=RANDOM_MODEL)))}
    assert "p50 (ms)" in names
    assert not any(name.startswith(("top-1", "loss", "agreement")) for name in names)


def test_weights_images_bundles_and_runtimes_are_components() -> None:
    engines: Sequence[str | None] = ("openvino 2026.4.0", None, "onnxruntime 0.0.1", None, None, None)
    rows = tuple(replace(row, engine=engine) for row, engine in zip(ROWS, engines, strict=True))
    whole = report(results=rows)
    document = bom_of(whole, {"onnx-float": {"model.onnx": "12" * 32}})
    model = document["metadata"]["component"]
    assert (model["type"], model["name"]) == ("machine-learning-model", "convnextv2_atto")
    assert model["hashes"] == [{"alg": "SHA-256", "content": MODEL.weights_sha256}]
    images = components(document, "data")
    assert [each["hashes"][0]["content"] for each in images] == [whole.calibration.sha256, whole.evaluation.sha256]
    datasets = model["modelCard"]["modelParameters"]["datasets"]
    assert [each["ref"] for each in datasets] == [each["bom-ref"] for each in images]
    bundles = {each["name"]: each for each in components(document, "machine-learning-model")}
    assert set(bundles) == {row.bundle for row in ROWS if row.bundle}
    assert bundles["onnx-float"]["components"][0]["hashes"] == [{"alg": "SHA-256", "content": "12" * 32}]
    runtimes = {each["purl"]: each for each in components(document, "library")}
    assert set(runtimes) == {"pkg:pypi/openvino@2026.4.0", "pkg:pypi/onnxruntime@0.0.1"}
    assert "licenses" not in runtimes["pkg:pypi/onnxruntime@0.0.1"]  # another version is installed here
    needed = {each["ref"]: each.get("dependsOn", []) for each in document["dependencies"]}
    assert needed["bundle/onnx-float"] == ["runtime/onnxruntime@0.0.1"]
    assert set(needed["model"]) >= {"bundle/onnx-float", "calibration-images", "evaluation-images"}
    assert uuid.UUID(document["serialNumber"].removeprefix("urn:uuid:"))


@pytest.mark.parametrize("given", ["", "report.json"])
def test_bundles_in_the_run_folder_are_checked_and_hashed(given: str, make_bundle: MakeBundle, tmp_path: Path) -> None:
    bundle = make_bundle("onnx", "run/onnx-float")
    run, path = bundle.parent, tmp_path / "bom.json"
    write_report(report(), run)
    assert main(["report", str(run / given), "--bom", str(path)]) == 0
    (found,) = (each for each in valid(path.read_text())["components"] if each["name"] == "onnx-float")
    hashes = {each["name"]: each["hashes"][0]["content"] for each in found["components"]}
    files = {name: entry["sha256"] for name, entry in read_bundle(bundle).manifest.files.items()}
    assert hashes == {MANIFEST: file_sha256(bundle / MANIFEST), **files}
    path.unlink()
    (bundle / "model.onnx").write_bytes(b"changed")
    assert main(["report", str(run / given), "--bom", str(path)]) == 2
    assert not path.exists()


@pytest.mark.parametrize(
    ("weights", "note", "license_"),
    [
        ("fcmae_ft_in1k", "the licence of the published weights of x is cc-by-nc-4.0", {"id": "CC-BY-NC-4.0"}),
        ("fcmae_ft_in1k", None, None),
        ("mine.pth", "if it was fine-tuned from the published weights of x, cc-by-nc-4.0 applies", None),
    ],
)
def test_a_licence_has_its_identifier_or_says_what_is_known(
    weights: str, note: str | None, license_: dict[str, str] | None
) -> None:
    document = bom_of(report(model=replace(MODEL, weights=weights, license=note)))
    ((found,),) = (each.values() for each in document["metadata"]["component"]["licenses"])
    if license_:
        assert found == license_
    else:
        assert set(found) == {"name"}
        assert (note is None) == ("cc-by-nc-4.0" not in found["name"])
