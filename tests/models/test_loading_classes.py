"""What edgekit says about the names and the order of the classes."""

from pathlib import Path
from typing import Any

import pytest
import torch

from edgekit.images.dataset import Dataset
from edgekit.models.loading import settle_classes
from edgekit.models.network import Network
from edgekit.models.options import ModelOptions
from edgekit.support.progress import Reporter
from tests.helpers.tiny import tiny_manifest

ASSUMED = "alphabetical order are taken as outputs 0 to 2 (0 = cat, 1 = dog, 2 = owl)"


@pytest.fixture
def settle(tmp_path: Path, capfd: Any) -> Any:
    """Settles the classes of a network. Returns their names, and what was printed."""

    def output(
        labels: tuple[str, ...],
        file: Path | None = None,
        quiet: bool = False,
        folders: tuple[str, ...] = ("cat", "dog", "owl"),
        is_judged: bool = False,
        **facts: Any,
    ) -> tuple[tuple[str, ...], str]:
        data = tmp_path / f"set-{abs(hash(folders))}"
        for name in folders:
            (data / name).mkdir(parents=True, exist_ok=True)
            (data / name / "1.png").touch()
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
        options = ModelOptions("resnet18", labels=file)
        settled = settle_classes(network, options, Dataset.open(data, labels), Reporter(quiet), is_judged)
        return settled.labels, str(capfd.readouterr().err)

    return output


@pytest.fixture
def say(settle: Any) -> Any:
    """Settles the classes of a network. Returns what was printed."""
    return lambda *arguments, **facts: settle(*arguments, **facts)[1]


def test_without_names_the_assumed_order_is_printed_once(say: Any) -> None:
    numbered = ("class_0", "class_1", "class_2")
    said = say(numbered)
    assert said.startswith("class names: the folders of ")
    assert said.count(ASSUMED) == 1
    assert say(numbered, quiet=True) == ""


def test_an_order_that_is_not_timms_is_a_warning_unless_it_is_judged(settle: Any) -> None:
    numbered, folders = ("class_0", "class_1"), ("item10", "item2")
    assert "0 = item10, 1 = item2" in settle(numbered, folders=folders, quiet=True)[1]
    assert settle(numbered, folders=folders, quiet=True, is_judged=True)[1] == ""


def test_names_that_are_no_folders_are_a_warning(say: Any) -> None:
    for facts in ({"file": Path("labels.txt")}, {"labels_origin": "names"}):
        said = say(("Katze", "Hund", "Eule"), quiet=True, **facts)
        assert said.startswith("warning: no folder has the name of a class, such as 'Katze': the folders of ")
        assert ASSUMED in said


def test_the_origin_of_names_is_printed(say: Any) -> None:
    assert say(("owl", "cat", "dog"), labels_origin="names") == "class names: 'names' in 'best.pth'\n"
    assert say(("owl", "cat", "dog"), Path("labels.txt")) == ""
    assert say(("owl", "cat", "dog"), labels_doubt="names are ignored") == "warning: names are ignored\n"


def test_folders_name_the_classes_of_a_network_without_names(settle: Any) -> None:
    numbered = ("class_0", "class_1", "class_2")
    assert settle(numbered)[0] == ("cat", "dog", "owl")
    assert settle(numbered, folders=numbered)[0] == numbered
    assert settle(("Katze", "Hund", "Eule"), Path("labels.txt"))[0] == ("Katze", "Hund", "Eule")
    assert settle(("Katze", "Hund", "Eule"), labels_origin="names")[0] == ("Katze", "Hund", "Eule")


@pytest.mark.parametrize("name", [" dog", "do\ng"])
def test_a_folder_whose_name_no_list_of_labels_can_have(settle: Any, name: str) -> None:
    numbered = ("class_0", "class_1", "class_2")
    assert settle(numbered, folders=("cat", name, "owl"))[0] == numbered
