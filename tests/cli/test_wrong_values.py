"""Every option of every command, with wrong values: exit code 2, an error that names what is valid, nothing written.

The test walks the Typer application. An option that takes a value and has no row in `WRONG` makes it fail.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from edgekit.cli.main import main
from edgekit.config.recipes import list_recipes
from edgekit.config.runtimes import CROP_MODES, INTERPOLATIONS, RUNTIMES, TASKS, DeviceClass
from tests.helpers.command_line import all_commands


@dataclass(frozen=True)
class Wrong:
    """Values that an option must refuse, and what its error must contain."""

    values: tuple[str, ...]
    names: tuple[str, ...]


def number(*values: str, lowest: str, highest: str = "", kind: str = "a whole number") -> list[Wrong]:
    """What an option for a number must refuse: text, not a number, nothing, and these values beyond its bounds."""
    return [Wrong(("many", "", "nan", *values), (kind, lowest, highest))]


def text(*values: str, names: Collection[str]) -> list[Wrong]:
    """What any other option must refuse: nothing, and these values."""
    return [Wrong(("", *values), tuple(names))]


def tables(values: Collection[str], names: Collection[str], keys: Collection[str]) -> list[Wrong]:
    """What an option for a name or a TOML file must refuse: these names, and a file with a wrong key."""
    return [*text(*values, names=names), Wrong(("wrong.toml",), tuple(keys))]


IMAGES = ("folder", "zip")
FILES = ("a file in an existing folder",)
WRONG: dict[str, list[Wrong]] = {
    "--weights": text("gone.safetensors", "images", names=(".safetensors", "random")),
    "--model-args": [Wrong(("depths", "=1", "a=b=c"), ("num_classes=10",))],  # nothing is valid
    "--imgsz": text("big", "0", "-3", "1x2x3", "5000", "224x", names=("from 1 to 4096", "HEIGHTxWIDTH")),
    "--mean": text("0.5,0.5", "a,b,c", "nan,0,0", "inf,0,0", names=("three numbers", "0.485,0.456,0.406")),
    "--std": text("1,1", "0,1,1", "-1,1,1", "nan,1,1", names=("three numbers above 0", "0.229,0.224,0.225")),
    "--interpolation": text("cubist", "BICUBIC", names=INTERPOLATIONS),
    "--crop-pct": number("0", "1.5", "-1", lowest="0.1", highest="1", kind="a number"),
    "--crop-mode": text("stretch", "Center", names=CROP_MODES),
    "--labels": text("gone.txt", "images", "binary", names=("one class name per line",)),
    "--data": text("gone", "notes.txt", names=IMAGES),
    "--calibration-data": text("gone", "notes.txt", names=IMAGES),
    "--calibration-list": text("gone.json", "notes.txt", "images", names=("calibration.json",)),
    "--num-calibration-samples": number("0", "-1", "1.5", lowest="1"),
    "--num-eval-samples": number("0", "-1", "1.5", lowest="1"),
    "--num-held-out-samples": number("0", "-1", lowest="1"),
    "--memory": number("0", "-1", lowest="0.1", kind="a number"),
    "--seed": [*number("-1", "0.5", lowest="0"), Wrong((str(2**63),), ("from 0 to 9223372036854775807",))],
    "--target": text("tflit", "ONNX", names=tuple(RUNTIMES)),
    "--device-class": tables(("raspberry-pi-6", "gone.toml"), DeviceClass.listed(), ("processor", "cores")),
    "--recipe": tables(("convnextv3", "gone.toml"), list_recipes(), ("estimator", "architectures")),
    "--precision": text("banana", "INT8", names=("float", "int8")),
    "--scheme": text("w4", "W8", names=("w8a8", "w8")),
    "--preprocessing": text("quick", "Fast", names=("exact", "fast", "auto")),
    "--input-dtype": text("int8", "UINT8", names=("float32", "uint8")),
    "--task": text("regression", "Multi-Label", names=TASKS),
    "--device": [
        *text("pi5", names=("local", "ssh://USER@HOST")),
        Wrong(("ssh://", "ssh://a b"), ("ssh://USER@HOST",)),
    ],
    "--wheels": text("gone", "notes.txt", names=("a folder with wheels",)),
    "--web-runtime": text("gone.tgz", "images", names=("Add `--",)),
    "--web-network": text("ftp", "HTTPS", names=("http", "https")),
    "--threads": number("0", "-2", "1025", lowest="1", highest="1024"),
    "--warmup": number("-1", "1.5", lowest="0"),
    "--iterations": number("0", "-1", lowest="1"),
    "--sustain": text("0", "ten", "25h", "nan", "-5", names=("1s to 24h", "1h30m")),
    "--camera": text(
        "1080p", "1920", "1920x", "16x1080", "1920x1080x3", "1920x9999", names=("WIDTHxHEIGHT", "1920x1080")
    ),
    "--streams": number("0", "-1", "257", lowest="1", highest="256"),
    "--max-drop": number("-1", "101", "inf", lowest="0", highest="100", kind="a number"),
    "--threshold": number("-0.1", "1.1", "nan", lowest="0", highest="1", kind="a number"),
    "--min-agreement": number("-1", "101", "inf", lowest="0", highest="100", kind="a number"),
    "--min-speedup": number("-1", "inf", lowest="0", highest="1000", kind="a number"),
    "--max-slowdown": number("-1", "inf", lowest="0", highest="1000", kind="a number"),
    "--max-p99": number("-1", "inf", lowest="0", highest="3600000", kind="a number"),
    "--max-p50": number("-1", "inf", lowest="0", highest="3600000", kind="a number"),
    "--name": text("../door", ".", "a b", names=("letters, digits",)),
    "--to": text("newer", "12ab", "12AB34", names=("6 to 64", "0-9 and a-f")),
    "--canary": number("-1", "1.5", lowest="0"),
    "--parallel": number("0", "-1", "65", lowest="1", highest="64"),
    "--reference": text("gone", "notes.txt", names=("a bundle",)),
    "--workers": number("0", "-1", "1025", lowest="1", highest="1024"),
    "--scheduler": text("here", "tcp://", "http://host:1", "host:port", names=("tcp://HOST:8786",)),
    "--shard": text("0/4", "5/4", "3", "1/0", "-1/4", "half", names=("I/N", "3/64")),
    "--join": text(names=()),
    "--top": number("0", "-1", lowest="1"),
    "--method": text("best", "Greedy", names=("uniform", "greedy")),
    "--model": text("convnextv2_ato", names=("convnextv2_atto",)),
    "--ssh-config": text("gone", "images", names=("file",)),
    "--key": text("gone", "notes.txt", "images", names=("a PEM file", "P-256")),
    "--trust": text("gone", "notes.txt", "images", names=("a PEM file", "P-256")),
    "--junit": text("images", "gone/junit.xml", "notes.txt/junit.xml", "/dev/null", names=FILES),
    "--summary": text("images", "gone/summary.md", "notes.txt/summary.md", "/dev/null", names=FILES),
    "--write-recipe": text("images", "gone/recipe.toml", "notes.txt/recipe.toml", "/dev/null", names=FILES),
    "--card": text("images", "gone/README.md", "notes.txt/README.md", "/dev/null", names=FILES),
    "--bom": text("images", "gone/bom.json", "notes.txt/bom.json", "/dev/null", names=FILES),
    "--chart": text("images", "gone/chart.svg", "notes.txt/chart.svg", "/dev/null", names=FILES),
    "--output": text("notes.txt", "notes.txt/run", "images", names=("--output",)),
}
OTHERS = {
    ("devices add", "--device-class"): text("raspberry-pi-6", "wrong.toml", names=DeviceClass.listed()),
    ("devices add", "--web-network"): [
        *text("ftp", names=("http", "https")),
        *text("http", names=("machine over SSH",)),
    ],
    ("devices add", "--web-runtime"): text("gone.tgz", names=("npm pack",)),
}
"""Values of options that mean less in one command."""
NEED_TORCH = ("--model",)
"""Options whose valid values only timm knows."""
JOB = ["convnextv2_atto", "--weights", "random", "--data", "images", "--target", "onnx"]
COMMANDS = {
    "deploy": JOB,
    "demo": [],
    "quantize": JOB,
    "compile": JOB,
    "evaluate": ["bundle", "--data", "images"],
    "benchmark": ["bundle"],
    "inspect": ["bundle"],
    "report": ["images"],
    "compare": ["images", "images"],
    "classify": ["bundle", "image.png"],
    "plan": ["convnextv2_atto"],
    "targets": [],
    "soup": ["a.safetensors", "b.safetensors", "--output", "soup.safetensors", "--data", "images"],
    "sign": ["bundle"],
    "verify": ["bundle"],
    "sensitivity": JOB,
    "push": ["bundle", "pi5"],
    "rollback": ["pi5"],
    "devices add": ["pi5", "ssh://pi"],
}
"""Arguments with which a command would begin its work, or fail for want of a bundle."""


def options() -> Iterator[tuple[str, str]]:
    """Each command with each of its options that takes a value, by the option's first name."""
    for name, command in all_commands():
        for option in command.params:
            if option.param_type_name == "option" and not option.is_flag:
                yield name, next(each for each in option.opts if each.startswith("--"))


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with images, files of the wrong kind, and two members of a soup."""
    from PIL import Image
    from safetensors.numpy import save_file

    folder = tmp_path / "images" / "cat"
    folder.mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(folder / "0.png")
    (tmp_path / "notes.txt").write_text("no zip, no JSON, no database")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\xff")
    (tmp_path / "wrong.toml").write_text("nonsense = 1\n")
    for name in "ab":
        save_file({}, tmp_path / f"{name}.safetensors")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EDGEKIT_DEVICES_FILE", str(tmp_path / "devices.toml"))
    return tmp_path


@pytest.fixture
def no_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail the test where a command would import torch."""

    def refuse(extra: str) -> None:
        raise AssertionError("the value was not refused before torch is imported")

    monkeypatch.setattr("edgekit.support.progress.needs", refuse)


