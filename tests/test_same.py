"""What edgekit writes and prints is what it wrote and printed before: documents, pages, help, schemas and model files.

`pytest tests/test_same.py --record` renews tests/data/same, whose diff shows a reviewer what a change does. What
depends on the machine, the time or a version is replaced before texts are compared.
"""

import hashlib
import importlib
import json
import re
import time
from collections.abc import Iterator
from dataclasses import is_dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, get_args, get_type_hints

import msgspec
import numpy as np
import pytest
import timm
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edgekit.cli.main import main
from edgekit.config.runtimes import RUNTIMES
from edgekit.job import Job
from edgekit.measure.machine import describe
from edgekit.models.options import ModelOptions, parse_model_args
from edgekit.pipeline.build import metadata_of
from edgekit.pipeline.builder import build_bundles
from edgekit.report import answer_lines, load_report, report_schema
from edgekit.report.document import Report, schema_of
from edgekit.report.formats import junit_of_report, render_bom, render_card, summary_of_report
from edgekit.report.html import render_csv, render_html
from edgekit.runtime.backend import load_backend
from edgekit.runtime.bundle import Bundle, Manifest
from edgekit.support.libraries import quiet
from edgekit.support.progress import Reporter
from tests.helpers import fake_runtime
from tests.helpers.command_line import all_commands
from tests.helpers.recorded import FOLDER, Recorded
from tests.helpers.reports import CONDITIONS, device
from tests.helpers.tiny import ROOT, SIDE, TINY_ARGS, TINY_VIT, VIT_ARGS

DIGITS = 2
"""Significant digits of a figure. Kernels of other processors round differently."""
INFERENCE_NS = {"float": 2_000_000, "int8": 1_250_000}
"""Time that an inference takes by the fixed clock, by the precision of its bundle."""


class FixedClock:
    """A clock that stands still but for inferences of the fake runtime."""

    now_ns = 0

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        patch.setattr(time, "perf_counter_ns", lambda: self.now_ns)
        for name in ("perf_counter", "monotonic"):
            patch.setattr(time, name, lambda: self.now_ns / 1e9)
        opened = fake_runtime.Engine.open

        def open_timed(engine: Any, model: Path, manifest: Manifest, threads: int | None) -> Any:
            infer = opened(engine, model, manifest, threads)

            def timed(x: NDArray[np.float32]) -> NDArray[np.float32]:
                self.now_ns += INFERENCE_NS[manifest.precision]
                return infer(x)

            return timed

        patch.setattr(fake_runtime.Engine, "open", open_timed)


