"""The inputs of a bundle are everything that a bundle depends on, and nothing else."""

import platform
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, cast

import pytest

from edgekit.config.recipes import OWN, Recipe, TargetRecipe
from edgekit.config.runtimes import PRECISIONS, RUNTIMES, DeviceClass, Precision
from edgekit.images.dataset import LabelledImage
from edgekit.images.selection import InspectedImage, Selection
from edgekit.measure.tasks import Embedding
from edgekit.models.network import Network
from edgekit.pipeline import request
from edgekit.pipeline.request import ROOMS, BuildSpec, shaping_distributions, versions
from edgekit.support.files import code_sha256
from edgekit.support.libraries import installed_version
from edgekit.support.weight_pairs import pairings
from tests.helpers.calibration import spec_of
from tests.helpers.tiny import X86

CHANGED: Any = ("changed",)


def key_of(
    network: Network, precision: Precision = "int8", target: str = "onnx", recipe: Recipe | None = None, **more: Any
) -> str:
    return spec_of(network, recipe or Recipe.load("convnextv2"), X86, **more).inputs(target, precision).key


def images(*hashes: str) -> Selection:
    return Selection(
        tuple(InspectedImage(LabelledImage(f"{each}.png", 0, "cat"), each, b"", 0.0) for each in hashes), Path("photos")
    )


def test_it_is_reproducible(tiny_convnext: Network) -> None:
    assert key_of(tiny_convnext) == key_of(tiny_convnext, recipe=Recipe.load("convnextv2"))


BY_IDENTITY = {"module", "name", "weights_sha256", "preprocessing"}
"""Fields of a network that are in its identity, or from which it is computed."""
PROVENANCE = {
    "source": "the name says it",
    "weights": "`weights_sha256` has the content",
    "params": "the graph has them",
    "classes": "the graph has them",
    "license_note": "it follows from the name",
    "reference": "the network was compared with it before",
    "class_order": "`labels` have it",
    "labels_origin": "`labels` are what it says",
    "labels_file": "`labels` are what it says",
    "labels_doubt": "it is for people",
    "has_classifier": "the task follows from it",
    "notes": "they are for people",
}
"""Other fields that change no bundle, each with the reason."""
NO_INPUT = {
    "network": "its identity is one",
    "calibration_dataset": "`calibration` has the hashes of its images",
    "fitting_dataset": "`fitting` has the hashes of its images",
}
"""Fields of what bundles are built from that are no inputs themselves, each with the reason."""


@pytest.mark.parametrize("precision", ["float", "int8"])
def test_class_names_change_nothing_else(tiny_convnext: Network, precision: Precision) -> None:
    changed = replace(tiny_convnext, labels=CHANGED)
    vars(changed)["graph_sha256"] = tiny_convnext.graph_sha256
    assert key_of(changed, precision) == key_of(tiny_convnext, precision)
    assert {field.name for field in fields(Network)} == {"labels", *BY_IDENTITY, *PROVENANCE}


@pytest.mark.parametrize("name", [field.name for field in fields(BuildSpec) if field.name not in NO_INPUT])
def test_int8_depends_on_every_field(tiny_convnext: Network, name: str) -> None:
    changes: dict[str, Any] = {
        "recipe": Recipe.load("default"),
        "device_class": DeviceClass.load("raspberry-pi-5"),
        "task": Embedding(),
        "calibration": images("b2"),
        "fitting": images("c3"),
        "input_dtype": "uint8",
    }
    before = spec_of(tiny_convnext, Recipe.load("convnextv2"), X86)
    assert replace(before, **{name: changes[name]}).inputs("onnx", "int8").key != before.inputs("onnx", "int8").key


def test_bundles_of_other_runtimes_and_precisions_have_other_inputs(tiny_convnext: Network) -> None:
    keys = {key_of(tiny_convnext, precision, target) for precision in PRECISIONS for target in RUNTIMES}
    assert len(keys) == len(PRECISIONS) * len(RUNTIMES)


