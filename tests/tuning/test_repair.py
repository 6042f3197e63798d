"""INT8 bundles that miss the accuracy bound: layers stay in float until they keep it."""

import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from edgekit.cli.main import main
from edgekit.config.recipes import Recipe
from edgekit.devices.registry import THIS
from edgekit.devices.remote import measure_on_device
from edgekit.errors import CompileError
from edgekit.images.selection import Selection
from edgekit.measure.settings import Gates, Timing
from edgekit.measure.statistics import least_drop_bound
from edgekit.measure.tasks import SingleLabel
from edgekit.pipeline import deploy as deploying
from edgekit.pipeline import job_images
from edgekit.pipeline.build import build_one
from edgekit.report import load_report
from edgekit.report.answer import prices
from edgekit.report.row import Repair, RepairAttempt, Row
from edgekit.runtime.bundle import Bundle, read_bundle
from edgekit.support.progress import Reporter
from edgekit.support.run_folder import STATE, RunFolder, open_run
from edgekit.tuning import improvements, mixtures, study
from edgekit.tuning import improvements as repairing
from edgekit.tuning.improvements import (
    MOST_ATTEMPTS,
    Improvements,
    PlacementStrategy,
    RepairStrategy,
    attempt_of,
    improvements_of,
    misses_bound,
    within_reach,
)
from edgekit.tuning.mixtures import LayerStep, Ranking
from edgekit.tuning.study import Candidate, Driver, MeasuredBundles, Proposal, Study, Trial, outcome
from tests.helpers import fake_runtime, fragile
from tests.helpers.interrupts import interrupting
from tests.helpers.measurements import accuracy, device, failed, measurement, speedup
from tests.helpers.sharing import kept
from tests.helpers.tiny import MakeBundle

RECIPE = """
name = "whole-ranges"
description = "Weights rounded to nearest, so that nothing makes up for the range of the middle layer"
estimator = "minmax"

# ONNX Runtime has no integer kernel for convolutions whose output isn't quantized, so they would stay in float anyway.
[onnx]
rewrites = []
activations = "uint8"
quantize_outputs = true
quantize_depthwise = true
"""
QUIET = Reporter(quiet=True)


@pytest.fixture(scope="module")
def arguments(photos: Path, shared_folder: Path) -> list[str]:
    """Arguments of `edgekit deploy` for the fragile network, without --target and --output."""

    def make(folder: Path) -> None:
        fragile.save_trained(photos, folder / "fragile.safetensors")
        (folder / "recipe.toml").write_text(RECIPE)

    folder = kept(shared_folder, "fragile", make)
    model = ["tests.helpers.fragile:network", "--weights", str(folder / "fragile.safetensors")]
    size = ["--imgsz", "32", "--mean", "0.5,0.5,0.5", "--std", "0.5,0.5,0.5", "--crop-pct", "1"]
    counts = ["--num-calibration-samples", "10", "--iterations", "5", "--warmup", "1", "--threads", "1"]
    making = ["--data", str(photos), "--recipe", str(folder / "recipe.toml"), "--min-speedup", "0"]
    return [*model, *size, *counts, *making]


@pytest.fixture
def deploy(arguments: list[str], tmp_path: Path) -> Iterator[Callable[..., int]]:
    """A function that deploys for the fake runtime to tmp_path/run."""
    with fake_runtime.added():
        yield lambda *more: main(["deploy", *arguments, "--target", "fake", "-o", str(tmp_path / "run"), *more])


def int8_row(folder: Path) -> Row:
    (row,) = (row for row in load_report(folder).results if row.precision == "int8")
    return row


def calibrations(progress: str) -> int:
    """How often a command calibrated."""
    return sum(line.startswith(("calibrate: ", "fake-int8: calibrate: ")) for line in progress.splitlines())


def unneeded(*_: object) -> Ranking:
    raise AssertionError("the layers are ranked although nothing has to be repaired")


def test_the_destroyed_layer_alone_stays_in_float(arguments: list[str], tmp_path: Path, capfd: Any) -> None:
    folder = tmp_path / "run"
    assert main(["deploy", *arguments, "--target", "onnx", "-o", str(folder)]) == 0
    out = " ".join(capfd.readouterr().out.split())
    row = int8_row(folder)
    assert row.verdict == "pass"
    assert row.accuracy
    assert row.accuracy.drop_points <= 1
    assert row.repair
    before, after = row.repair.attempts
    assert (before.float_layers, after.float_layers) == ((), (fragile.FRAGILE,))
    assert (row.repair.chosen, row.repair.ranking_images, row.repair.device) == (1, 10, "local")
    assert before.drop_top1_points is not None
    assert before.drop_top1_points > 20
    assert after.drop_top1_points == row.accuracy.drop_top1_points
    assert row.repair.words in out
    bundle = read_bundle(folder / "onnx-int8")
    assert [layer["name"] for layer in bundle.manifest.layers if not layer["int8"]] == [fragile.FRAGILE]
    listed = json.loads((folder / "calibration.json").read_text())
    assert listed["recipe"]["targets"]["onnx"]["float_layers"] == [fragile.FRAGILE]