@pytest.fixture
def run(vit_arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of a job with the fake runtime, whose report.json no longer depends on machine, time and versions."""
    folder = tmp_path / "run"
    with fake_runtime.added():
        with monkeypatch.context() as patch:
            FixedClock(patch)
            assert main(["deploy", *vit_arguments, "--target", "fake", "-o", str(folder), "--quiet", "--json"]) == 0
        file = folder / "report.json"
        file.write_text(json.dumps(settled(json.loads(file.read_text())), indent=1, ensure_ascii=False) + "\n")
        yield folder


FIXED: dict[str, Any] = {
    "created": "2026-01-01T00:00:00Z",
    "edgekit": "0.0.0",
    "device": msgspec.to_builtins(device()),
    "thermal": msgspec.to_builtins(CONDITIONS),
    "size_bytes": 250_000,
    "weights_sha256": "ab" * 32,
    "limit": {"bound_ms": 0.5, "fraction": 0.25},
}
"""Values that depend on the machine, the time or a version, by their keys; the fake runtime's sizes depend on names."""


def settled(value: Any) -> Any:
    """A JSON value with `FIXED` values, and figures of few digits."""
    match value:
        case dict():
            fixed = {key: new for key, new in FIXED.items() if isinstance(value.get(key), type(new))}
            return {key: settled(each) for key, each in value.items()} | fixed
        case list():
            return [settled(each) for each in value]
        case str():
            return re.sub(r"^torch \d\S*$", "torch 2.0.0", value)
        case float():
            return float(f"{value:.{DIGITS}g}")
    return value


def test_the_documents_of_a_run(run: Path, recorded: Recorded) -> None:
    report = load_report(run)
    texts = {
        "report.json": (run / "report.json").read_text(),
        "report.csv": render_csv(report),
        "report.html": render_html(report),
        "answer.txt": "".join(f"{line}\n" for line in answer_lines(report)),
        "summary.md": summary_of_report(report),
        "junit.xml": junit_of_report(report),
        "card.md": render_card(report),
        "bom.json": re.sub(r"urn:uuid:[0-9a-f-]+", "urn:uuid:0", render_bom(report, {})),
    }
    for name, text in texts.items():
        recorded(name, text)


def test_the_help_of_every_command(
    recorded: Recorded, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    texts = []
    for words, command in (("", None), ("devices", None), *sorted(all_commands())):
        hidden = {each.name for each in getattr(command, "params", ()) if getattr(each, "hidden", False)}
        for option in ("--help", "--help-all") if hidden - {"version"} else ("--help",):
            assert main([*words.split(), option]) == 0
            texts += [line.rstrip() for line in capfd.readouterr().out.splitlines()]
    recorded("help.txt", "\n".join(texts) + "\n")


def documents() -> Iterator[type[Any]]:
    """Every class of the package that has a version of its format."""
    for file in sorted((ROOT / "edgekit").rglob("*.py")):
        if re.search(r"^    schema_version: ", file.read_text(), re.MULTILINE):
            name = ".".join(file.relative_to(ROOT).with_suffix("").parts)
            for kind in vars(importlib.import_module(name)).values():
                if (
                    isinstance(kind, type)
                    and kind.__module__ == name
                    and "schema_version" in vars(kind).get("__annotations__", ())
                ):
                    yield kind


def schema(kind: type[Any]) -> Any:
    """The JSON schema of a type, or of its fields' types where a field may be one of several objects."""
    try:
        return report_schema() if kind is Report else schema_of(kind)
    except TypeError:
        hints = get_type_hints(kind)
        members = {each.__name__: schema(each) for each in classes(tuple(hints.values())) if is_dataclass(each)}
        return {"fields": {name: re.sub(r"\w+\.", "", str(hint)) for name, hint in hints.items()}, "$defs": members}


def classes(hints: tuple[Any, ...]) -> Iterator[type[Any]]:
    """The classes within these types."""
    for hint in hints:
        if isinstance(hint, type) and not get_args(hint):
            yield hint
        yield from classes(get_args(hint))


def test_the_schema_of_every_document(recorded: Recorded) -> None:
    schemas = {kind.__name__: schema(kind) for kind in documents()}
    assert len(schemas) == len(list(documents())), "no two documents have one name"
    parts: dict[str, Any] = {}
    for name, each in schemas.items():
        for part, definition in each.pop("$defs", {}).items():
            unlike = parts.setdefault(part, definition) != definition
            parts |= {f"{part} of {name}": definition} if unlike else {}
    document = schemas | {"$defs": parts}
    recorded("schemas.json", json.dumps(document, indent=1, ensure_ascii=False, sort_keys=True) + "\n")


class Convolutions(nn.Module):
    """A residual block, a depthwise convolution and a gate between convolutions with BatchNorm: [1,3,H,W] -> [1,10]."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        self.one = nn.Sequential(nn.Conv2d(16, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16))
        self.depthwise, self.two = nn.Conv2d(16, 16, 3, 2, 1, groups=16), nn.Conv2d(16, 32, 1)
        self.gate, self.head = nn.Conv2d(32, 32, 1), nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = (x + self.one(x)).relu()
        x = nn.functional.hardswish(self.two(nn.functional.relu6(self.depthwise(x))))
        x = x * nn.functional.hardsigmoid(self.gate(x.mean((2, 3), keepdim=True)))
        logits: Tensor = self.head(x.mean((2, 3)))
        return logits


def made(name: str, arguments: str = "") -> nn.Module:
    """The network of this name, whose weights are integers by powers of two, so that no processor rounds them."""
    module = timm.create_model(name, **dict(parse_model_args(arguments))) if arguments else Convolutions()
    random = np.random.default_rng(0)
    with torch.no_grad():
        for key, tensor in module.named_parameters():
            values = torch.from_numpy(random.integers(-64, 65, tensor.shape).astype(np.float32)) / 64
            if tensor.ndim > 1:
                values /= 2 ** round(np.log2(max(1, tensor[0].numel())) / 2)
            elif "norm" in key and key.endswith("weight"):
                values = 1 + values / 2
            else:
                values /= 8
            tensor.copy_(values)
    return module.eval()


NETWORKS = {"convolutions": "", "convnextv2_atto": TINY_ARGS, TINY_VIT[0]: f"{VIT_ARGS},img_size={SIDE}"}
"""Arguments of three small networks, by name."""
EXACT = ("convolutions",)
"""Those whose INT8 files are the same on every processor. In the others, sums of the calibration are rounded as the
processor's kernels order them, so their INT8 files are compared on the processor that recorded them."""
SLOW = pytest.mark.slow
COMPILERS = ("torch", "nncf", "openvino", "onnx", "onnxscript", "litert-torch", "ai-edge-quantizer")


def hashes(bundle: Bundle) -> dict[str, str]:
    """SHA-256 of the files that the runtime loads, with another version of edgekit in their metadata."""
    metadata = replace(metadata_of(bundle.manifest, bundle.labels), model="network", version="0.0.0")
    with quiet():
        load_backend(bundle.manifest.target).replace_metadata(bundle.path / bundle.manifest.model_file, metadata)
    others = {"manifest.json", "labels.txt", "golden.npz"}
    files = sorted(file for file in bundle.path.iterdir() if file.name not in others)
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


@pytest.mark.parametrize(
    "name", ["convolutions", pytest.param("convnextv2_atto", marks=SLOW), pytest.param(TINY_VIT[0], marks=SLOW)]
)
def test_the_model_files(
    name: str, photos: Path, tmp_path: Path, recorded: Recorded, request: pytest.FixtureRequest
) -> None:
    half = (0.5, 0.5, 0.5)
    options = ModelOptions(name, module=made(name, NETWORKS[name]), imgsz=SIDE, mean=half, std=half, crop_pct=1.0)
    images = {"calibration_data": photos, "num_calibration_samples": 10}
    stated = {"targets": tuple(RUNTIMES), "device_class": "x86-64-v3", "output": tmp_path / "run"}
    built = build_bundles(Job.of(options, images | stated), Reporter(quiet=True))
    bundles = {key: bundle for key, bundle in built.items() if isinstance(bundle, Bundle)}
    assert bundles.keys() == built.keys(), built
    document = {
        "made with": {each: version(each) for each in COMPILERS},
        "processor": "any" if name in EXACT else f"{describe().cpu} with {torch.backends.cpu.get_cpu_capability()}",
        **{key: hashes(bundle) for key, bundle in bundles.items()},
    }
    file = FOLDER / "models" / f"{name}.json"
    if not request.config.getoption("record"):
        before = json.loads(file.read_text())
        if before["made with"] != document["made with"]:
            pytest.skip("the files were recorded with other versions of the compilers")
        if before["processor"] != document["processor"]:
            document = before | {key: value for key, value in document.items() if key.endswith("-float")}
    recorded(f"models/{name}.json", json.dumps(document, indent=1) + "\n")
