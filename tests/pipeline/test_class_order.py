"""The order of the classes where only the folders' names tell it: what the float network's answers show."""

import colorsys
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from edgekit.errors import UsageError
from edgekit.job import Job
from edgekit.models.options import ModelOptions
from edgekit.pipeline.deploy import deploy
from edgekit.report.answer import caption
from edgekit.report.document import Report
from edgekit.runtime.bundle import read_bundle
from edgekit.support.progress import Reporter
from tests.helpers import fake_runtime

SIDE, EACH = 16, 16
NUMBERS = [str(number) for number in range(20)]
NATURAL = (NUMBERS, ["cat", "dog", "item2", "item10"], ["ape", "Bear", "cat"])


class NearestColour(nn.Module):
    """The classifier [N,3,16,16] -> [N,classes] that finds the nearest of as many hues."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        colours = torch.tensor([colour(place, classes) for place in range(classes)])
        self.head = nn.Conv2d(3, classes, 1)
        with torch.no_grad():
            self.head.weight.copy_(200 * colours[..., None, None])
            self.head.bias.copy_(-100 * colours.square().sum(1))  # type: ignore[union-attr]

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(x).mean((2, 3))
        return logits


def colour(place: int, classes: int) -> tuple[float, float, float]:
    return colorsys.hsv_to_rgb(place / classes, 1, 0.8)


def photos(folder: Path, names: Sequence[str]) -> Path:
    """Noisy images of a hue for each class; `names` are in the order of the network's outputs."""
    random = np.random.default_rng(0)
    for place, name in enumerate(names):
        (folder / name).mkdir(parents=True)
        for index in range(EACH):
            pixels = random.normal(255 * np.array(colour(place, len(names))), 3, (SIDE, SIDE, 3)).clip(0, 255)
            Image.fromarray(pixels.astype(np.uint8)).save(folder / name / f"{index}.png")
    return folder


@pytest.fixture(autouse=True)
def fake() -> Iterator[None]:
    with fake_runtime.added():
        yield


def report_of(data: Path, output: Path, classes: int, labels: Path | None = None) -> Report:
    options = ModelOptions(
        "colours", module=NearestColour(classes), imgsz=SIDE, mean=(0, 0, 0), std=(1, 1, 1), labels=labels
    )
    timing = {"warmup": 0, "iterations": 3, "threads": 1, "min_speedup": 0}
    job = Job.of(options, {"data": data, "output": output, "targets": ("fake",), "labels": labels, **timing})
    return deploy(job, Reporter(quiet=True))


@pytest.mark.parametrize("names", NATURAL)
def test_a_network_that_knows_the_natural_order(tmp_path: Path, names: list[str]) -> None:
    run = tmp_path / "run"
    report = report_of(photos(tmp_path / "photos", names), run, len(names))
    assert report.reference.value == 1
    assert report.evaluation.classes is not None
    assert [each.label for each in report.evaluation.classes] == names
    assert report.model.class_order == "natural"
    assert "natural order" in caption(report)
    for name in ("fake-float", "fake-int8"):
        bundle = read_bundle(run / name)
        assert list(bundle.labels) == names
        assert bundle.manifest.recorded("class_order") == "natural"
    assert report_of(tmp_path / "photos", run, len(names)).reference == report.reference


def test_a_network_that_knows_the_alphabetical_order(tmp_path: Path) -> None:
    report = report_of(photos(tmp_path / "photos", sorted(NUMBERS)), tmp_path / "run", 20)
    assert (report.reference.value, report.model.class_order) == (1, "alphabetical")
    assert json.loads((tmp_path / "run/report.json").read_text())["model"]["class_order"] == "alphabetical"


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (["owl", "cat", "dog", "ant"], "0 = owl, 1 = cat, 2 = dog, 3 = ant"),
        (["item10", "dog", "cat", "item2"], "0 = item10, 1 = dog, 2 = cat, 3 = item2"),
    ],
)
def test_any_other_order_must_be_stated(tmp_path: Path, names: list[str], told: str) -> None:
    data = photos(tmp_path / "photos", names)
    with pytest.raises(UsageError, match="order") as caught:
        report_of(data, tmp_path / "run", len(names))
    assert told in str(caught.value)
    assert "--labels" in str(caught.value.fix)
    assert not list((tmp_path / "run").glob("fake-*"))
    (labels := tmp_path / "labels.txt").write_text("\n".join(names))
    report = report_of(data, tmp_path / "run", len(names), labels)
    assert (report.reference.value, report.model.class_order) == (1, None)


def test_neither_of_two_orders_is_clearly_better(tmp_path: Path) -> None:
    """The network knows neither, and no other order fits its answers."""
    data = photos(tmp_path / "photos", ["a2", "a10", "b"])
    for file in data.glob("*/*.png"):
        Image.new("RGB", (SIDE, SIDE), (200, 10, int(file.stem))).save(file)
    with pytest.raises(UsageError, match="natural order") as caught:
        report_of(data, tmp_path / "run", 3)
    assert "--labels" in str(caught.value.fix)
