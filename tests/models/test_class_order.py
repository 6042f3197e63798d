"""What edgekit says about the names and the order of the classes."""

from pathlib import Path
from typing import Any

import pytest
import torch

from edgekit.images.dataset import open_dataset
from edgekit.models.class_order import report_class_order
from edgekit.models.network import Network
from edgekit.models.options import ModelOptions
from edgekit.support.progress import Reporter
from tests.helpers.tiny import tiny_manifest

ASSUMED = "alphabetical order are taken as outputs 0 to 2 (0 = cat, 1 = dog, 2 = owl)"


@pytest.fixture
def say(tmp_path: Path, capfd: Any) -> Any:
    """A function that returns what is said about a network with these facts and the folders cat, dog and owl."""
    for name in ("cat", "dog", "owl"):
        (tmp_path / "data" / name).mkdir(parents=True)
        (tmp_path / "data" / name / "1.png").touch()

    def output(labels: tuple[str, ...], file: Path | None = None, quiet: bool = False, **facts: Any) -> str:
        network = Network(
            module=torch.nn.Identity(),
            name="resnet18",
            source="timm",
            weights="runs/best.pth",
            weights_sha256="0" * 64,
            params=0,
            classes=len(labels),
            preprocessing=tiny_manifest().preprocessing,
            labels=labels,
            license_note=None,
            **facts,
        )
        dataset = open_dataset(tmp_path / "data", labels)
        report_class_order(network, ModelOptions("resnet18", labels=file), dataset, Reporter(quiet))
        return str(capfd.readouterr().err)

    return output


def test_without_names_the_assumed_order_is_printed_once(say: Any) -> None:
    numbered = ("class_0", "class_1", "class_2")
    said = say(numbered)
    assert said.startswith("the names of the classes are unknown: the folders of ")
    assert said.count(ASSUMED) == 1
    assert say(numbered, quiet=True) == ""


def test_names_that_are_no_folders_are_a_warning(say: Any) -> None:
    for facts in ({"file": Path("labels.txt")}, {"labels_origin": "names"}):
        said = say(("Katze", "Hund", "Eule"), quiet=True, **facts)
        assert said.startswith("warning: no folder has the name of a class, such as 'Katze': the folders of ")
        assert ASSUMED in said


def test_the_origin_of_names_is_printed(say: Any) -> None:
    assert say(("owl", "cat", "dog"), labels_origin="names") == "class names: 'names' in 'best.pth'\n"
    assert say(("owl", "cat", "dog"), Path("labels.txt")) == ""
    assert say(("owl", "cat", "dog"), labels_doubt="names are ignored") == "warning: names are ignored\n"
