"""The whole command line with a fourth runtime, which is added as CONTRIBUTING says: in a copy of the package.

These are all the changes: a folder, a row, and a table in a recipe. The extra in pyproject.toml, the last of the
places, matters to pip alone; tests/test_packaging.py compares extras with the rows.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import fake_runtime
from tests.helpers.ssh_server import Server
from tests.helpers.tiny import ROOT, TINY_VIT

pytestmark = pytest.mark.slow
RECIPE = """
[fake]
rewrites = ["layer-norm-affine"]
activations = "int8"
quantize_outputs = true
quantize_depthwise = false
lowerings = ["table"]
"""
FAKE = ["--target", "fake"]


DRIVER = r"""
import gc, json, sys
from edgekit.cli.main import main
gc.set_threshold(100_000, 50, 100)
for line in sys.stdin:
    status = main(json.loads(line))
    print(f"\0{status}", flush=True)
"""
"""Runs one command line after another, so that torch is imported once. A NUL and the status end a command's output."""


class Checkout:
    """A copy of edgekit with the fake runtime, whose command line runs in a process of its own."""

    def __init__(self, folder: Path) -> None:
        ignored = shutil.ignore_patterns("__pycache__", "demo")
        for name in ("edgekit", "targets", "calibration"):
            shutil.copytree(ROOT / name, folder / name, ignore=ignored)
        shutil.copytree(fake_runtime.FOLDER, folder / "edgekit/runtime" / fake_runtime.ROW.name, ignore=ignored)
        with (folder / "edgekit/config/runtimes.py").open("a") as table:
            table.write(f"register({fake_runtime.ROW!r})\n")
        with (folder / "calibration/vit.toml").open("a") as recipe:
            recipe.write(RECIPE)
        self._errors = folder.parent / "stderr"
        variables = {"PYTHONPATH": str(folder), "EDGEKIT_DEVICES_FILE": str(folder.parent / "devices.toml")}
        with self._errors.open("w") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", DRIVER],
                env={**os.environ, **variables, "COVERAGE_PROCESS_CONFIG": ""},  # it runs a copy
                cwd=folder.parent,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )

    def run(self, *arguments: object, status: int = 0) -> str:
        """What a command prints to stdout; it has to exit with this status."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps([str(each) for each in arguments]) + "\n")
        self._process.stdin.flush()
        printed = []
        while not (line := self._process.stdout.readline()).startswith("\0"):
            assert line, self._errors.read_text()
            printed.append(line)
        assert int(line[1:]) == status, self._errors.read_text()
        return "".join(printed)

    def json(self, *arguments: object, status: int = 0) -> Any:
        """The document that a command prints."""
        return json.loads(self.run(*arguments, "--json", status=status))

    def errors(self) -> str:
        """What all commands have printed to stderr."""
        return self._errors.read_text()

    def close(self) -> None:
        self._process.communicate()


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Checkout]:
    checkout = Checkout(tmp_path_factory.mktemp("checkout") / "edgekit")
    yield checkout
    checkout.close()


@pytest.fixture(scope="module")
def deployed(checkout: Checkout, vit_arguments: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of `edgekit deploy` for the fake runtime."""
    folder = tmp_path_factory.mktemp("deployed") / "run"
    checkout.run("deploy", *vit_arguments, *FAKE, "-o", folder, "--quiet")
    return folder


@pytest.fixture(scope="module")
def bundles(deployed: Path) -> list[Path]:
    return [deployed / "fake-float", deployed / "fake-int8"]


def test_deploy_and_report(checkout: Checkout, deployed: Path) -> None:
    report = checkout.json("report", deployed)
    assert [(row["target"], row["precision"]) for row in report["results"]] == [("fake", "float"), ("fake", "int8")]
    for row in report["results"]:
        assert row["verdict"] == "pass", row["reasons"]
        assert row["peak_rss_bytes"] > 0
        assert row["bundle"] == f"fake-{row['precision']}"
    assert "fake" in checkout.run("report", deployed)


