"""Parsing `--model-args`, and class names."""

import subprocess
import sys
from pathlib import Path

import pytest

from edgekit.errors import UsageError
from edgekit.models.description import resolve_labels
from edgekit.models.options import parse_model_args
from tests.helpers.refusals import refuses


def test_values_are_literals_split_outside_brackets() -> None:
    parsed = parse_model_args(
        "patch_size=2,num_classes=10,dims=(32,64,128,288),conv_mlp=False, act='a,b', x={'k': [1]}"
    )
    assert parsed == {
        "patch_size": 2,
        "num_classes": 10,
        "dims": (32, 64, 128, 288),
        "conv_mlp": False,
        "act": "a,b",
        "x": {"k": [1]},
    }
    assert parse_model_args("") == {}


@pytest.mark.parametrize(
    "text",
    ["a", "1", "a=", "a=1;b=2", "=1", "a=1)(b=2", "a=1),dict(b=2", "**{'a':1}", "a=\0", "a=" + "(" * 5000, "a=1#"],
)
def test_other_text_is_refused(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_model_args(text)
    assert caught.value.valid == "KEY=VALUE,KEY=VALUE"


def test_values_are_not_evaluated() -> None:
    with refuses(UsageError, "'a'", "open('x', 'w')"):
        parse_model_args("a=open('x','w')")
    with refuses(UsageError, "'pool'", "avg") as caught:
        parse_model_args("pool=avg")
    assert "pool='…'" in caught.value.fix
    assert not Path("x").exists()


def test_a_repeated_key_is_refused() -> None:
    with refuses(UsageError, "'a'"):
        parse_model_args("a=1,a=2")


def test_parsing_arguments_imports_no_torch() -> None:
    code = "import sys; from edgekit.models.options import parse_model_args as parse; parse('a=1')"
    subprocess.run([sys.executable, "-c", f"{code}; sys.exit('torch' in sys.modules)"], check=True)


def test_labels_come_from_the_file_from_imagenet_or_are_numbered(tmp_path: Path) -> None:
    file = tmp_path / "labels.txt"
    file.write_text("\ufeffcat\r\nwild dog\n\n", encoding="utf-8")
    assert resolve_labels(file, 2) == ("cat", "wild dog")
    imagenet = resolve_labels(None, 1000)
    assert len(imagenet) == 1000
    assert imagenet[1] == "goldfish"
    assert resolve_labels(None, 3) == ("class_0", "class_1", "class_2")


def test_labels_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "labels.txt"
    file.write_text("cat\ndog\n")
    with refuses(UsageError, "2 names", "10 classes"):
        resolve_labels(file, 10)
    file.write_text("cat\n\ndog\n")
    with refuses(UsageError, "line 2"):
        resolve_labels(file, 3)
    file.write_text("cat\u202egod\ndog\n", encoding="utf-8")
    with refuses(UsageError, "'cat"):
        resolve_labels(file, 2)  # the finished bundle could not be read
    file.write_bytes(b"\xff\xfe\x00")
    with refuses(UsageError, file) as caught:
        resolve_labels(file, 1)
    assert "UTF-8" in caught.value.valid
    with refuses(UsageError, "none.txt"):
        resolve_labels(tmp_path / "none.txt", 1)
    with refuses(UsageError, tmp_path):
        resolve_labels(tmp_path, 1)
