"""Calls from Python: what they make is what the commands make, and what they refuse is named as the caller wrote it."""

import hashlib
import inspect
import os
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from torch import nn
from torch.utils.data import Dataset

import edgekit
from edgekit import api
from edgekit.cli.main import main
from edgekit.config.runtimes import PRECISIONS
from edgekit.errors import BundleError, InputError
from edgekit.job import Job, arguments_of, declarations
from edgekit.support.libraries import SLEEPING, let_threads_sleep
from tests.helpers.measurements import without_fresh_processes
from tests.helpers.refusals import refuses

NET = """
import torch
from torch import nn

def make():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, 1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 4),
    ).eval()
"""
CLASSES = [f"class_{index}" for index in range(4)]
STATED: dict[str, Any] = {
    "imgsz": 32,
    "mean": (0.5, 0.5, 0.5),
    "std": (0.25, 0.25, 0.25),
    "num_calibration_samples": 16,
}
MEASURED: dict[str, Any] = {"threads": 1, "warmup": 1, "iterations": 5, "max_drop": 100, "min_speedup": 0}


class Photos(Dataset[Any]):
    """Photos in folders, one for each class, as a torch data set."""

    def __init__(self, folder: Path) -> None:
        self.files = sorted(folder.glob("*/*.png"))
        self.classes = CLASSES

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Any:
        with Image.open(self.files[index]) as image:
            pixels = np.asarray(image)
        return pixels, CLASSES.index(self.files[index].parent.name)


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Folders with images to calibrate and to evaluate on."""
    generator = np.random.default_rng(0)
    folder = tmp_path_factory.mktemp("sets")
    for part in ("calibration", "evaluation"):
        for name in CLASSES:
            (folder / part / name).mkdir(parents=True)
            for index in range(4):
                pixels = generator.integers(0, 256, (40, 40, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / part / name / f"{index}.png")
    return folder / "calibration", folder / "evaluation"


def sha256_of(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def network(folder: Path) -> nn.Module:
    """The network that `net:make` makes."""
    namespace: dict[str, Any] = {}
    exec(NET, namespace)
    (folder / "net.py").write_text(NET)
    made: nn.Module = namespace["make"]()
    return made


def test_a_network_and_images_in_memory_give_the_bundles_of_the_command(
    tmp_path: Path, sets: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calibration, evaluation = sets
    model = network(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    words = ["--target", "onnx", *arguments_of({**STATED, **MEASURED})]
    data = ["--data", str(evaluation), "--calibration-data", str(calibration)]
    with without_fresh_processes():
        assert main(["deploy", "net:make", *data, *words, "--output", "typed", "-q"]) in (0, 1)
    stated = {**STATED, **MEASURED, "targets": ["onnx"], "calibration_data": Photos(calibration), "output": "called"}
    with without_fresh_processes():
        run = edgekit.deploy(model.train(), Photos(evaluation), name="net:make", quiet=True, **stated)
    assert model.training, "the caller's network is left as it was"
    files = {str(file.relative_to("typed")) for file in Path("typed").glob("*-*/model.*")}
    made = {Path(file).parent.name for file in files}
    assert made == {f"onnx-{precision}" for precision in PRECISIONS}
    assert {file: sha256_of(Path("called", file)) for file in files} == {
        file: sha256_of(Path("typed", file)) for file in files
    }
    check_run(run, evaluation, capsys)


def check_run(run: edgekit.Run, evaluation: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A run prints its answer, shows its page, opens its bundles, and is what other calls take."""
    assert run.path == Path("called").absolute()
    assert list(run) == list(run.bundles) == [f"onnx-{precision}" for precision in PRECISIONS]
    assert run.best is None, "no accuracy of random weights means anything"
    advice = replace(run.report.recommendation, bundle="onnx-int8")
    assert replace(run, report=replace(run.report, recommendation=advice)).best == run.bundles["onnx-int8"]
    assert run.passed is all(row.verdict == "pass" for row in run.report.results)
    assert {row.end_to_end_ms for row in run.report.results} == {None}, "there is no file to decode"
    assert "Ship" in str(run)
    assert run._repr_html_().startswith("<iframe srcdoc=")
    label, _ = run["onnx-int8"].classify(Photos(evaluation)[0][0])[0]
    assert label in CLASSES
    with pytest.raises(BundleError):
        run["caffe-int8"]
    assert len(edgekit.evaluate(run, Photos(evaluation), quiet=True).results) == 2
    bundles = [run.bundles["onnx-float"], run.path / "onnx-int8"]
    assert len(edgekit.benchmark(bundles, threads=1, iterations=3, quiet=True).results) == 2
    assert edgekit.compare(run, run.path).regressions == ()
    assert capsys.readouterr().out == ""


