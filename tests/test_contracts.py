"""The whole command line with one runtime, option, figure and task more, each of at most three declarations.

They are declared in a copy of the package, in which nothing is patched. For a runtime, these are all the changes: a
folder, a row, and a table in a recipe. The extra in pyproject.toml, the last of the places, matters to pip alone;
tests/test_packaging.py compares extras with the rows.
"""

import csv
import inspect
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edgekit.config import runtimes
from edgekit.job import Job
from edgekit.measure import bundles as measuring
from edgekit.measure import tasks
from edgekit.measure.settings import Timing
from edgekit.report import figure
from edgekit.report.row import Measurement, Score
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
TASK = f"""
from dataclasses import replace
from typing import ClassVar
from {Score.__module__} import Score

class Fake(SingleLabel):
    name: ClassVar[str] = "fake"

    def _compare(self, answers, reference, targets, versus):
        own = super()._compare(answers, reference, targets, versus)
        score, drop = Score("fake metric", own.top1), own.drop_top1_points
        return replace(own, top1=None, top5=None, drop_top1_points=None, score=score, drop_score_points=drop)

    def _reference(self, engine, answers, targets, outputs):
        own = super()._reference(engine, answers, targets, outputs)
        return replace(own, top1=None, top5=None, score=Score("fake metric", own.top1))


TASKS["fake"] = Fake()
"""
FIGURE = """Figure("fake_level", "faked", "levels", digits=0, rank=3, better="higher",
           meaning="level of the fake"),
    """
DECLARATIONS: dict[str, list[tuple[Any, str, str]]] = {
    "option": [
        (
            Job,
            "    warmup: int = timing_option(",
            '    fake_level: int = timing_option(kinds.Number(0, 9), "Level of the fake figure.", value=0)\n',
        ),
        (Timing, "    may_end_early: bool = False", "    fake_level: int = 0\n"),
        (Job, "may_end_early=not self.min_speedup", "fake_level=self.fake_level, "),
    ],
    "figure": [
        (Measurement, "    low_precision: LowPrecision | None = None", "    fake_level: float | None = None\n"),
        (figure, 'Figure("snr_db"', FIGURE),
        (measuring, '"peak_rss_bytes": fresh', '"fake_level": float(timing.fake_level), '),
    ],
    "task": [
        (tasks, "", TASK),
        (runtimes, '"embedding": "they are', '"fake": "a class, judged by a fake metric",\n    '),
    ],
}
"""What is declared: where, what it stands before, which is the end if it is empty, and its text."""


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
        for where, before, text in [each for declared in DECLARATIONS.values() for each in declared]:
            file = folder / Path(str(inspect.getsourcefile(where))).relative_to(ROOT)
            source = file.read_text()
            assert not before or source.count(before) == 1, before
            file.write_text(source.replace(before, text + before) if before else source + text)
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
    model, *options = vit_arguments
    job = folder.with_name("job.toml")
    job.write_text(f'model = "{model}"\ntask = "fake"\nfake_level = 3\n')
    checkout.run("deploy", job, *options, *FAKE, "-o", folder, "--quiet")
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


def test_three_declarations_suffice() -> None:
    assert [name for name, declared in DECLARATIONS.items() if len(declared) > 3] == []


def test_an_option_is_in_help_files_and_the_report(checkout: Checkout, deployed: Path) -> None:
    assert "Level of the fake figure." in " ".join(checkout.run("deploy", "--help").replace("│", " ").split())
    report = json.loads((deployed / "report.json").read_text())
    assert "--fake-level 3" in " ".join(report["command"])
    assert "--fake-level 3" in (deployed / "report.html").read_text()
    checkout.run("deploy", deployed, "--fake-level", 10, status=2)
    assert "--fake-level is '10'" in checkout.errors()


def test_a_figure_is_in_every_output(checkout: Checkout, deployed: Path) -> None:
    """Its value is the option that the file of the job states."""
    rows = json.loads((deployed / "report.json").read_text())["results"]
    assert [row["fake_level"] for row in rows] == [3, 3]
    with (deployed / "report.csv").open() as file:
        assert [row["fake_level"] for row in csv.DictReader(file)] == ["3.0", "3.0"]
    page = (deployed / "report.html").read_text()
    assert "faked" in page
    assert "levels" in page
    assert "faked: 3" in checkout.run("compare", deployed, deployed)


def test_a_task_is_in_help_and_every_output(checkout: Checkout, deployed: Path, photos: Path) -> None:
    assert "fake (a class, judged by a fake metric)" in " ".join(
        checkout.run("deploy", "--help-all").replace("│", " ").split()
    )
    report = json.loads((deployed / "report.json").read_text())
    assert report["model"]["task"] == "fake"
    assert [row["accuracy"]["score"]["metric"] for row in report["results"]] == ["fake metric"] * 2
    assert "fake metric" in (deployed / "report.html").read_text()
    with (deployed / "report.csv").open() as file:
        assert all(float(row["score_percent"]) >= 0 for row in csv.DictReader(file))
    assert "fake metric" in checkout.run("evaluate", deployed, "--data", photos)
