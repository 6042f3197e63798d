"""INT8 bundles with layers that INT8 makes slower: they stay in float if the whole is then faster."""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edgekit.cli.main import main
from edgekit.measure.settings import Gates
from edgekit.report import load_report
from edgekit.report.row import PlacedLayer, ProfilePlacement, Row
from edgekit.runtime.bundle import read_bundle
from edgekit.runtime.profile import OpProfile, Profile
from edgekit.support.progress import Reporter
from edgekit.support.run_folder import open_run
from edgekit.tuning import improvements
from edgekit.tuning.improvements import PlacementStrategy, is_faster, rounds_of
from edgekit.tuning.mixtures import DIFFERS, Border, LayerCosts
from edgekit.tuning.study import Candidate, Driver, MeasuredBundles, Proposal, Study, Trial, outcome
from tests.helpers import fake_runtime
from tests.helpers.fake import profiler
from tests.helpers.measurements import failed, latency, measurement, speedup

GATES = Gates()
STEPS = tuple((PlacedLayer(name, 0.5, 0.2),) for name in "abc")


PLACEMENT = PlacementStrategy(GATES, "local", 10)


def study(*ratios: float | None) -> Study:
    """A study of three steps with these speedups over the bundle before, plus or minus 0.1; None for a failed trial."""
    result = Study((Trial.of(0, Candidate(), measurement()),), steps=STEPS)
    for number, ratio in enumerate(ratios, 1):
        following = outcome(PLACEMENT.proposals(result), result)
        assert isinstance(following, Proposal)
        measured = None if ratio is None else measurement(speedup=speedup(ratio, ratio - 0.1, ratio + 0.1))
        trial = (
            Trial(number, following.candidate) if measured is None else Trial.of(number, following.candidate, measured)
        )
        result = replace(result, trials=(*result.trials, trial))
    return result


def in_float(layers: str) -> Candidate:
    return Candidate().keeping_in_float(layers)


@pytest.mark.parametrize(
    ("ratios", "chosen", "following"),
    [
        ((), "", "a"),
        ((1.2,), "a", "ab"),
        ((1.05,), "", "b"),
        ((None,), "", "b"),
        ((1.2, 0.9), "a", "ac"),
        ((1.2, 1.2, 1.2), "abc", None),
        ((0.9, 0.9, 0.9), "", None),
    ],
)
def test_each_round_builds_on_what_was_faster(ratios: Any, chosen: str, following: str | None) -> None:
    so_far = study(*ratios)
    result = outcome(PLACEMENT.proposals(so_far), so_far)
    if following:
        assert result == Proposal(in_float(following), before=in_float(chosen))
        assert PLACEMENT.chosen(so_far).number == 0, "the next command ships no bundle of an unfinished study"
    else:
        assert isinstance(result, Trial)
        assert result.candidate == in_float(chosen)


def test_a_speedup_without_an_interval_shows_nothing() -> None:
    shown = speedup(1.5, 1.4, 1.6)
    assert is_faster(Trial.of(1, Candidate(), measurement(speedup=shown)))
    assert not is_faster(Trial.of(1, Candidate(), measurement(speedup=replace(shown, ci95=None))))
    assert not is_faster(Trial.of(0, Candidate(), measurement(speedup=shown))), "of the recipe's own, it is over float"