def test_only_int8_depends_on_the_calibration_images(tiny_convnext: Network) -> None:
    chosen = {"calibration": images("a1", "b2")}, {"calibration": images("b2", "a1")}, {"fitting": images("a1")}
    for more in cast(tuple[dict[str, Any], ...], chosen):
        assert key_of(tiny_convnext, **more) != key_of(tiny_convnext)
        assert key_of(tiny_convnext, "float", **more) == key_of(tiny_convnext, "float")


@pytest.mark.parametrize("name", [field.name for field in fields(Recipe) if field.name != "targets"])
def test_only_int8_depends_on_how_the_recipe_calibrates(tiny_convnext: Network, name: str) -> None:
    changed = replace(Recipe.load("convnextv2"), **{name: CHANGED})
    assert key_of(tiny_convnext, recipe=changed) != key_of(tiny_convnext)
    assert key_of(tiny_convnext, "float", recipe=changed) == key_of(tiny_convnext, "float")


@pytest.mark.parametrize("name", [field.name for field in fields(TargetRecipe) if field.name != "on"])
def test_int8_also_depends_on_the_tables_of_runtimes_that_share_its_calibration(
    tiny_convnext: Network, name: str
) -> None:
    recipe = Recipe.load("convnextv2")
    changed = {
        target: replace(recipe, targets={**recipe.targets, target: replace(recipe.targets[target], **{name: CHANGED})})
        for target in ("onnx", "openvino")
    }
    assert key_of(tiny_convnext, recipe=changed["onnx"]) != key_of(tiny_convnext)
    has_no_share = name in ("float_layers", "kinds")  # no part in what is calibrated for all
    assert (key_of(tiny_convnext, recipe=changed["openvino"]) == key_of(tiny_convnext)) == has_no_share
    assert key_of(tiny_convnext, "float", recipe=changed["openvino"]) == key_of(tiny_convnext, "float")
    if name not in OWN:
        assert key_of(tiny_convnext, "float", recipe=changed["onnx"]) != key_of(tiny_convnext, "float")


ALTERNATIVES = {name for runtime in RUNTIMES.values() for name in runtime.distributions[1:]}
"""Distributions that the tests don't install."""


def test_torchvision_is_among_the_packages() -> None:
    assert "torchvision" in shaping_distributions()


@pytest.mark.parametrize("package", [name for name in shaping_distributions() if name not in ALTERNATIVES])
def test_it_depends_on_the_version_of_each_package(
    tiny_convnext: Network, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, real = key_of(tiny_convnext), installed_version
    assert package in versions(), "the tests install every package that affects bundles"
    changed = "edgekit.support.libraries.installed_version"
    monkeypatch.setattr(changed, lambda name: "99" if name == package else real(name))
    assert key_of(tiny_convnext) != before


def test_it_depends_on_python_and_on_edgekits_own_code(tiny_convnext: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = [key_of(tiny_convnext)]
    monkeypatch.setattr("edgekit.support.libraries.code_sha256", lambda rooms: "another")
    keys.append(key_of(tiny_convnext))
    monkeypatch.setattr(request, "__version__", "99")
    keys.append(key_of(tiny_convnext))
    monkeypatch.setattr(platform, "python_version", lambda: "3.99")
    keys.append(key_of(tiny_convnext))
    assert len(set(keys)) == len(keys)


def test_provenance_names_the_code_that_made_a_bundle(tiny_convnext: Network) -> None:
    provenance = spec_of(tiny_convnext, Recipe.load("convnextv2"), X86).provenance("onnx", "float", ())
    assert provenance["versions"]["edgekit-sources"] == code_sha256(ROOMS)
    assert pairings.__module__.split(".")[1] in ROOMS, "which weights are limited shapes every bundle for x86"
    assert (provenance["model"]["name"], provenance["recipe"]) == (tiny_convnext.name, "convnextv2")
    assert provenance["calibration_sha256"] is None
