"""A run folder in place of a job's options: what it keeps, what options replace, and what commands take from it."""

import json
import shutil
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from edgekit.cli.groups import Calibrating, Making, Measuring, Source, Wanted
from edgekit.cli.main import main
from edgekit.cli.saved_job import GROUPS, GivenJob, _plain, bundles_of, read_job, run_of
from edgekit.errors import InputError
from edgekit.measure.settings import Gates
from edgekit.pipeline.options import Options
from edgekit.support.run_folder import JOB
from tests.helpers.command_line import all_commands

ENTRIES = {
    "deploy": "edgekit.pipeline.deploy.deploy",
    "sensitivity": "edgekit.tuning.analysis.analyse",
    "tune": "edgekit.tuning.search.tune",
    "benchmark": "edgekit.devices.benchmark.benchmark_devices",
    "evaluate": "edgekit.measure.evaluate_bundles.evaluate_bundles",
}
"""The function that each command calls after it has read its arguments."""
ALL = GivenJob(
    model="net:make",
    making=Making(
        weights="random", data=Path("/a"), target=["onnx"], device_class="x86-64-v3", recipe="default", seed=3
    ),
    calibrating=Calibrating(Path("/b"), 4, Path("/c")),
    measuring=Measuring(5, ["local", "web"], True, Path("/e"), "https", True, 2, 6, 7, 0.5, 1.5, True),
    source=Source("a=1", "32", "0.5", "0.6", "bicubic", 0.9, Path("/d")),
    wanted=Wanted(["int8"], "w8", True, True),
)
"""A job in which no option is at its default, except for the output."""


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
    whole: Options = called("deploy", *job_arguments, "-o", run)[0]
    for arguments in (["--again", run], [run], ["--again", run, "-o", run]):
        options: Options = called("deploy", *arguments)[0]
        assert replace(options, command=whole.command) == whole
        again: Options = called(*options.command, "-o", run)[0]
        assert replace(again, command=whole.command) == whole, "reports show the whole job"


def test_options_replace_those_of_the_run(called: Callable[..., Any], run: Path, tmp_path: Path) -> None:
    before: Options = called("deploy", run)[0]
    more = ["--target", "onnx", "--max-drop", "0.5", "--seed", "0", "-o", tmp_path / "other"]
    options: Options = called("deploy", run, *more)[0]
    assert (options.targets, options.folder) == (("onnx",), tmp_path / "other")
    assert options.gates == replace(before.gates, max_drop=0.5, must_show_drop=True)
    same = {name: getattr(before, name) for name in ("targets", "output", "gates", "command", "as_given")}
    assert replace(options, **same) == before


def test_bundles_are_made_for_the_class_of_another_device(called: Callable[..., Any], run: Path) -> None:
    job = json.loads((run / JOB).read_text())
    job["making"]["device_class"] = "raspberry-pi-4"
    (run / JOB).write_text(json.dumps(job))
    assert called("deploy", run)[0].device_class == "raspberry-pi-4"
    assert called("deploy", run, "--device", "ssh://pi@board")[0].device_class is None


def test_sensitivity_of_a_run(called: Callable[..., Any], run: Path) -> None:
    options: Options = called("sensitivity", run)[0]
    assert (options.folder, options.num_eval_samples) == (run, 20), "the run's images, as they are fewer"
    assert options.gates.max_drop == 100
    options = called("sensitivity", run, "--max-drop", "2", "--num-eval-samples", "7")[0]
    assert (options.gates.max_drop, options.num_eval_samples) == (2, 7)


def test_tune_splits_the_images_of_a_run(called: Callable[..., Any], run: Path) -> None:
    options, search, _ = called("tune", run, "--max-drop", "0.5")
    assert options.folder == run.with_name("run-tuned")
    assert options.gates == Gates(0.5, True, 0.0, False)
    assert (search.num_tuning_samples, options.num_eval_samples) == (10, 10)
    assert options.as_given is None, "a search is another job than its result, whose images are those held out"
    options, search, _ = called("tune", run, "--num-tuning-samples", "8")
    assert (search.num_tuning_samples, options.num_eval_samples) == (8, None)


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


