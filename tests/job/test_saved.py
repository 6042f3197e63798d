"""Jobs in files and run folders: what they keep, what options replace, and what commands take from them."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekit.cli.main import main
from edgekit.errors import InputError, UsageError
from edgekit.job import Job, declarations, fields_with_defaults
from edgekit.job.saved import job_of, kept, read_kept, run_of
from edgekit.measure.bundles import bundles_of
from edgekit.models.description import resolve_labels
from edgekit.models.loading import find_source
from edgekit.models.options import ModelOptions
from edgekit.support.run_folder import JOB
from tests.helpers.command_line import all_commands
from tests.helpers.refusals import refuses

ENTRIES = {
    "deploy": "edgekit.pipeline.deploy.deploy",
    "sensitivity": "edgekit.tuning.sensitivity.analyse",
    "benchmark": "edgekit.devices.remote.benchmark_devices",
    "evaluate": "edgekit.measure.evaluation.evaluate_bundles",
}
"""The function that each command calls after it has read its arguments."""


@pytest.fixture
def all_stated(tmp_path: Path, photos: Path, finished_run: Path) -> dict[str, Any]:
    """A value for every field of a job, none of which is the default."""
    (tmp_path / "labels.txt").write_text("cat\n")
    return {
        "data": photos,
        "weights": "random",
        "model_args": {"a": 1},
        "imgsz": (32, 48),
        "mean": (0.5,),
        "std": (0.25,),
        "interpolation": "bilinear",
        "crop_pct": 0.9,
        "crop_mode": "squash",
        "labels": tmp_path / "labels.txt",
        "task": "multi-label",
        "calibration_data": photos,
        "num_calibration_samples": 4,
        "calibration_list": finished_run / "calibration.json",
        "num_eval_samples": 5,
        "seed": 3,
        "targets": ["onnx"],
        "precisions": ["int8"],
        "scheme": "w8",
        "preprocessing": "fast",
        "input_dtype": "uint8",
        "recipe": "default",
        "device_class": "x86-64-v3",
        "force": True,
        "devices": ["local", "web"],
        "wheels": tmp_path,
        "web_runtime": tmp_path / "labels.txt",
        "web_network": "https",
        "threads": 2,
        "warmup": 6,
        "iterations": 7,
        "threshold": 0.7,
        "max_drop": 0.5,
        "min_agreement": 90.0,
        "min_speedup": 1.5,
        "repair": False,
        "output": tmp_path / "run",
        "thumbnails": False,
        "write_recipe": tmp_path / "recipe.toml",
    }


class Stopped(Exception):
    """Ends a command where its work would begin."""


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Any, ...]]:
    """A function that runs a command line as far as its work, and returns the arguments of that."""

    def run(command: str, *arguments: object) -> tuple[Any, ...]:
        taken: list[tuple[Any, ...]] = []

        def stop(*values: Any, **_: Any) -> None:
            taken.append(values)
            raise Stopped

        with monkeypatch.context() as patch:
            patch.setattr(ENTRIES[command], stop)
            with pytest.raises(Stopped):
                main([command, *map(str, arguments)])
        return taken[0]

    return run


@pytest.fixture
def run(finished_run: Path, tmp_path: Path) -> Path:
    """A copy of a finished run."""
    return Path(shutil.copytree(finished_run, tmp_path / "run"))


def test_a_run_is_its_job_again(called: Callable[..., Any], run: Path, job_arguments: list[str]) -> None:
    whole: Job = called("deploy", *job_arguments, "-o", run)[0]
    again: Job = called("deploy", run)[0]
    assert again == whole
    assert called(*again.command, "-o", run)[0] == whole, "reports show the whole job"


def test_options_replace_those_of_the_run(called: Callable[..., Any], run: Path, tmp_path: Path) -> None:
    before: Job = called("deploy", run)[0]
    more = ["--target", "onnx", "--max-drop", "0.5", "--seed", "0", "-o", tmp_path / "other"]
    options: Job = called("deploy", run, *more)[0]
    assert (options.targets, options.folder) == (("onnx",), tmp_path / "other")
    assert options.gates == replace(before.gates, max_drop=0.5, must_show_drop=True)
    same = {name: getattr(before, name) for name in ("targets", "output", "max_drop")}
    assert replace(options, **same) == before


def test_bundles_are_made_for_the_class_of_another_device(called: Callable[..., Any], run: Path) -> None:
    job = json.loads((run / JOB).read_text())
    job["stated"]["device_class"] = "raspberry-pi-4"
    (run / JOB).write_text(json.dumps(job))
    assert called("deploy", run)[0].device_class == "raspberry-pi-4"
    assert called("deploy", run, "--device", "ssh://pi@board")[0].device_class is None


def test_sensitivity_of_a_run(called: Callable[..., Any], run: Path) -> None:
    options: Job = called("sensitivity", run)[0]
    assert (options.folder, options.num_eval_samples) == (run, 20), "the run's images, as they are fewer"
    assert options.gates.max_drop == 100
    options = called("sensitivity", run, "--max-drop", "2", "--num-eval-samples", "7")[0]
    assert (options.gates.max_drop, options.num_eval_samples) == (2, 7)


def test_evaluate_and_benchmark_take_the_bundles_of_a_run(called: Callable[..., Any], run: Path, photos: Path) -> None:
    names = [f"{target}-{precision}" for target in ("openvino", "onnx", "tflite") for precision in ("float", "int8")]
    bundles = [run / name for name in names]
    assert called("evaluate", run, "--data", photos)[0] == bundles
    assert called("benchmark", run)[0] == bundles
    assert called("benchmark", bundles[0], run)[0] == [bundles[0], *bundles]
    for bundle in bundles:
        shutil.rmtree(bundle)
    with pytest.raises(InputError):
        bundles_of([run])


def test_only_bundles_of_the_report_are_those_of_a_run(run: Path) -> None:
    report = json.loads((run / "report.json").read_text())
    report["results"] = [row for row in report["results"] if row["target"] == "onnx"]
    (run / "report.json").write_text(json.dumps(report))
    assert bundles_of([run]) == [run / "onnx-float", run / "onnx-int8"], "the others are of an older job"


def test_a_run_with_bundles_of_two_networks(run: Path) -> None:
    manifest = json.loads((run / "onnx-float/manifest.json").read_text())
    manifest["provenance"]["model"]["weights_sha256"] = "0" * 64
    (run / "onnx-float/manifest.json").write_text(json.dumps(manifest))
    with refuses(InputError, "2 networks", "onnx-float"):
        bundles_of([run])


def test_a_factory_of_a_file_is_in_its_folder(tmp_path: Path, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        code = f"from torch import nn\ndef make(): return nn.Linear(1, {len(name)})"
        (tmp_path / name / "net_of_job.py").write_text(code)
        (tmp_path / name / "job.toml").write_text(f'model = "net_of_job:make"\ndata = "{photos}"\n')
    monkeypatch.chdir(tmp_path / "one")
    job = job_of("../other/job.toml", {})
    document, here = kept(job), kept(Job.of("net_of_job:make", {"data": photos}))
    assert document
    assert here
    assert document["model"] == job.model == f"{tmp_path}/one/../other/net_of_job:make"
    assert job.model_options.short_name == "net_of_job:make", "reports show no folders"
    assert here["model"] == f"{tmp_path}/one/net_of_job:make"
    for name, features in ((here["model"], 3), (job.model, 5), (here["model"], 3)):
        module: Any = find_source(ModelOptions(name)).load(ModelOptions(name), 0).module
        assert module.out_features == features, name


def test_a_name_with_a_slash_is_on_the_hub_unless_the_folder_is_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert job_of("microsoft/resnet-50", {}).model == "hf_hub:microsoft/resnet-50"
    (tmp_path / "runs").mkdir()
    with refuses(InputError, "'runs/resnet18' doesn't exist"):
        job_of("runs/resnet18", {})


def test_a_flag_of_a_run_is_turned_back(called: Callable[..., Any], run: Path) -> None:
    job = json.loads((run / JOB).read_text())
    job["stated"] |= {"repair": False, "force": True}
    (run / JOB).write_text(json.dumps(job))
    before, after = called("deploy", run)[0], called("deploy", run, "--repair", "--no-force")[0]
    assert (before.repair, before.force) == (False, True)
    assert (after.repair, after.force) == (True, False)


def test_values_of_numpy_and_labels_in_a_list_are_kept(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(photos.parent))
    stated = {
        "data": f"~/{photos.name}",
        "num_eval_samples": np.int64(100),
        "max_drop": np.float64(0.5),
        "mean": np.array([0.25, 0.5, 0.75]),
        "targets": {"onnx", "tflite"},
        "labels": ["cat", "dog"],
    }
    job = Job.of("net:make", stated)
    assert (job.data, job.num_eval_samples, job.max_drop) == (photos, 100, 0.5)
    assert (job.mean, job.targets, job.labels) == ((0.25, 0.5, 0.75), ("onnx", "tflite"), ("cat", "dog"))
    document = json.loads(json.dumps(kept(job)))
    assert Job.of("net:make", document["stated"]) == job
    assert resolve_labels(job.labels, 2) == ("cat", "dog")
    with refuses(UsageError, "the list of labels has 2 names", "3 classes"):
        resolve_labels(job.labels, 3)


def test_a_run_without_a_job(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As older versions made them."""
    (run / JOB).unlink()
    for command in ("deploy", "sensitivity"):
        assert main([command, str(run)]) == 2
        err = capsys.readouterr().err
        assert f"run '{run}' keeps no job" in err
        assert f"with all options and `--output {run}`" in err