def test_other_commands_in_the_folder_make_no_bundle_anew(
    deploy: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    folder = tmp_path / "run"
    assert deploy() == 0
    first = int8_row(folder)
    fingerprint = read_bundle(folder / "fake-int8").manifest.fingerprint
    assert calibrations(capfd.readouterr().err) == 1, "the recipe's own, also for the ranking and the attempt"
    monkeypatch.setattr(repairing, "rank_layers", unneeded)
    assert deploy() == 0
    err = capfd.readouterr().err
    assert "fake-int8: reused from an earlier run" in err
    assert calibrations(err) == 0
    assert err.count("fake-int8: evaluate") == 1, "only the repaired bundle is measured again"
    assert int8_row(folder).repair == first.repair
    assert deploy("--max-drop", "100") == 0
    assert calibrations(capfd.readouterr().err) == 0
    loose = int8_row(folder)
    assert loose.repair is None, "the recipe's own bundle keeps this bound"
    assert read_bundle(folder / "fake-int8").manifest.fingerprint != fingerprint
    assert deploy("--no-repair") == 1
    failing = int8_row(folder)
    assert (failing.verdict, failing.repair) == ("fail", None)
    labels = tmp_path / "labels.txt"
    labels.write_text("".join(f"class_{label}\n" for label in reversed(range(10))))
    assert deploy("--labels", str(labels)) == 1, "nothing is right in this order, so nothing is concluded"
    assert deploy() == 0
    assert calibrations(capfd.readouterr().err) == 0
    assert read_bundle(folder / "fake-int8").manifest.fingerprint == fingerprint


def test_the_list_of_calibration_images_reproduces_the_repaired_bundle(
    deploy: Callable[..., int], arguments: list[str], tmp_path: Path, capfd: Any
) -> None:
    assert deploy() == 0
    capfd.readouterr()
    own = {"--recipe", "--num-calibration-samples"}
    pairs = zip(arguments[1::2], arguments[2::2], strict=True)
    rest = [text for pair in pairs if pair[0] not in own for text in pair]
    listed = ["--calibration-list", str(tmp_path / "run" / "calibration.json"), "--target", "fake"]
    assert main(["deploy", arguments[0], *rest, *listed, "-o", str(tmp_path / "run")]) == 0
    assert "fake-int8: reused from an earlier run" in capfd.readouterr().err


def in_float(layers: Iterable[str]) -> tuple[LayerStep, ...]:
    """Steps that move each of these layers to float."""
    return tuple((name, "float") for name in layers)


def ranked(*layers: str, counts: tuple[int, ...] = (1, 2, 3)) -> Callable[..., Ranking]:
    return lambda *_: Ranking(in_float(layers), counts)


def test_the_best_attempt_if_none_is_good_enough(
    deploy: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = ("last", "head", "first", "middle")
    sets = [order[:count] for count in (1, 2, 3)]
    monkeypatch.setattr(repairing, "rank_layers", ranked(*order))
    assert deploy() == 1
    row = int8_row(tmp_path / "run")
    assert row.verdict == "fail"
    assert row.repair
    assert [attempt.float_layers for attempt in row.repair.attempts] == [(), *sets]
    drops = [attempt.drop_top1_points or 0.0 for attempt in row.repair.attempts]
    assert row.repair.chosen == drops.index(min(drops))
    assert row.accuracy
    assert row.accuracy.drop_top1_points == min(drops), "the row has the bundle of that attempt"
    assert any(note.startswith("not repaired: tried, last in float: drop ") for note in row.notes)
    assert any("; the same images chose and judged" in note for note in row.notes), "too few images for both"


def test_the_evaluation_images_judge_only_the_bundle_that_others_choose(
    deploy: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_images, "FEWEST", 15, raising=False)
    monkeypatch.setattr(repairing, "rank_layers", ranked("last", "head", fragile.FRAGILE, "first"))
    judged: list[str] = []

    def noting(device: Any, built: Any, spec: Any, *more: Any) -> Any:
        if spec.run is not None:
            judged.append(built["fake-int8"].sha256)
        return measure_on_device(device, built, spec, *more)

    monkeypatch.setattr("edgekit.pipeline.deploy.measure_on_device", noting)
    assert deploy("--num-eval-samples", "15") in (0, 1)
    report = load_report(tmp_path / "run")
    row = int8_row(tmp_path / "run")
    assert row.repair
    assert row.repair.result.float_layers == ("last", "head", fragile.FRAGILE)
    assert len(row.repair.attempts) == 4
    assert len(judged) == len({*judged}) == 2, "the recipe's own and the chosen one"
    assert row.accuracy
    assert (row.accuracy.count, report.evaluation.count, row.repair.choosing_images) == (15, 15, 15)
    assert report.choosing
    assert report.choosing.repair == 15
    assert any("on 15 other images" in note for note in row.notes)
    assert not any("chose and judged" in note for note in row.notes)
    judged.clear()
    assert deploy("--num-eval-samples", "15") in (0, 1)
    assert int8_row(tmp_path / "run").repair == row.repair
    assert len(judged) == 1, "the same command makes the same choice"


def test_an_attempt_that_fails_costs_itself(
    deploy: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    monkeypatch.setattr(repairing, "rank_layers", ranked("last", "middle", "head"))
    real = build_one

    def refuse(graphs: Any, target: str, precision: Any, path: Path) -> Any:
        if graphs.spec.recipe.for_target("fake").float_layers == ("last",):
            raise CompileError(f"can't write {tmp_path / 'run'}/secret")
        return real(graphs, target, precision, path)

    monkeypatch.setattr(study, "build_one", refuse)
    assert deploy() == 0
    repair = int8_row(tmp_path / "run").repair
    assert repair
    assert repair.chosen == 2
    assert "can't write" in (repair.attempts[1].error or "")
    assert str(tmp_path) not in (repair.attempts[1].error or ""), "reports are shared"
    assert "fake-int8: repair: can't write" in capfd.readouterr().err


def test_attempts_with_as_many_layers_do_not_share_a_folder(tmp_path: Path) -> None:
    nothing: Any = None
    sets: list[tuple[LayerStep, ...]] = [(), in_float("a"), in_float("b"), in_float("ab")]
    sets += [(("a", "dynamic"),), (("a", "dynamic"), *in_float("b")), (("a", "dynamic"), *in_float("a"))]
    with open_run(tmp_path / "run") as run:
        folders = [driver(run, nothing, nothing).path_of(Candidate(kinds)) for kinds in sets]
    assert len(set(folders[:-1])) == len(sets) - 1
    assert folders[-1] == folders[1], "the last kind of a layer counts"


def test_layers_that_cannot_be_ranked_leave_the_row_as_it_is(
    deploy: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    def refuse(*_: object) -> Ranking:
        raise CompileError("NNCF can't calibrate the graph")

    monkeypatch.setattr(repairing, "rank_layers", refuse)
    assert deploy() == 1
    row = int8_row(tmp_path / "run")
    assert (row.verdict, row.repair) == ("fail", None)
    assert "fake-int8: repair: NNCF can't calibrate the graph" in capfd.readouterr().err


POINTS: list[tuple[Any, str, int]] = [
    (mixtures, "simulate", 0),
    (deploying, "measure_on_device", 1),
    (Bundle, "copied_to", 0),
]
"""Where Ctrl-C arrives, in the order of a repair: (owner, function, number of calls that still succeed)."""


def test_an_interrupted_repair_resumes(deploy: Callable[..., int], tmp_path: Path, capfd: Any) -> None:
    folder, calibrated = tmp_path / "run", 0
    for owner, name, spared in POINTS:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(owner, name, interrupting(getattr(owner, name), spared))
            assert deploy() == 130, name
        calibrated += calibrations(capfd.readouterr().err)
        assert read_bundle(folder / "fake-int8")
    assert deploy() == 0
    assert calibrated + calibrations(capfd.readouterr().err) == 2, "for each command that builds or ranks"
    row = int8_row(folder)
    assert row.repair
    assert row.repair.result.float_layers == (fragile.FRAGILE,)
    left = [path.name for path in (folder / STATE).rglob(".*")]
    assert left == []


def test_a_guessing_reference_is_not_repaired(
    deploy: Callable[..., int], photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The classes of these folders are in another order than the network's."""
    for label in range(10):
        shutil.copytree(photos / f"class_{(label + 3) % 10}", tmp_path / "data" / f"class_{label}")
    monkeypatch.setattr(repairing, "rank_layers", unneeded)
    assert deploy("--data", str(tmp_path / "data"), "--max-drop", "0") == 1
    row = int8_row(tmp_path / "run")
    assert (row.verdict, row.repair) == ("inconclusive", None)
    assert not (tmp_path / "run" / STATE / "attempts").exists()


class Images(SimpleNamespace):
    """Chosen images of which only the brightness is known."""

    differs_in_brightness = Selection.differs_in_brightness


DARK, BRIGHT = (Images(brightness=np.array([level, level + 1]), samples=()) for level in (20.0, 120.0))


@pytest.mark.parametrize(
    ("weights", "params", "calibration", "listed", "strategies"),
    [
        ("w", 1000, BRIGHT, None, (PlacementStrategy, RepairStrategy)),
        ("random", 1000, BRIGHT, None, (PlacementStrategy,)),
        ("w", 1000, DARK, None, (PlacementStrategy,)),
        ("w", 50_000_000, BRIGHT, None, ()),
        ("w", 1000, BRIGHT, Path("calibration.json"), ()),
    ],
    ids=["any other", "no accuracy", "calibration images unlike the others", "large", "an earlier run chose"],
)
def test_jobs_that_are_not_repaired(weights: str, params: int, calibration: Any, listed: Any, strategies: Any) -> None:
    network = SimpleNamespace(weights=weights, params=params)
    spec: Any = SimpleNamespace(network=network, calibration=calibration, task=SingleLabel(), recipe=None)
    images: Any = SimpleNamespace(evaluation=BRIGHT, dataset=SimpleNamespace(is_labelled=True))
    job: Any = SimpleNamespace(
        targets=(), gates_on=Gates().for_images, calibration_list=listed, recipe=None, machines=(THIS,)
    )
    run: Any = None
    assert tuple(map(type, improvements_of(spec, images, job, run, QUIET).strategies)) == strategies


FAST, SLOW = speedup(1.5, 1.4, 1.6), speedup(1.0, 0.9, 1.1)


def test_only_an_accuracy_that_is_too_low_is_repaired() -> None:
    def missed(drop: float, gates: Gates, speed: Any = FAST, **more: Any) -> bool:
        measured = measurement(accuracy=accuracy(drop), speedup=speed, **more)
        return misses_bound(Study((Trial.of(0, Candidate(), measured),)), gates)

    assert missed(1.2, Gates())
    assert not missed(0.9, Gates())
    assert missed(0.9, Gates(must_show_drop=True)), "the interval doesn't confirm the stated bound"
    assert not missed(0.3, Gates(must_show_drop=True))
    assert not missed(1.2, Gates(), SLOW), "layers in float make it slower still"
    assert missed(1.2, Gates(min_speedup=0), SLOW)
    assert missed(1.2, Gates(), SLOW, device=device(emulated=True))
    assert not misses_bound(Study((Trial.of(0, Candidate(), failed()),)), Gates())


def state(*attempts: tuple[float | None, float | None], sets: int = 3) -> Study:
    """A repair with these drops and speedups, of which the first is the recipe's own bundle."""
    candidates = tuple(Candidate().keeping_in_float("abc"[:count]) for count in range(sets + 1))
    trials = []
    for number, (drop, speed) in enumerate(attempts):
        if drop is None:
            trials.append(Trial(number, candidates[number], error="refused"))
            continue
        where = device(emulated=True) if speed is None else device()
        fast = None if speed is None else speedup(speed, speed - 0.1, speed + 0.1)
        figures = accuracy(drop, drop_ci95_points=(drop - 0.4, drop + 0.4))
        measured = measurement(accuracy=figures, speedup=fast, device=where, engine="onnxruntime 1.0")
        trials.append(Trial.of(number, candidates[number], measured))
    return Study(tuple(trials), ranking=Ranking(in_float("abcd"), tuple(range(1, sets + 1))))


def decision(study: Study, gates: Gates) -> int | None:
    """Number of the trial to ship; None if another one has to be made."""
    result = outcome(RepairStrategy(gates, "local", 10).proposals(study), study)
    return result.number if isinstance(result, Trial) else None


@pytest.mark.parametrize(
    ("repair", "number"),
    [
        (state((3.0, 1.5)), None),
        (state((3.0, 1.5), sets=0), 0),
        (state((3.0, 1.5), (0.5, 1.4)), 1),
        (state((3.0, 1.5), (2.0, 1.4)), None),
        (state((3.0, 1.5), (0.5, 1.05)), 0),
        (state((3.0, 1.5), (2.0, 1.4), (1.5, 1.05)), 1),
        (state((3.0, 1.5), (None, None)), None),
        (state((3.0, 1.5), (None, None), (0.5, 1.4)), 2),
        (state((3.0, 1.5), (2.0, 1.4), (4.0, 1.3), (3.5, 1.3)), 1),
        (state((3.0, 1.5), (3.0, 1.4), (3.0, 1.3), (3.0, 1.3)), 0),
        (state((0.9, 1.5), (0.5, 1.4)), 0),
        (state((3.0, None), (0.5, None)), 1),
    ],
    ids=[
        "the first attempt", "nothing to try", "within the bound", "the next attempt", "no longer faster",
        "the most accurate that is faster", "a failed attempt", "after a failed attempt", "used up", "none helped",
        "a looser bound than before", "an emulated device",
    ],
)  # fmt: skip
def test_decisions(repair: Study, number: int | None) -> None:
    assert decision(repair, Gates()) == number


@pytest.mark.parametrize(
    ("repair", "number"),
    [
        (state((0.9, 1.5)), None),
        (state((0.6, 1.5)), 0),
        (state((3.0, 1.5), (0.9, 1.4)), None),
        (state((3.0, 1.5), (0.9, 1.4), (0.5, 1.3)), 2),
        (state((3.0, 1.5), (0.9, 1.4), (0.8, 1.3), (0.7, 1.2)), 1),
        (state((3.0, 1.5), (0.9, 1.4), (0.5, 1.05)), 1),
    ],
    ids=["unconfirmed", "confirmed", "the next attempt", "the first confirmed", "none confirmed", "no longer faster"],
)
def test_a_stated_bound_needs_the_whole_interval(repair: Study, number: int | None) -> None:
    assert decision(repair, Gates(must_show_drop=True)) == number
    assert decision(repair, Gates()) in (0, 1), "without it, the measured drop decides"


@pytest.mark.parametrize(
    ("own", "repair", "gates", "number"),
    [
        (2.0, state((0.5, 1.5), (0.3, 1.4)), Gates(), None),
        (2.0, state((0.5, 1.5), (0.25, 1.4)), Gates(), 1),
        (2.0, state((0.0, 1.5), (0.1, 1.4), (0.0, 1.3)), Gates(), 2),
        (2.0, state((3.0, 1.5), (1.0, 1.4)), Gates(), 1),
        (2.0, state((0.5, 1.5), (0.6, 1.4), (0.7, 1.4), (0.8, 1.4)), Gates(), 0),
        (2.0, state((0.5, 1.5), (0.4, 1.4), (0.3, 1.4), (0.28, 1.4)), Gates(), 3),
        (2.0, state((3.0, 1.5), (1.0, 1.4)), Gates(max_drop=2.5), 0),
        (0.9, state((3.0, 1.5), (1.0, 1.4)), Gates(), 0),
        (2.0, state((None, None), (1.1, 1.4), (0.9, 1.4)), Gates(), 2),
    ],
    ids=[
        "half is not enough", "cut as far as needed", "nothing to see of the loss", "a larger loss", "none helped",
        "used up", "a looser bound", "the evaluation images show no miss", "the own one fails there",
    ],
)  # fmt: skip
def test_other_images_compare_the_attempts(own: float, repair: Study, gates: Gates, number: int | None) -> None:
    """They may show less of the loss than the evaluation images, as images of the split train do."""
    judged, compared = state((own, 1.5)).trials[0], repair.trials[0]
    study = replace(repair, trials=(judged, *repair.trials[1:]), compared=compared)
    assert decision(study, gates) == number


DYNAMIC: tuple[LayerStep, ...] = tuple((f"linear{number}", "dynamic") for number in range(10))
STEPS = (*DYNAMIC, *in_float(name for name, _ in DYNAMIC), *in_float(f"conv{number}" for number in range(10)))


def tried(
    drop: Callable[[int], float], speed: Callable[[int], float], counts: tuple[int, ...] = (24,), most: float = 1.0
) -> tuple[int, dict[int, tuple[float, float]]]:
    """The number of steps that a repair takes on a bench with these curves, and all that it measured."""
    strategy = RepairStrategy(Gates(max_drop=most), "local", 10)
    measured: dict[int, tuple[float, float]] = {}

    def trial(count: int) -> Trial:
        measured[count] = points, ratio = drop(count), speed(count)
        row = measurement(accuracy=accuracy(points), speedup=speedup(ratio, ratio - 0.01, ratio + 0.01))
        return Trial.of(len(measured) - 1, Candidate(STEPS[:count]), row)

    study = Study((trial(0),), ranking=Ranking(STEPS, counts))
    while isinstance(following := outcome(strategy.proposals(study), study), Proposal):
        study = replace(study, trials=(*study.trials, trial(len(following.candidate.kinds))))
    return len(following.candidate.kinds), measured


def falling(count: int) -> float:
    """Points lost with so many layers in float: 2.7, 0.99 with three and 0.5 with five."""
    return 2.7 * 0.715**count


@pytest.mark.parametrize(
    ("drop", "speed", "counts", "chosen", "attempts"),
    [
        (falling, lambda n: 1.14 - 0.0154 * n, (24,), 3, [24, 12, 6, 3, 1, 2]),
        (falling, lambda n: 1.14 - 0.0025 * n, (24,), 6, [24, 12, 6]),
        (falling, lambda n: 1.14 - 0.0154 * n, (2, 4, 8), 3, [2, 4, 3]),
        (lambda n: 1.5 if n < 20 else 0.5, lambda n: 1.6 - 0.02 * n, (2, 4, 8), 22, [2, 4, 8, 16, 29, 22]),
        (lambda n: 2.7, lambda n: 1.14 - 0.0154 * n, (2, 4, 24), 0, [2, 4, 24]),
        (lambda n: 2.7 if n < 12 else 0.5, lambda n: 1.1 - 0.02 * n, (24,), 0, [24, 12, 6]),
        (lambda n: 2.7 if n < 12 else 0.5, lambda n: 1.1 - 0.02 * n, (), 0, []),
    ],
    ids=[
        "the fewest that keep the bound", "until no bundle is noticeably faster", "between two attempts",
        "twice as many", "nothing helps", "only bundles slower than float keep it", "no set cuts the noise",
    ],
)  # fmt: skip
def test_a_bisection_finds_the_fastest_bundle_within_the_bound(
    drop: Any, speed: Any, counts: tuple[int, ...], chosen: int, attempts: list[int]
) -> None:
    count, measured = tried(drop, speed, counts)
    assert list(measured) == [0, *attempts]
    assert count == chosen


@pytest.mark.parametrize("seed", range(30))
def test_no_repair_ends_slower_than_float_or_than_another_bundle_within_the_bound(seed: int) -> None:
    """Drops and speeds of few images and runs are noisy."""
    random = np.random.default_rng(seed)
    shift, start, slope = random.uniform(0.3, 0.95), random.uniform(1.05, 2), random.uniform(0, 0.05)
    count, measured = tried(
        lambda n: 1.2 + shift**n * random.uniform(0.5, 2) - 1,
        lambda n: start - slope * n + random.normal(0, 0.01),
        (int(random.integers(1, 10)), 24),
    )
    assert len(measured) <= 1 + MOST_ATTEMPTS
    good = {n: speed for n, (drop, speed) in measured.items() if n and drop <= 1 and speed > 1.01}
    if measured[0][0] <= 1 or not good:
        assert count == 0 or measured[count][1] > 1.01
    else:
        assert good[count] >= 0.98 * max(good.values())


def test_layers_in_float_never_make_the_shipped_bundle_slower_than_float() -> None:
    gates = Gates(min_speedup=0)
    assert decision(state((3.0, 1.5), (0.5, 0.8)), gates) == 0
    assert decision(state((3.0, 1.5), (2.0, 1.02), (0.5, 0.8)), gates) == 1
    assert decision(state((3.0, 1.5), (0.5, 0.95)), gates) == 1, "the interval doesn't show that it is slower"
    assert decision(state((3.0, 0.8), (0.5, 0.7)), gates) == 1, "it wasn't faster before"
    assert decision(state((3.0, None), (0.5, None)), gates) == 1, "an emulated device"


@pytest.mark.parametrize(("images", "confirmed"), [(0, False), (300, False), (400, True)])
def test_a_bound_that_no_bundle_could_confirm_is_judged_by_the_measured_drop(images: int, confirmed: bool) -> None:
    least = least_drop_bound(images)
    assert within_reach(Gates(must_show_drop=True), least).must_show_drop is confirmed
    assert not within_reach(Gates(), least).must_show_drop


def test_attempts_count_on_the_device_and_runtime_that_measured_them() -> None:
    repair = state((3.0, 1.5))
    row = measurement(precision="int8", device=device(), engine="onnxruntime 1.0")
    assert repair.is_of(row)
    assert not repair.is_of(replace(row, engine="onnxruntime 1.1"))
    assert not repair.is_of(replace(row, device=device(memory_bytes=2)))


@dataclass(frozen=True)
class Spec:
    """What bundles are built from, without a network."""

    recipe: Recipe
    calibration: Any


SPEC: Any = Spec(Recipe.load("default"), SimpleNamespace(samples=()))
GRAPHS: Any = SimpleNamespace(
    with_recipe=lambda _: None, spec=SimpleNamespace(device_class=SimpleNamespace(name="x86-64-v4"))
)
KEY: Any = SimpleNamespace(key="key")


REPAIR = RepairStrategy(Gates(), "local", 10)


def driver(run: RunFolder, shipped: MeasuredBundles, measure: Any) -> Driver:
    return Driver(run, "onnx", KEY, SPEC.recipe, GRAPHS, QUIET, shipped, measure)


def test_on_another_device_the_repair_begins_with_the_recipes_own_bundle(
    make_bundle: MakeBundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = read_bundle(make_bundle("onnx"))
    row = measurement(precision="int8")
    monkeypatch.setattr(study, "build_one", lambda graphs, target, precision, path: bundle.copied_to(path))
    with open_run(tmp_path / "run") as run:
        before = MeasuredBundles({"onnx-float": bundle, "onnx-int8": bundle}, {"onnx-int8": row})
        after = driver(run, before, lambda bundles, _=None: dict.fromkeys(bundles, row)).begin_again("repair")
    shipped = after.bundles["onnx-int8"]
    assert isinstance(shipped, Bundle)
    assert (shipped.path, after.rows["onnx-int8"]) == (tmp_path / "run/onnx-int8", row)


def test_the_first_measurement_decides_whether_a_bundle_is_repaired(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was too slow anyway in the first command, and is faster in the second."""
    calls: list[object] = []

    def rank(*inputs: object) -> Ranking:
        calls.append(inputs)
        return Ranking((), ())

    monkeypatch.setattr(repairing, "rank_layers", rank)
    own: Any = object()
    with open_run(tmp_path / "run") as run:
        for speed in (SLOW, FAST):
            row = measurement(precision="int8", accuracy=accuracy(3.0), speedup=speed)
            shipped = MeasuredBundles({"onnx-int8": own}, {"onnx-int8": row})
            study, after = driver(run, shipped, unneeded).improve(REPAIR)
            assert after == shipped
            assert study is None or len(study.trials) == 1
    assert calls == []


def improving(run: RunFolder, targets: Sequence[str], devices: Any, monkeypatch: pytest.MonkeyPatch) -> Improvements:
    """The repairs of a job whose studies have inputs without a network."""
    images: Any = None
    job: Any = SimpleNamespace(targets=targets, machines=devices, timing=Timing())
    monkeypatch.setattr(improvements, "study_inputs", lambda *_: KEY)
    return Improvements(SPEC, images, job, Gates(), run, QUIET, (RepairStrategy,))


def bench(measure: Any) -> Any:
    return SimpleNamespace(measure_on=measure, choosing=None)


def test_a_repair_that_begins_again_reports_the_bundle_in_the_run(
    make_bundle: MakeBundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another version of the runtime measured the attempts, and no other layers help now."""
    bundle = read_bundle(make_bundle("onnx"))
    earlier = measurement(accuracy=accuracy(0.5), engine="onnxruntime 1.1")
    own = measurement(accuracy=accuracy(3.0), engine="onnxruntime 1.1")
    monkeypatch.setattr(repairing, "rank_layers", ranked(counts=()))
    monkeypatch.setattr(study, "build_one", lambda graphs, target, precision, path: bundle.copied_to(path))
    with open_run(tmp_path / "run") as run:
        shipped = bundle.copied_to(run.path / "onnx-int8")
        repairs = improving(run, ["onnx"], (THIS,), monkeypatch)
        run.remember("repair-onnx", KEY, state((3.0, 1.5), (0.5, 1.4)))
        measuring = bench(lambda _, bundles, __=None: dict.fromkeys(bundles, own))
        after = repairs.improve({"onnx-int8": shipped}, [{"onnx-int8": earlier}], measuring, GRAPHS)
    assert after == [{"onnx-int8": own}]


def test_a_speedup_of_an_emulated_device_does_not_count() -> None:
    measured = measurement(precision="int8", accuracy=accuracy(1.2), speedup=SLOW, device=device(emulated=True))
    attempt = attempt_of(Trial.of(1, Candidate().keeping_in_float(["a"]), measured))
    assert (attempt.speedup, attempt.speedup_ci95, attempt.float_layers) == (None, None, ("a",))


def test_other_devices_measure_the_repaired_bundles_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built: Any = {name: object() for name in ("onnx-float", "onnx-int8", "tflite-float", "tflite-int8")}
    monkeypatch.setattr(improvements, "Bundle", object)

    def repaired(driver: Driver, _: RepairStrategy) -> Any:
        if driver.target == "onnx":
            return None, driver.shipped
        bundles: Any = {**driver.shipped.bundles, "tflite-int8": "repaired"}
        return None, MeasuredBundles(bundles, driver.measure(bundles))

    monkeypatch.setattr(Driver, "improve", repaired)
    calls: list[tuple[str, list[str], bool]] = []

    def measure(device: Any, bundles: Any, threads: int | None = None) -> Any:
        calls.append((device.name, list(bundles), bundles["tflite-int8"] == "repaired"))
        return {name: f"new {name} on {device.name}" for name in bundles}

    devices: Any = (SimpleNamespace(name="pi4", url="ssh://pi4"), SimpleNamespace(name="pi5", url="ssh://pi5"))
    before: Any = [{name: f"{name} on {device.name}" for name in built} for device in devices]
    graphs: Any = None
    with open_run(tmp_path / "run") as run:
        repairs = improving(run, ("onnx", "tflite"), devices, monkeypatch)
        after = repairs.improve(built, before, bench(measure), graphs)
    group = ["tflite-float", "tflite-int8"]
    assert calls == [("pi4", group, True), ("pi5", group, True)]
    for old, new in zip(before, after, strict=True):
        assert list(new.items()) == [(name, f"new {row}" if "tflite" in name else row) for name, row in old.items()]


def test_words() -> None:
    own = RepairAttempt(drop_top1_points=2.0, speedup=1.8)
    kept = RepairAttempt(float_layers=("a", "b", "c", "d", "e"), drop_top1_points=0.25, speedup=1.6)
    refused = RepairAttempt(float_layers=("a",), error="compile: refused")
    common: Any = {"device": "local", "max_drop_points": 1.0, "ranking_images": 32}
    assert Repair(attempts=(own, kept), chosen=1, **common).words == (
        "repaired: 5 layers (a, b, c, d, …) in float changed the drop from 2.00 to 0.25 points and the speedup "
        "over float from 1.80x to 1.60x; the same images chose and judged"
    )
    fewer = RepairAttempt(float_layers=("a", "b"), drop_top1_points=1.5, speedup=1.7)
    more = RepairAttempt(float_layers=tuple("abcdefgh"), drop_top1_points=0.2, speedup=1.3)
    assert Repair(attempts=(own, more, kept, refused, fewer), chosen=2, **common).words.endswith(
        ". Next to it: with a, b in float: drop 1.50 points and 1.70x float; with 8 layers (a, b, c, d, …) in float: "
        "drop 0.20 points and 1.30x float"
    )
    assert Repair(attempts=(own, kept), chosen=1, choosing_images=1300, **common).words.endswith(
        " from 1.80x to 1.60x on 1,300 other images"
    )
    assert Repair(attempts=(own, refused), chosen=0, **common).words == (
        "not repaired: tried, a in float: compile: refused; this is the recipe's own bundle; the same images chose and "
        "judged"
    )
    assert Repair(attempts=(own,), chosen=0, **common).words.startswith("not repaired: no set of layers")
    dynamic = RepairAttempt(dynamic_layers=("a", "b"), drop_top1_points=0.5, speedup=1.6)
    both = replace(dynamic, dynamic_layers=("a",), float_layers=("b",))
    assert (dynamic.words, both.words) == (
        "a, b with ranges at run time: drop 0.50 points and 1.60x float",
        "a with ranges at run time and b in float: drop 0.50 points and 1.60x float",
    )
    assert Repair(attempts=(own, kept, both, dynamic), chosen=2, **common).beside == (
        f". Next to it: with {dynamic.words}; with {kept.words}"
    )
    alike = Repair(attempts=(own, kept, both, dynamic), chosen=0, **common)
    refusing = (Repair(attempts=(own, refused, *more), chosen=0, **common) for more in ((kept,), ()))
    rows: Any = [SimpleNamespace(name="onnx-int8", repair=repair) for repair in (alike, *refusing, None)]
    assert list(prices(rows)) == [
        f"onnx-int8 keeps the bound with {layers} at 1.60x float; without repair it loses 2.00 points at 1.80x float."
        for layers in ("a, b with ranges at run time", "5 layers (a, b, c, d, …) in float")
    ]