def contents(folder: Path) -> dict[str, bytes | None]:
    """Every file below a folder, by its path."""
    return {str(path): path.read_bytes() if path.is_file() else None for path in sorted(folder.rglob("*"))}


@pytest.mark.parametrize(("command", "option"), list(options()))
def test_a_wrong_value_is_refused(
    command: str, option: str, place: Path, request: pytest.FixtureRequest, capfd: pytest.CaptureFixture[str]
) -> None:
    before = contents(place)
    if option not in NEED_TORCH:
        request.getfixturevalue("no_torch")
    for value, names in [
        (value, wrong.names) for wrong in OTHERS.get((command, option), WRONG[option]) for value in wrong.values
    ]:
        assert main([*command.split(), *COMMANDS[command], option, value]) == 2, value
        out, err = capfd.readouterr()
        assert out == "", value
        assert "Traceback" not in err, value
        assert "edgekit: error: " in err, value
        if value:
            assert [name for name in names if name not in err] == [], (value, err)
        else:
            assert f"{option} is empty" in err
        assert option in err or value in err
    assert contents(place) == before


def test_the_table_has_no_option_that_no_command_has() -> None:
    assert set(WRONG) == {option for _, option in options()}


@pytest.mark.parametrize("command", ["deploy", "demo", "quantize"])
def test_a_scheme_that_a_runtime_cannot_compile_is_refused(
    command: str, place: Path, no_torch: None, capfd: pytest.CaptureFixture[str]
) -> None:
    arguments = [*COMMANDS[command], "--target", "tflite", "--scheme", "w8"]
    assert main([command, *arguments]) == 2
    err = capfd.readouterr().err
    assert "LiteRT" in err
    assert "w8a8" in err