@pytest.mark.parametrize("content", [b"{", b"[]", b'{"schema_version": 1, "model": "resnet18", "making": {}}'])
def test_a_job_that_is_damaged_or_of_another_version(
    run: Path, content: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    (run / JOB).write_bytes(content)
    assert main(["deploy", str(run)]) == 2
    assert f"the job of run '{run}' can't be read" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["weights", "data"])
def test_files_that_were_moved_are_named_with_the_option(
    called: Callable[..., Any], run: Path, tmp_path: Path, option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    job = json.loads((run / JOB).read_text())
    place, moved = job["stated"][option], str(tmp_path / "gone")
    job["stated"][option] = moved
    (run / JOB).write_text(json.dumps(job))
    assert main(["deploy", str(run)]) == 2
    err = capsys.readouterr().err
    assert f"has --{option} '{moved}', which is not there any more" in err
    assert f"Name its new place with `--{option} PATH`" in err
    options: Job = called("deploy", run, f"--{option}", place)[0]
    assert place in (str(options.data), options.weights)


@pytest.mark.parametrize("command", ["deploy", "sensitivity"])
def test_a_mistyped_run_folder(command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, str(tmp_path / "rnu")]) == 2
    assert f"'{tmp_path}/rnu' doesn't exist" in capsys.readouterr().err