def test_a_run_without_a_job(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As older versions made them."""
    (run / JOB).unlink()
    for command in ("deploy", "sensitivity", "tune"):
        assert main([command, str(run)]) == 2
        err = capsys.readouterr().err
        assert f"run '{run}' keeps no job" in err
        assert f"with all options and `--output {run}`" in err


@pytest.mark.parametrize("content", [b"{", b"[]", b'{"schema_version": 2, "model": "resnet18", "making": {}}'])
def test_a_job_that_is_damaged_or_of_another_version(
    run: Path, content: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    (run / JOB).write_bytes(content)
    assert main(["deploy", "--again", str(run)]) == 2
    assert f"the job of run '{run}' can't be read" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["weights", "data"])
def test_files_that_were_moved_are_named_with_the_option(
    called: Callable[..., Any], run: Path, tmp_path: Path, option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    job = json.loads((run / JOB).read_text())
    place, moved = job["making"][option], str(tmp_path / "gone")
    job["making"][option] = moved
    (run / JOB).write_text(json.dumps(job))
    assert main(["deploy", str(run)]) == 2
    err = capsys.readouterr().err
    assert f"has --{option} '{moved}', which is not there any more" in err
    assert f"Name its new place with `--{option} PATH`" in err
    options: Options = called("deploy", run, f"--{option}", place)[0]
    assert place in (str(options.data), options.model.weights)


@pytest.mark.parametrize("command", ["deploy", "sensitivity", "tune"])
def test_a_mistyped_run_folder(command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, str(tmp_path / "rnu")]) == 2
    assert f"'{tmp_path}/rnu' doesn't exist" in capsys.readouterr().err


def test_again_needs_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["deploy", "--again", str(tmp_path), "--data", str(tmp_path)]) == 2
    assert f"--again needs a run folder, and '{tmp_path}' is none" in capsys.readouterr().err


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


def test_every_option_is_kept() -> None:
    for name in GROUPS:
        group = getattr(ALL, name)
        at_default = [each.name for each in fields(group) if getattr(group, each.name) == each.default]
        assert at_default == (["output"] if name == "making" else [])
    kept = msgspec.convert(json.loads(json.dumps(_plain(ALL))), GivenJob, dec_hook=lambda kind, value: kind(value))
    assert kept == ALL


def test_relative_paths_are_kept_as_absolute_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for file in ("best.pth", "saved/config.json", "photos/cat/1.png"):
        Path(file).parent.mkdir(parents=True, exist_ok=True)
        Path(file).touch()
    given = replace(ALL, making=Making(weights="best.pth", data=Path("photos.zip/val"), output=Path("run")))
    for name, kept in (
        ("saved", str(tmp_path / "saved")),
        ("best.pth", str(tmp_path / "best.pth")),
        ("photos", "photos"),
    ):
        assert _plain(replace(given, model=name))["model"] == kept, "no model is called like a folder of images"
    making = _plain(given)["making"]
    assert making["weights"] == str(tmp_path / "best.pth")
    assert making["data"] == str(tmp_path / "photos.zip" / "val")
    assert making["output"] is None, "it is the folder, which may be moved"


def test_the_arguments_of_a_job_are_those_of_the_command() -> None:
    parameters = dict(all_commands())["deploy"].params
    options = {option for parameter in parameters for option in parameter.opts}
    assert {argument for argument in ALL.arguments if argument.startswith("--")} <= options
    assert ALL.arguments[:3] == ("net:make", "--weights", "random")


@pytest.mark.parametrize("text", ["v2.0", "photos.0", "0.0", "1.0"])
def test_texts_are_stated_as_they_were_given(text: str) -> None:
    job = GivenJob(model="net:make", making=Making(weights=text, data=Path(text), target=[text], recipe=text))
    assert job.arguments == ("net:make", "--weights", text, "--data", text, "--target", text, "--recipe", text)


def test_whole_numbers_are_stated_without_a_fraction() -> None:
    job = GivenJob(model="net:make", making=Making(), measuring=Measuring(max_drop=2.0, min_speedup=1.25))
    assert job.arguments == ("net:make", "--max-drop", "2", "--min-speedup", "1.25")


def test_a_damaged_run_keeps_its_job(run: Path) -> None:
    (run / "report.json").unlink()
    assert read_job(run).model == "convnextv2_atto"