@pytest.mark.parametrize(("spread", "kept"), [(None, True), (0.2, True), (2.0, False)])
def test_an_unsteady_timing_shows_nothing(spread: float | None, kept: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    shown, before = speedup(1.5, 1.4, 1.6), measurement(latency_ms=latency(threads=2))
    asked: list[tuple[list[str], int | None]] = []

    def measure(bundles: Any, threads: int | None = None) -> Any:
        asked.append((list(bundles), threads))
        steady = measurement(speedup=shown)
        return {"onnx-int8": measurement(latency_ms=latency(spread=spread)), "onnx-int8-placed": steady}

    monkeypatch.setattr(Driver, "build", lambda *_: "built")
    shipped: Any = MeasuredBundles({"onnx-int8": "own"}, {"onnx-int8": before})  # type: ignore[dict-item]
    nothing: Any = None
    driver = Driver(nothing, "onnx", nothing, nothing, nothing, nothing, shipped, measure)
    measured = driver.tried(Proposal(in_float("a"), Candidate()))
    assert asked == [(["onnx-int8", "onnx-int8-placed"], 2)], "in turns, with as many threads as the row"
    assert is_faster(Trial.of(1, in_float("a"), measured)) is kept


def costs(**gains: float) -> LayerCosts:
    """Layers that don't touch each other, and what each saves in float."""
    int8 = {name: 1.0 + gain for name, gain in gains.items()}
    return LayerCosts(
        int8, dict.fromkeys(gains, 1.0 / DIFFERS), tuple(Border(frozenset([name]), 0.1) for name in gains)
    )


@pytest.mark.parametrize(
    ("gains", "steps"),
    [
        ({"a": 0.5, "b": 0.3, "c": 0.1}, ["a", "b", "c"]),
        ({"a": 0.5, "b": 0.06, "c": 0.05, "d": 0.2, "e": 0.1}, ["a", "d", "ebc"]),
        ({"a": 0.06, "b": 0.05, "c": 0.04}, ["ab"]),
        ({"a": 0.05}, []),
        ({"a": -0.5}, []),
    ],
    ids=["one set each", "the rest together", "small ones together", "too little", "nothing"],
)
def test_rounds(gains: Mapping[str, float], steps: list[str]) -> None:
    assert [tuple(layer.name for layer in step) for step in rounds_of(costs(**gains), 0.1)] == list(map(tuple, steps))


def test_words() -> None:
    layers = tuple(PlacedLayer(f"layer{number}", 0.52, 0.2) for number in range(6))
    placed = ProfilePlacement(device="local", layers=layers[:1], speedup=1.25, bundles=2)
    assert placed.words() == (
        "placed by profile: 1 layer in float (layer0, 0.52 ms in INT8, 0.2 in float) made it 1.25x as fast as the "
        "recipe's own INT8 bundle"
    )
    assert placed.words(0.5) == placed.words()
    ending = "own INT8 bundle. INT8 doesn't pay here: it is left with 0.2% of the multiply-accumulates"
    assert placed.words(0.002).endswith(ending)
    assert "6 layers in float" in replace(placed, layers=layers).words()
    assert "layer3, 0.52 ms in INT8, 0.2 in float; and 2 more)" in replace(placed, layers=layers).words()


def profile_with_a_slow_layer(model: Path, options: object, threads: int, runs: int) -> Profile:
    """A profile of the fake runtime: in INT8 the second layer, after that of the patches, takes nearly all the time."""
    layers = json.loads((model.parent / "manifest.json").read_text())["layers"]
    times = [1.0 if number == 1 or not layer["int8"] else 0.001 for number, layer in enumerate(layers)]
    ops = tuple(
        OpProfile(layer["name"], "kernel", layer["macs"], layer["int8"], ms)
        for layer, ms in zip(layers, times, strict=True)
    )
    return Profile("fake", ops, {"layers": sum(times)})


@pytest.fixture
def deploy(vit_arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., int]]:
    """A function that deploys for the fake runtime, on which every bundle with more layers in float is faster."""
    monkeypatch.setattr(improvements, "is_faster", lambda trial: trial.number > 0)
    with fake_runtime.added():
        monkeypatch.setattr(profiler, "profile", profile_with_a_slow_layer)
        counted = ["--iterations", "30", "--target", "fake"]
        yield lambda *more: main(["deploy", *vit_arguments, *counted, "-o", str(tmp_path / "run"), *more])


def int8_row(folder: Path) -> Row:
    (row,) = (row for row in load_report(folder).results if row.precision == "int8")
    return row


