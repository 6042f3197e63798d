"""Soups: means, the greedy choice, the record, and input that is refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from edgekit.cli.main import main
from edgekit.errors import WeightsError
from edgekit.images.dataset import Dataset
from edgekit.images.selection import select
from edgekit.models.soup import (
    METADATA,
    HeldOut,
    SoupRecord,
    check_members,
    greedy,
    held_out_of,
    mean,
    read_record,
    save_soup,
)
from edgekit.report.document import to_json
from tests.helpers.refusals import refuses
from tests.helpers.tiny import TINY_MODEL

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(name: str, **tensors: torch.Tensor) -> Path:
        path = tmp_path / f"{name}.safetensors"
        save_file(tensors, path)
        return path

    return write


def test_the_mean_is_of_each_tensor_in_its_dtype(write: Write) -> None:
    one = write("one", w=torch.tensor([1.0, 2.0]), h=torch.tensor([1.0], dtype=torch.float16), n=torch.tensor([3]))
    two = write("two", w=torch.tensor([3.0, 6.0]), h=torch.tensor([2.0], dtype=torch.float16), n=torch.tensor([3]))
    soup = mean([one, two])
    assert soup["w"].tolist() == [2.0, 4.0]
    assert soup["h"].tolist() == [1.5]
    assert soup["h"].dtype == torch.float16
    assert soup["n"].tolist() == [3]


def test_the_mean_of_many_equals_torchs(write: Write) -> None:
    torch.manual_seed(0)
    values = [torch.randn(7, 5) for _ in range(9)]
    paths = [write(f"m{index}", w=value) for index, value in enumerate(values)]
    expected = torch.stack(values).double().mean(0).float()
    assert torch.equal(mean(paths)["w"], expected)


@pytest.mark.parametrize(
    ("other", "difference"),
    [
        ({"w": torch.zeros(3)}, r"w: F32 \[2\] and F32 \[3\]"),
        ({"w": torch.zeros(2, dtype=torch.float16)}, r"w: F32 \[2\] and F16 \[2\]"),
        ({"v": torch.zeros(2)}, r"w: F32 \[2\] and absent"),
    ],
)
def test_members_that_differ_are_refused_by_their_headers(
    write: Write, other: dict[str, torch.Tensor], difference: str
) -> None:
    with pytest.raises(WeightsError, match=difference):
        check_members([write("one", w=torch.zeros(2)), write("two", **other)])


def test_integers_that_differ_and_values_that_are_not_finite_are_refused(write: Write) -> None:
    one = write("one", index=torch.tensor([0, 1]))
    two = write("two", index=torch.tensor([1, 0]))
    with refuses(WeightsError, "'index'"):
        mean([one, two])
    with refuses(WeightsError, "'w'", "bad", "NaN"):
        mean([write("good", w=torch.zeros(1)), write("bad", w=torch.tensor([float("nan")]))])


def test_numbers_of_batches_may_differ(write: Write) -> None:
    paths = [write(f"m{count}", **{"bn.num_batches_tracked": torch.tensor(count)}) for count in (5, 9)]
    assert mean(paths)["bn.num_batches_tracked"].item() == 5


def test_greedy_tries_the_best_first_and_keeps_only_improvements(write: Write) -> None:
    """The accuracy falls with the distance of the mean from 2, so that the expected choice follows by hand."""
    values = {"a": 1.0, "b": 4.0, "c": 2.5, "d": 2.5}
    paths = [write(name, w=torch.tensor([value])) for name, value in values.items()]

    def accuracy(state: Any) -> float:
        return 1 - abs(float(state["w"][0]) - 2.0) / 10

    alone = {path: 1 - abs(value - 2) / 10 for path, value in zip(paths, values.values(), strict=True)}
    members, tried = greedy(alone, accuracy)
    # It starts with c (0.95). d: (2.5 + 2.5) / 2 = 2.5 is no better; a: (2.5 + 1) / 2 = 1.75 is; b: (2.5 + 1 + 4) / 3 =
    # 2.5 isn't.
    assert [path.stem for path in members] == ["c", "a"]
    assert [path.stem for path in tried] == ["c", "d", "a", "b"]
    assert [round(top1, 6) for top1 in tried.values()] == [0.95, 0.95, 0.975, 0.95]


def test_a_soup_is_distinguished_from_other_files(write: Write, tmp_path: Path) -> None:
    held_out = HeldOut(count=2, sha256="0" * 64, seed=0, images=("a", "b"))
    record = SoupRecord(edgekit="0.1.0", method="greedy", members=(), held_out=held_out)
    save_soup({"w": torch.zeros(1)}, tmp_path / "soup.safetensors", record)
    assert read_record(tmp_path / "soup.safetensors") == record
    assert held_out_of(str(tmp_path / "soup.safetensors")) == ("a", "b")
    assert read_record(write("plain", w=torch.zeros(1))) is None
    (tmp_path / "broken.safetensors").write_bytes(b"no")
    assert read_record(tmp_path / "broken.safetensors") is None
    assert held_out_of("random") == held_out_of(None) == ()


@pytest.fixture
def fine_tunes(tiny_convnext: Any, tmp_path: Path) -> list[Path]:
    """Three checkpoints near the tiny network's weights."""
    state = tiny_convnext.module.state_dict()
    paths = []
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        near = {name: v + 0.02 * torch.randn(v.shape, generator=generator) for name, v in state.items()}
        paths.append(tmp_path / f"fine{seed}.safetensors")
        save_file(near, paths[-1])
    return paths