def test_quantize_takes_images_without_labels(tmp_path: Path, sets: tuple[Path, Path]) -> None:
    images = [photo for photo, _ in map(Photos(sets[0]).__getitem__, range(16))]
    bundle = edgekit.quantize(network(tmp_path), images, target="onnx", output=tmp_path / "run", quiet=True, **STATED)
    assert bundle.path == tmp_path / "run" / "onnx-int8"
    with edgekit.load(bundle.path) as session:
        assert session(np.zeros((1, 3, 32, 32), np.float32)).shape == (1, 4)


def test_what_is_wrong_is_named_as_the_caller_wrote_it(tmp_path: Path) -> None:
    with refuses(InputError, "max_drop is"):
        edgekit.deploy("resnet18", tmp_path, max_drop="much")
    with refuses(InputError, "'max_dorp'"):
        edgekit.deploy("resnet18", tmp_path, max_dorp=1)
    with refuses(InputError, "transform was given for the model 'resnet18'"):
        edgekit.deploy("resnet18", tmp_path, transform=object())
    with refuses(InputError, "data is a int"):
        edgekit.deploy("resnet18", 3)


@pytest.mark.parametrize("none", [{}, {"data": None, "output": None, "max_drop": None}])
def test_a_job_in_a_file_keeps_what_the_call_does_not_replace(
    none: dict[str, Any], tmp_path: Path, sets: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[Job] = []
    monkeypatch.setattr("edgekit.pipeline.deploy.deploy", lambda job, *_: taken.append(job))
    (tmp_path / "job.toml").write_text(f'model = "resnet18"\ndata = "{sets[1]}"\noutput = "out"\nmax_drop = 2\n')
    edgekit.deploy(tmp_path / "job.toml", quiet=True, **none)
    (job,) = taken
    assert (job.data, job.output, job.max_drop) == (sets[1], tmp_path / "out", 2)


def test_a_run_folder_stays_the_output_of_its_job(finished_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[Job] = []
    monkeypatch.setattr("edgekit.pipeline.deploy.deploy", lambda job, *_: taken.append(job))
    edgekit.deploy(finished_run, output=None, quiet=True)
    assert taken[0].output == finished_run


def test_quantize_takes_the_transform_of_its_images(
    tmp_path: Path, sets: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[Job] = []

    def build(job: Job, _: object) -> dict[str, object]:
        taken.append(job)
        return {"onnx-int8": object()}

    monkeypatch.setattr("edgekit.pipeline.builder.build_bundles", build)
    images: Any = Photos(sets[0])
    images.transform = object()
    edgekit.quantize(network(tmp_path), images, target="onnx", quiet=True)
    assert taken[0].model_options.transform is images.transform


@pytest.mark.parametrize(
    ("call", "option"),
    [
        (lambda **more: edgekit.quantize("resnet18", "photos", target="onnx", **more), {"precisions": ["float"]}),
        (lambda **more: edgekit.quantize("resnet18", "photos", target="onnx", **more), {"calibration_data": "other"}),
        (lambda **more: edgekit.quantize("resnet18", "photos", target="onnx", **more), {"targets": ["tflite"]}),
        (lambda **more: edgekit.evaluate("bundle", "photos", **more), {"recipe": "default"}),
        (lambda **more: edgekit.benchmark("bundle", **more), {"max_drop": 0.5}),
        (lambda **more: edgekit.push("bundle", "board", **more), {"warmup": 3}),
    ],
)
def test_functions_refuse_fields_that_they_do_not_use(call: Any, option: dict[str, Any]) -> None:
    with refuses(InputError, f"has no option '{next(iter(option))}'"):
        call(**option)


def test_an_interrupt_that_a_library_swallows_ends_a_call(
    tmp_path: Path, sets: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def swallow(*_: object) -> None:
        with suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr("edgekit.pipeline.deploy.deploy", swallow)
    with pytest.raises(KeyboardInterrupt):
        edgekit.deploy("resnet18", sets[1], output=tmp_path / "run", quiet=True)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_call_that_imports_torch_lets_its_threads_sleep(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the command does, so that other work on their cores doesn't hold up each operation."""
    monkeypatch.delenv(SLEEPING[0], raising=False)
    code = """
import os, sys
from edgekit import api
from edgekit.support.libraries import SLEEPING

class Finder:
    def find_spec(self, name, *_):
        if name == "torch":
            sys.exit(3 if os.environ.get(SLEEPING[0]) == SLEEPING[1] else 4)

sys.meta_path.insert(0, Finder())
with api.running(quiet=True):
    pass
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 3
    let_threads_sleep()
    assert SLEEPING[0] not in os.environ, "torch is here already"


def test_the_functions_show_the_fields_of_a_job() -> None:
    signature = inspect.signature(api.deploy)
    assert set(signature.parameters) >= {*declarations(), "model", "data", "transform", "quiet"}
    for name, option in declarations().items():
        meaning = f"If False, {option.help[0].lower()}{option.help[1:]}" if option.turns_off else option.help
        assert f"{name}: {meaning}" in str(api.deploy.__doc__)