def test_a_slow_layer_stays_in_float_for_a_reason(deploy: Callable[..., int], tmp_path: Path, capfd: Any) -> None:
    folder = tmp_path / "run"
    assert deploy() == 0
    progress = capfd.readouterr().err
    row, bundle = int8_row(folder), read_bundle(folder / "fake-int8")
    assert row.placement
    (layer,) = row.placement.layers
    assert (layer.name, row.placement.bundles) == (bundle.manifest.layers[1]["name"], 1)
    assert layer.int8_ms > 2 * layer.float_ms > 0
    assert any(remark.startswith(row.placement.words()) for remark in row.remarks)
    reasons = {each["name"]: each.get("reason") for each in bundle.manifest.layers if not each["int8"]}
    assert reasons.get(layer.name) == layer.reason
    listed = json.loads((folder / "calibration.json").read_text())
    assert listed["recipe"]["targets"]["fake"]["float_layers"][-1] == layer.name
    assert sum("calibrate: " in line for line in progress.splitlines()) == 1, "a round costs no calibration"
    assert deploy() == 0
    progress = capfd.readouterr().err
    assert "fake-int8: reused from an earlier run" in progress
    assert "fake-int8-placed" not in progress, "the same command makes no trials"
    assert int8_row(folder).placement == row.placement
    assert deploy("--no-repair") == 0
    assert int8_row(folder).placement is None
    assert layer.reason not in [each.get("reason") for each in read_bundle(folder / "fake-int8").manifest.layers]


def test_the_times_of_another_class_of_devices_place_no_layer(
    deploy: Callable[..., int], tmp_path: Path, capfd: Any
) -> None:
    assert deploy("--device-class", "raspberry-pi-5") == 0
    assert int8_row(tmp_path / "run").placement is None
    assert "fake-int8-placed" not in capfd.readouterr().err


def test_a_run_decides_once_and_its_list_repeats_the_bundle_elsewhere(
    deploy: Callable[..., int], vit_arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    folders = run, elsewhere, new = [tmp_path / name for name in ("run", "elsewhere", "new")]
    place = vit_arguments.index("--num-calibration-samples")
    job = [*vit_arguments[:place], *vit_arguments[place + 2 :], "--target", "fake", "--iterations", "30"]

    def repeat(run: Path) -> int:
        return main(["deploy", *job, "--calibration-list", str(run / "calibration.json"), "-o", str(elsewhere)])

    with monkeypatch.context() as patch:
        patch.setattr(profiler, "profile", lambda *_: Profile("without times", (), None))
        assert deploy() == 0
    assert deploy() == 0, "although the layers have times now"
    assert repeat(run) == 0
    assert "fake-int8-placed" not in capfd.readouterr().err
    assert deploy("-o", str(new)) == 0
    assert "fake-int8, fake-int8-placed: time: " in capfd.readouterr().err
    assert repeat(new) == 0
    assert "fake-int8-placed" not in capfd.readouterr().err
    files = [read_bundle(folder / "fake-int8").manifest.files for folder in folders]
    assert files[0] != files[1] == files[2]


def test_a_study_is_left_as_it_is_while_the_row_fails(tmp_path: Path) -> None:
    shipped: Any = MeasuredBundles({}, {"onnx-int8": failed()})
    nothing: Any = None
    key: Any = SimpleNamespace(key="key")
    with open_run(tmp_path / "run") as run:
        driver = Driver(run, "onnx", key, nothing, nothing, Reporter(quiet=True), shipped, nothing)
        driver.remember(PLACEMENT, study(1.2))
        assert driver.improve(PLACEMENT) == (study(1.2), shipped)


def test_the_written_recipe_makes_the_same_bundle_elsewhere(deploy: Callable[..., int], tmp_path: Path) -> None:
    run, other, recipe = tmp_path / "run", tmp_path / "other", tmp_path / "recipe.toml"
    assert deploy("--write-recipe", str(recipe)) == 0
    row, bundle = int8_row(run), read_bundle(run / "fake-int8")
    assert row.placement
    assert row.latency_ms
    comment = [line for line in recipe.read_text().splitlines() if line.startswith("# ")]
    assert load_report(run).created in comment[0]
    (times,) = (line for line in comment if line.startswith("# fake-int8 on local, "))
    for piece in (row.device.cpu, row.engine, f"{row.latency_ms.p50:.3g} ms, "):
        assert str(piece) in times
    assert any(line == f"# {row.placement.words()}" for line in comment)
    assert deploy("--recipe", str(recipe), "--no-repair", "-o", str(other)) == 0
    again = read_bundle(other / "fake-int8")
    assert (again.manifest.fingerprint, again.manifest.files) == (bundle.manifest.fingerprint, bundle.manifest.files)
    recipe.unlink()
    assert main(["deploy", str(run), "--quiet"]) == 0, "a run's job doesn't name what it wrote"
    assert not recipe.exists()
