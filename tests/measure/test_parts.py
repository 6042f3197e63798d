"""Parts of an evaluation: joined they give what one process gives, or an error that says what to run."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from edgekit.cli.main import main
from edgekit.errors import EngineError
from edgekit.measure import accuracy
from tests.helpers.tiny import MakeBundle

PARTS = 3
RANDOM = {"model": {"weights": "random"}}
"""What a bundle says of its network, whose accuracy is not judged then."""


@pytest.fixture
def bundles(make_bundle: MakeBundle) -> list[str]:
    return [str(make_bundle(target, target, precision="float", provenance=RANDOM)) for target in ("onnx", "tflite")]


@pytest.fixture
def command(bundles: list[str], photos: Path) -> list[str]:
    return ["evaluate", *bundles, "--data", str(photos), "--threads", "1", "--json"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "parts"


def evaluated(command: list[str], capfd: Any, code: int = 0) -> Any:
    assert main(command) == code
    return json.loads(capfd.readouterr().out)


def evaluate_parts(command: list[str], folder: Path, capfd: Any, count: int = PARTS, code: int = 0) -> list[Any]:
    return [evaluate_part(command, number, count, folder, capfd, code) for number in range(1, count + 1)]


def evaluate_part(command: list[str], number: int, count: int, folder: Path, capfd: Any, code: int = 0) -> Any:
    return evaluated([*command, "--shard", f"{number}/{count}", "-o", str(folder)], capfd, code)


def refused(command: list[str], capfd: Any, *told: str) -> None:
    assert main(command) == 2
    text = " ".join(capfd.readouterr().err.split())
    assert "Traceback" not in text
    for each in told:
        assert each in text


def test_joined_parts_give_what_one_process_gives(command: list[str], folder: Path, capfd: Any) -> None:
    whole = evaluated([*command, "--max-drop", "50"], capfd)
    documents = evaluate_parts(command, folder, capfd)
    assert [each["evaluation"]["count"] for each in documents] == [13, 13, 14]
    assert documents[0]["part"] == str(folder / "part-1-of-3.json")
    assert documents[0]["results"] == [], "nothing is judged before the parts are joined"
    assert evaluated([*command, "--max-drop", "50", "--join", str(folder)], capfd) == whole


def test_a_selection_in_parts(command: list[str], folder: Path, capfd: Any) -> None:
    some = [*command, "--num-eval-samples", "20"]
    whole = evaluated(some, capfd)
    evaluate_parts(some, folder, capfd)
    assert evaluated([*some, "--join", str(folder)], capfd) == whole
    refused([*some, "--seed", "1", "--join", str(folder)], capfd, "of other images", "--seed")


def test_a_bundle_that_fails_and_images_that_cannot_be_read(
    command: list[str], photos: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    data = tmp_path / "data"
    shutil.copytree(photos, data)
    (data / "class_3" / "0.png").write_bytes(b"broken")
    shutil.copy(data / "class_4" / "0.png", data / "class_4" / "copy.png")
    command[command.index(str(photos))] = str(data)
    real = accuracy.answer

    def failing(shard: accuracy.Shard) -> Any:
        if shard.bundle.name == "tflite":
            raise EngineError("no memory")
        return real(shard)

    with monkeypatch.context() as patch:
        patch.setattr(accuracy, "answer", failing)
        whole = evaluated(command, capfd, code=1)
        assert whole["evaluation"]["unreadable"]
        assert [row["verdict"] for row in whole["results"]] == ["pass", "error"]
        documents = evaluate_parts(command, folder, capfd, code=1)
        assert [row["failure"]["message"] for row in documents[0]["results"]] == ["no memory"]
        assert evaluated([*command, "--join", str(folder)], capfd, code=1) == whole
    evaluate_parts(command, folder, capfd)
    assert evaluated([*command, "--join", str(folder)], capfd) == evaluated(command, capfd)


def test_a_part_that_was_killed_runs_again_and_a_complete_one_keeps_its_answers(
    command: list[str], folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    whole = evaluated(command, capfd)
    evaluate_part(command, 1, 2, folder, capfd)
    script = tmp_path / "killed.py"
    script.write_text(
        "import os, signal, sys\n"
        "from edgekit.cli.main import main\n"
        "from edgekit.measure import accuracy\n"
        "accuracy.answer = lambda shard: os.kill(os.getpid(), signal.SIGKILL)\n"
        "main(sys.argv[1:])\n"
    )
    arguments = [sys.executable, str(script), *command, "--shard", "2/2", "-o", str(folder)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    assert subprocess.run(arguments, env=environment, check=False).returncode == -signal.SIGKILL
    refused([*command, "--join", str(folder)], capfd, "1 are missing or damaged: 2", "--shard 2/2")
    evaluate_part(command, 2, 2, folder, capfd)
    monkeypatch.setattr("edgekit.measure.accuracy.answer", None)
    evaluate_part(command, 1, 2, folder, capfd)
    assert evaluated([*command, "--join", str(folder)], capfd) == whole


def test_parts_that_do_not_belong_together(command: list[str], folder: Path, capfd: Any) -> None:
    refused([*command, "--join", str(folder)], capfd, "has no parts", "--shard I/N --output FOLDER")
    evaluate_parts(command, folder, capfd)
    shutil.copy(folder / "part-1-of-3.json", folder / "part-2-of-3.json")
    refused([*command, "--join", str(folder)], capfd, "missing or damaged: 2", "--shard 2/3")
    (folder / "part-2-of-3.json").write_text("{")
    refused([*command, "--join", str(folder)], capfd, "missing or damaged: 2", "--shard 2/3")
    evaluate_part(command, 2, 3, folder, capfd)
    evaluate_part(command, 1, 2, folder, capfd)
    refused([*command, "--join", str(folder)], capfd, "has parts of 2 and of 3")


def test_parts_of_other_bundles_images_or_versions(
    command: list[str], photos: Path, folder: Path, tmp_path: Path, make_bundle: MakeBundle, capfd: Any
) -> None:
    evaluate_parts(command, folder, capfd)
    joined = [*command, "--join", str(folder)]
    other = make_bundle("onnx", "other", precision="int8", provenance=RANDOM)
    refused(["evaluate", str(other), *joined[2:]], capfd, "of other bundles", str(other), "--shard 1/3")
    data = tmp_path / "data"
    shutil.copytree(photos, data)
    elsewhere = [str(data) if each == str(photos) else each for each in joined]
    (data / "class_1" / "1.png").write_bytes((data / "class_1" / "2.png").read_bytes())
    refused(elsewhere, capfd, "'class_1/1.png' has another content")
    (data / "class_1" / "1.png").rename(data / "class_1" / "new.png")
    refused(elsewhere, capfd, "'class_1/new.png' is in none of them")
    evaluate_part([*command, "--threads", "2"], 3, 3, folder, capfd)
    refused(joined, capfd, "of other versions or --threads")


def test_parts_of_several_processors_are_joined_with_a_warning(command: list[str], folder: Path, capfd: Any) -> None:
    evaluate_parts(command, folder, capfd)
    file = folder / "part-2-of-3.json"
    part = json.loads(file.read_text())
    for bundle in part["bundles"]:
        bundle["inputs"]["processor"] = "Another One"
    file.write_text(json.dumps(part))
    assert main([*command, "--join", str(folder)]) == 0
    assert "different processors: " in " ".join(capfd.readouterr().err.split())


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--shard", "1/2"], "--shard with --output"),
        (["--shard", "1/2", "-o", "parts", "--max-drop", "1"], "without --join, --max-drop and --min-agreement"),
        (["--shard", "1/2", "-o", "parts", "--join", "parts"], "without --join, --max-drop and --min-agreement"),
        (["--shard", "1/41", "-o", "parts"], "at most 40 parts"),
        (["--join", "parts", "--workers", "2"], "--workers and --join were given together"),
    ],
)
def test_options_that_exclude_each_other(
    options: list[str], told: str, command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    refused([*command, *options], capfd, told)
    assert not (tmp_path / "parts").exists()


def test_a_part_has_its_share_of_the_images_in_their_order(command: list[str], folder: Path, capfd: Any) -> None:
    evaluate_part(command, 1, 1, folder, capfd)
    part = json.loads((folder / "part-1-of-1.json").read_text())
    assert len(part["images"]) == 40
    evaluate_part([*command, "--workers", "2"], 1, 2, folder, capfd)
    evaluate_part(command, 2, 2, folder, capfd)
    halves = [json.loads((folder / f"part-{number}-of-2.json").read_text()) for number in (1, 2)]
    assert halves[0]["images"] + halves[1]["images"] == part["images"]