def test_a_folder_that_is_the_output_is_no_argument(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in `edgekit deploy resnet18 -o resnet18`."""
    monkeypatch.chdir(run.parent)
    assert run_of("run", Path("run")) is None
    assert run_of("run", None) == Path("run")
    assert run_of("demo", None) is None
    assert run_of("resnet18", None) is None


def test_reports_do_not_contain_the_paths_of_the_job(
    run: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert str(photos) in (run / JOB).read_text()
    assert main(["report", str(run), "--card", str(run / "README.md"), "--json"]) == 0
    assert str(photos.parent) not in capsys.readouterr().out
    for file in run.glob("**/*.*"):
        if file.is_file() and ".edgekit" not in file.parts:
            assert str(photos.parent).encode() not in file.read_bytes(), file


def test_every_field_is_kept_and_stated(all_stated: dict[str, Any]) -> None:
    """In job.json, in a TOML file, and as the arguments of a command."""
    assert set(all_stated) == set(declarations())
    job = Job.of("net:make", all_stated)
    defaults = fields_with_defaults(declarations())
    at_default = [name for name, each in defaults.items() if getattr(job, name) == each.value]
    assert at_default == []
    document = json.loads(json.dumps(kept(job)))
    assert set(document["stated"]) == {*all_stated} - {"output", "write_recipe"}, "what it writes may be moved"
    written = {name: getattr(job, name) for name in ("output", "write_recipe")}
    assert replace(Job.of(document["model"], document["stated"]), **written) == job
    command = dict(all_commands())["deploy"]
    switches = {option for parameter in command.params for option in parameter.opts}
    assert {argument for argument in job.arguments if argument.startswith("--")} <= switches
    assert {flag for option in declarations().values() for flag in option.flags} <= switches
    assert job.arguments[0] == "net:make"


def test_a_job_in_a_toml_file(tmp_path: Path, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "labels.txt").write_text("cat\n")
    (tmp_path / "photos").symlink_to(photos)
    file = tmp_path / "job.toml"
    file.write_text('model = "net:make"\ndata = "photos"\nlabels = "labels.txt"\ntargets = ["onnx"]\nmax_drop = 0.5\n')
    monkeypatch.chdir(photos)
    job = job_of(str(file), {"max_drop": 1.0})
    assert (job.model, job.data, job.labels) == ("net:make", tmp_path / "photos", tmp_path / "labels.txt")
    assert (job.targets, job.max_drop) == (("onnx",), 1.0)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('data = "photos"', "names no model"),
        ("model = ", "can't be read"),
        ('model = "net"\nmax_drop = "much"', "max_drop in"),
        ('model = "net"\nmax_dorp = 1', "'max_dorp'"),
    ],
)
def test_a_toml_file_that_is_no_job(tmp_path: Path, text: str, problem: str) -> None:
    file = tmp_path / "job.toml"
    file.write_text(text)
    with refuses(InputError, problem):
        job_of(str(file), {})


def test_a_toml_file_that_does_not_exist(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["deploy", "gone.toml"]) == 2
    assert "'gone.toml' doesn't exist" in capsys.readouterr().err


def test_relative_paths_are_kept_as_absolute_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for file in ("best.pth", "saved/config.json", "photos/cat/1.png"):
        Path(file).parent.mkdir(parents=True, exist_ok=True)
        Path(file).touch()
    for name, kept_name in (
        ("saved", str(tmp_path / "saved")),
        ("best.pth", str(tmp_path / "best.pth")),
        ("photos", "photos"),
    ):
        document = kept(Job.of(name, {"weights": "best.pth", "data": Path("photos"), "output": Path("run")}))
        assert document is not None
        assert document["model"] == kept_name, "no model is called like a folder of images"
        assert document["stated"] == {"weights": str(tmp_path / "best.pth"), "data": str(tmp_path / "photos")}


def test_a_model_in_memory_is_not_kept(photos: Path) -> None:
    assert kept(Job.of(object(), {"data": photos})) is None


def test_whole_numbers_are_stated_without_a_fraction() -> None:
    job = Job.of("net:make", {"max_drop": 2.0, "min_speedup": 1.25, "model_args": {"act": "gelu"}})
    assert job.arguments == (
        "net:make", "--model-args", "act='gelu'", "--max-drop", "2", "--min-speedup", "1.25",
    )  # fmt: skip


def test_a_damaged_run_keeps_its_job(run: Path) -> None:
    (run / "report.json").unlink()
    assert read_kept(run).model == "convnextv2_atto"


def test_the_demo_without_its_classifier_has_no_class_names() -> None:
    assert Job.of("demo", {}).model_options.labels is not None
    assert Job.of("demo", {"task": "embedding"}).model_options.labels is None
