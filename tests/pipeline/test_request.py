"""A fingerprint changes with everything that a bundle depends on, and with nothing else."""

import importlib.metadata
import platform
from dataclasses import fields, replace
from typing import Any

import pytest
from torch import nn

from edgekit.config.device_classes import load_device_class
from edgekit.config.precisions import Precision
from edgekit.config.recipes import OWN, Recipe, TargetRecipe, load_recipe
from edgekit.config.runtimes import RUNTIMES
from edgekit.models import Network
from edgekit.pipeline import request
from edgekit.pipeline.request import BundleRequest, provenance_of, shaping_distributions, versions
from edgekit.pipeline.sources import edgekit_sha256
from tests.helpers.tiny import X86

CHANGED: Any = ("changed",)


def print_of(
    network: Network, precision: Precision = "int8", target: str = "onnx", recipe: Recipe | None = None, **more: Any
) -> str:
    options = {"calibration_sha256": "images", "device_class": X86, **more}
    return BundleRequest(network, target, precision, recipe or load_recipe("convnextv2"), **options).fingerprint()


def test_it_is_reproducible(tiny_convnext: Network) -> None:
    assert print_of(tiny_convnext) == print_of(tiny_convnext, recipe=load_recipe("convnextv2"))


@pytest.mark.parametrize("precision", ["float", "int8"])
@pytest.mark.parametrize("name", ["weights_sha256", "name", "classes", "labels", "preprocessing", "module"])
def test_it_depends_on_the_network(tiny_convnext: Network, name: str, precision: Precision) -> None:
    preprocessing = replace(tiny_convnext.preprocessing, mean=(0.1, 0.2, 0.3))
    values: dict[str, Any] = {"preprocessing": preprocessing, "module": nn.Identity()}
    changed = replace(tiny_convnext, **{name: values.get(name, CHANGED)})
    assert print_of(changed, precision) != print_of(tiny_convnext, precision)


def test_it_depends_on_target_precision_and_device_class(tiny_convnext: Network) -> None:
    fingerprints = {
        print_of(tiny_convnext),
        print_of(tiny_convnext, target="openvino"),
        print_of(tiny_convnext, "float"),
        print_of(tiny_convnext, device_class=load_device_class("raspberry-pi-5")),
    }
    assert len(fingerprints) == 4


def test_only_int8_depends_on_the_calibration_images(tiny_convnext: Network) -> None:
    assert print_of(tiny_convnext, calibration_sha256="others") != print_of(tiny_convnext)
    assert print_of(tiny_convnext, "float", calibration_sha256="others") == print_of(tiny_convnext, "float")


@pytest.mark.parametrize("name", [field.name for field in fields(Recipe) if field.name != "targets"])
def test_only_int8_depends_on_how_the_recipe_calibrates(tiny_convnext: Network, name: str) -> None:
    changed = replace(load_recipe("convnextv2"), **{name: CHANGED})
    assert print_of(tiny_convnext, recipe=changed) != print_of(tiny_convnext)
    assert print_of(tiny_convnext, "float", recipe=changed) == print_of(tiny_convnext, "float")


@pytest.mark.parametrize("name", [field.name for field in fields(TargetRecipe) if field.name != "on"])
def test_it_depends_on_the_recipes_table_of_its_own_target_alone(tiny_convnext: Network, name: str) -> None:
    recipe = load_recipe("convnextv2")
    changed = {
        target: replace(recipe, targets={**recipe.targets, target: replace(recipe.targets[target], **{name: CHANGED})})
        for target in ("onnx", "openvino")
    }
    assert print_of(tiny_convnext, recipe=changed["onnx"]) != print_of(tiny_convnext)
    assert print_of(tiny_convnext, recipe=changed["openvino"]) == print_of(tiny_convnext)
    if name not in OWN:
        assert print_of(tiny_convnext, "float", recipe=changed["onnx"]) != print_of(tiny_convnext, "float")


ALTERNATIVES = {name for runtime in RUNTIMES.values() for name in runtime.distributions[1:]}
"""Distributions that the tests don't install."""


@pytest.mark.parametrize("package", [name for name in shaping_distributions() if name not in ALTERNATIVES])
def test_it_depends_on_the_version_of_each_package(
    tiny_convnext: Network, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, real = print_of(tiny_convnext), importlib.metadata.version
    assert package in versions(), "the tests install every package that affects bundles"
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "99" if name == package else real(name))
    assert print_of(tiny_convnext) != before


def test_it_depends_on_python_and_on_edgekits_own_code(tiny_convnext: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    fingerprints = [print_of(tiny_convnext)]
    monkeypatch.setattr(request, "edgekit_sha256", lambda: "another")
    fingerprints.append(print_of(tiny_convnext))
    monkeypatch.setattr(request, "__version__", "99")
    fingerprints.append(print_of(tiny_convnext))
    monkeypatch.setattr(platform, "python_version", lambda: "3.99")
    fingerprints.append(print_of(tiny_convnext))
    monkeypatch.setattr(request, "module_sha256", lambda _: "another")
    fingerprints.append(print_of(tiny_convnext))
    assert len(set(fingerprints)) == len(fingerprints)


def test_provenance_names_the_code_that_made_a_bundle(tiny_convnext: Network) -> None:
    provenance = provenance_of(BundleRequest(tiny_convnext, "onnx", "float", load_recipe("convnextv2"), X86), ())
    assert provenance.versions["edgekit-sources"] == edgekit_sha256()
    assert (provenance.model.name, provenance.recipe) == (tiny_convnext.name, "convnextv2")
    assert provenance.calibration_sha256 is None