def test_greedy_soup_at_the_command_line_deploys_without_the_images_that_chose_it(
    fine_tunes: list[Path], photos: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    soup = tmp_path / "soup.safetensors"
    model = ["--model", *TINY_MODEL, "--data", str(photos), "--num-held-out-samples", "10"]
    assert main(["soup", *map(str, fine_tunes), *model, "-o", str(soup), "--json", "--quiet"]) == 0
    record = json.loads(capfd.readouterr().out)
    assert record["method"] == "greedy"
    assert record["held_out"]["count"] == 10
    assert record["final_count"] == 30
    top1 = [member["held_out_top1"] for member in record["members"]]
    assert top1 == sorted(top1, reverse=True)
    accuracy = record["accuracy"]
    assert accuracy["greedy"]["held_out_top1"] >= accuracy["best_single"]["held_out_top1"] == top1[0]
    kept_record = read_record(soup)
    assert kept_record is not None
    assert json.loads(to_json(kept_record)) == record
    kept = [
        path
        for path in fine_tunes
        if any(member["kept"] and member["file"] == path.name for member in record["members"])
    ]
    for name, value in load_file(soup).items():
        np.testing.assert_allclose(value, sum(load_file(path)[name].double() for path in kept) / len(kept), rtol=1e-6)

    counts = ["--num-calibration-samples", "5", "--iterations", "1", "--min-speedup", "0", "--max-drop", "100"]
    run = ["deploy", *TINY_MODEL, "--weights", str(soup), "--data", str(photos), "--target", "onnx", *counts]
    assert main([*run, "-o", str(tmp_path / "run"), "--quiet", "--dry-run", "--json"]) == 0
    dataset = Dataset.open(photos, [f"class_{index}" for index in range(10)])
    used = {*select(dataset, 5, 0).hashes, *record["held_out"]["images"]}
    assert json.loads(capfd.readouterr().out)["evaluation_images"] == 40 - len(used)


def test_uniform_soup_needs_no_images(fine_tunes: list[Path], tmp_path: Path) -> None:
    soup = tmp_path / "soup.safetensors"
    assert main(["soup", *map(str, fine_tunes), "-o", str(soup), "--quiet"]) == 0
    record = read_record(soup)
    assert record is not None
    assert [member.kept for member in record.members] == [True] * 3
    assert all(len(member.sha256) == 64 for member in record.members)
    assert (record.accuracy, record.held_out, record.final_count) == (None, None, None)
    assert METADATA == "edgekit.soup"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{0}", "-o", "{out}"], "two or more"),
        (["{0}", "{0}", "-o", "{out}"], "List each checkpoint once"),
        (["{0}", "{1}", "-o", "{0}"], "is one of the soup's checkpoints"),
        (["{0}", "{1}", "-o", "soup.pth"], "soup.pth"),
        (["{0}", "{1}"], "--output FILE"),
        (["{0}", "{1}", "-o", "{out}", "--method", "greedy"], "Add `--model NAME` and `--data PATH`"),
        (["{0}", "{1}", "-o", "{out}", "--data", "{photos}"], "Add `--model NAME`"),
        (["{0}", "{1}", "-o", "{out}", "--model", "resnet18"], "only one of --model and --data"),
        (["{0}", "model.pth", "-o", "{out}"], "'model.pth' is not a .safetensors file"),
        (["{0}", "none.safetensors", "-o", "{out}"], "'none.safetensors' doesn't exist"),
    ],
)
def test_bad_input_is_refused_and_nothing_written(
    fine_tunes: list[Path],
    photos: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    names = {"out": tmp_path / "out.safetensors", "photos": photos}
    before = sorted(tmp_path.iterdir())
    assert main(["soup", *(argument.format(*fine_tunes, **names) for argument in arguments), "--quiet"]) == 2
    assert message in capsys.readouterr().err
    assert sorted(tmp_path.iterdir()) == before


def test_the_record_of_an_earlier_soup_is_read(write: Write, tmp_path: Path) -> None:
    """Records were once written without the fields that can be null."""
    member = {"file": "one.safetensors", "kept": True, "sha256": "0" * 64}
    text = json.dumps({"schema_version": 1, "edgekit": "0.1.0", "method": "uniform", "members": [member]})
    save_file({"w": torch.zeros(1)}, tmp_path / "soup.safetensors", metadata={METADATA: text})
    record = read_record(tmp_path / "soup.safetensors")
    assert record is not None
    assert record.members[0].file == "one.safetensors"
    assert held_out_of(str(tmp_path / "soup.safetensors")) == ()