def test_quantize_and_compile_its_graph(checkout: Checkout, photos: Path, vit_weights: Path, tmp_path: Path) -> None:
    job = [*TINY_VIT, "--weights", vit_weights, "--data", photos, *FAKE]
    checkout.run("quantize", *job, "--num-calibration-samples", 4, "-o", tmp_path / "graphs", "--quiet")
    assert (tmp_path / "graphs" / "fake-int8-graph").is_dir()
    checkout.run("compile", tmp_path / "graphs", "-o", tmp_path / "bundles", "--quiet")
    manifest = json.loads((tmp_path / "bundles" / "fake-int8" / "manifest.json").read_text())
    assert (manifest["target"], manifest["provenance"]["rewrites"]) == ("fake", ["layer-norm-affine"])


def test_its_own_lowering_reaches_the_bundle(bundles: list[Path]) -> None:
    """No file outside its folder, its row and its table knows the quirk."""
    schemes = [json.loads((bundle / "manifest.json").read_text())["scheme"] for bundle in bundles]
    assert schemes[0] == "float32"
    assert schemes[1].endswith(", GELU by table")
    readers = [
        {str(user.target) for node in program.graph.nodes if "gelu" in str(node.target) for user in node.users}
        for program in map(fake_runtime.loaded, bundles)
    ]
    assert [any("quantize" in reader for reader in each) for each in readers] == [False, True]


def test_a_lowering_of_another_runtime_is_refused(checkout: Checkout, tmp_path: Path) -> None:
    recipe = tmp_path / "mine.toml"
    recipe.write_text(f'name = "mine"\ndescription = "a mistake"\n{RECIPE.replace("table", "int8-silu")}')
    checkout.run("targets", "--recipe", recipe, status=2)
    assert "[fake] lowerings: unknown lowering 'int8-silu'" in checkout.errors()


def test_evaluate_and_benchmark(checkout: Checkout, bundles: list[Path], photos: Path) -> None:
    evaluated = checkout.json("evaluate", *bundles, "--data", photos)
    assert [row["accuracy"]["count"] for row in evaluated["results"]] == [40, 40]
    timed = checkout.json("benchmark", bundles[1], "--iterations", 3, "--warmup", 1, "--threads", 1)
    assert [row["latency_ms"]["count"] for row in timed["results"]] == [3]


def test_inspect_a_bundle_and_its_model_file(checkout: Checkout, bundles: list[Path]) -> None:
    for place in (bundles[1], bundles[1] / "model.pt2"):
        assert checkout.json("inspect", place)["int8"]["method"] == "it never runs in integers"


def test_classify(checkout: Checkout, bundles: list[Path], photos: Path) -> None:
    (result,) = checkout.json("classify", bundles[0], next(photos.glob("*/*.png")), "--top", 2)["results"]
    assert len(result["top"]) == 2


def test_compare(checkout: Checkout, deployed: Path) -> None:
    compared = checkout.json("compare", deployed, deployed)
    assert [row["bundle"] for row in compared["results"]] == ["fake-float", "fake-int8"]


def test_doctor(checkout: Checkout) -> None:
    findings = {each["name"]: each for each in json.loads(checkout.run("doctor", "--json"))["findings"]}
    assert findings["Fake"]["status"] == "ok"
    assert findings["Fake"]["found"].startswith("torch 2.")


def test_plan(checkout: Checkout) -> None:
    planned = checkout.json("plan", *TINY_VIT, *FAKE)
    assert [each["precision"] for each in planned["artifacts"]] == ["float", "int8"]
    assert all(each["fits"] for each in planned["artifacts"])
    assert planned["stages"] == [], "benchmarks/scale.py has not measured it"


def test_targets(checkout: Checkout) -> None:
    assert {"name": "fake", "runtime": "Fake"} in checkout.json("targets")["targets"]


def test_doctor_on_a_device(checkout: Checkout, board: Server) -> None:
    checkout.run("devices", "add", "board", "ssh://device", "--ssh-config", board.config)
    findings = {each["name"]: each for each in json.loads(checkout.run("doctor", "board", "--json"))["findings"]}
    assert (findings["Fake"]["status"], findings["Fake"]["found"]) == ("ok", "can run")


def test_its_scheme_is_checked(checkout: Checkout, vit_arguments: list[str], tmp_path: Path) -> None:
    checkout.run("deploy", *vit_arguments, *FAKE, "--scheme", "w8", "-o", tmp_path / "run", status=2)
