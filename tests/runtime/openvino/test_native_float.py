"""What stays in float in an INT8 bundle for OpenVINO, in the processor's own format."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgekit.cli.main import main
from edgekit.config.recipes import Recipe, list_recipes
from edgekit.config.runtimes import DeviceClass
from edgekit.runtime.bundle import Bundle, read_bundle
from edgekit.runtime.openvino.engine import NATIVE
from edgekit.runtime.profile import profile_bundle
from edgekit.runtime.session import Session


def make(arguments: list[str], folder: Path, *more: str) -> Bundle:
    """INT8 of the tiny ViT, whose recipe asks for the processor's format, from `edgekit quantize` and `compile`."""
    job = [*arguments[: arguments.index("--threads")], "--target", "openvino", "--quiet", *more]
    assert main(["quantize", *job, "-o", str(folder / "graphs")]) == 0
    assert main(["compile", str(folder / "graphs"), "-o", str(folder / "bundles"), "--quiet"]) == 0
    return read_bundle(folder / "bundles" / "openvino-int8")


@pytest.fixture(scope="module")
def bundle(vit_arguments: list[str], tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make(vit_arguments, tmp_path_factory.mktemp("native"))


def test_the_bundle_asks_for_it(bundle: Bundle) -> None:
    assert bundle.manifest.session["inference_precision"] == NATIVE
    assert "the rest in bf16 where the processor has it" in bundle.manifest.scheme


def test_it_is_the_format_that_openvino_would_choose(bundle: Bundle) -> None:
    """Processors without bf16 compute in f32. Those with AVX-512 can compute in either, if only slowly."""
    batch = bundle.manifest.preprocessing.normalize(bundle.golden().pixels)
    answers = {}
    for precision in (NATIVE, "f32", "bf16"):
        manifest = replace(bundle.manifest, session={"inference_precision": precision})
        with Session(replace(bundle, manifest=manifest)) as session:
            native = session._engine.low_precision_float() or "f32"
            answers[precision] = session(batch)
    assert np.array_equal(answers[NATIVE], answers[native])
    assert np.array_equal(answers["f32"], answers["bf16"]) == ("avx512f" not in Path("/proc/cpuinfo").read_text())


def test_it_is_profiled_as_it_runs(bundle: Bundle) -> None:
    assert profile_bundle(bundle, threads=1, runs=1).ops


@pytest.mark.parametrize("name", list_recipes())
def test_every_recipe_asks_for_it_on_x86_alone(name: str) -> None:
    asking = {
        each
        for each in DeviceClass.listed()
        if "native-float" in Recipe.load(name).for_class(DeviceClass.load(each)).targets["openvino"].lowerings
    }
    assert asking == {each for each in DeviceClass.listed() if not DeviceClass.load(each).is_arm}


def test_weights_alone_are_computed_with_in_f32(vit_arguments: list[str], tmp_path: Path) -> None:
    assert make(vit_arguments, tmp_path, "--scheme", "w8").manifest.session == {}
