"""Tables of the models that were tried, from the benchmarks' JSON, for benchmarks/MODELS.md and a summary in docs."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from benchmarks.peerlib.results import Group
from benchmarks.rows import read_rows
from docs.generate.figures import BENCHMARKS, day_of, recorded_rows
from docs.generate.markdown import code, plain, table
from docs.generate.peers import files, results_of
from edgekit.config.recipes import Recipe
from edgekit.config.runtimes import RUNTIMES

NOTHING = "–"  # noqa: RUF001
Status = Literal["measured", "does not fit", "failed", "not run yet"]
FULL_SIZE = {
    "CoCa, 91.0 %": "open_clip:coca_2b",
    "Model soups with BASIC-L, 90.98 %": "coatnet_7_224",
    "Model soups with ViT-G/14, 90.94 %": "vit_gigantic_patch14_224",
    "DaViT-Giant, 90.4 %": "davit_giant",
    "ConvNeXt V2-Huge, 88.9 %": "convnextv2_huge",
}
"""The published systems with the best top-1 on ImageNet, and the model that each of them is in edgekit."""


@dataclass(frozen=True)
class Outcome:
    """What became of a model on one runtime."""

    status: Status
    agreement: float | None = None
    """Share of images for which INT8 predicts the class that torch's float network predicts."""
    snr_db: float | None = None
    """Signal-to-noise ratio of the INT8 logits."""
    reason: str = ""

    def __str__(self) -> str:
        if self.status != "measured":
            return f"{self.status}: {self.reason}" if self.reason else self.status
        snr = "" if self.snr_db is None else f", {self.snr_db:.1f} dB"
        return f"{_percent(self.agreement or 0.0)}{snr}"


TOO_LARGE: Mapping[tuple[str, str], Outcome] = {
    ("coatnet_7_224", "tflite"): Outcome("does not fit", reason="2,596 MB, and a TFLite file holds at most 2 GB"),
}
"""What `edgekit plan` prints for INT8 of a model that a runtime's format can't hold."""


@dataclass(frozen=True)
class TriedModel:
    """A model that a benchmark ran."""

    name: str
    recipe: str
    params: int | None
    side: int | None
    """Input side in pixels."""
    weights: str
    benchmark: str
    """Heading of the section that shows it. Each heading stands for one way to run networks."""
    recorded: str
    """The last day of its figures; empty for a model that was never run."""
    outcomes: Mapping[str, Outcome]
    """By runtime."""


def tried_models() -> list[TriedModel]:
    """Every model that a benchmark's JSON has, and the full-size ones that none has run."""
    return [*_of_peers(), *_of_leaderboard(), *_of_giants()]


def _of_peers() -> Iterator[TriedModel]:
    for name, model in results_of(files()[0])["models"].items():
        ours = {runtime: Group(model, runtime).ours for runtime in RUNTIMES}
        outcomes = {
            runtime: Outcome("measured", row["agreement"], row["snr_db"]) if row else Outcome("failed")
            for runtime, row in ours.items()
        }
        day = max(each["created"] for each in model["timed"].values())[:10]
        about = model["recipe"], model["params"], model["input"][0], model["weights"]
        yield TriedModel(name, *about, "peers", day, outcomes)


def _of_leaderboard() -> Iterator[TriedModel]:
    rows = read_rows(BENCHMARKS / "leaderboard.json")
    for name in dict.fromkeys(row["model"] for row in rows):
        own = [row for row in rows if row["model"] == name]
        outcomes = {
            row["target"]: Outcome("failed", reason=row["reason"])
            if "reason" in row
            else Outcome("measured", row["agreement"], row["snr_db"])
            for row in own
        }
        facts: dict[str, Any] = next((row for row in own if "recipe" in row), {})
        recipe, params, side = Recipe.for_model(name).name, facts.get("params"), facts.get("input")
        yield TriedModel(name, recipe, params, side, "random", "leaderboard", day_of(own[0]), outcomes)


def _of_giants() -> Iterator[TriedModel]:
    rows = read_rows(BENCHMARKS / "giants.json")
    for name in dict.fromkeys((*(row["model"] for row in rows), *FULL_SIZE.values())):
        own = [row for row in rows if row["model"] == name]
        facts: dict[str, Any] = next((row for row in own if "bundles" in row), {})
        planned = {runtime: outcome for (model, runtime), outcome in TOO_LARGE.items() if model == name}
        outcomes = planned | {row["target"]: _giant(row) for row in own}
        recipe = Recipe.for_model(name).name
        day = max(map(day_of, own), default="")
        yield TriedModel(name, recipe, facts.get("params"), facts.get("input"), "random", "giants", day, outcomes)


def _giant(row: dict[str, Any]) -> Outcome:
    if "refused" in row:
        return Outcome("does not fit", reason=" ".join(row["refused"]))
    (bundle,) = (each for each in row["bundles"] if each["precision"] == "int8")
    if bundle["verdict"] == "error":
        return Outcome("failed", reason="; ".join(bundle["reasons"]))
    return Outcome("measured", bundle["agreement"])


def models_table() -> str:
    """A line for each model and benchmark: INT8 on each runtime, with a link to how it was run."""
    heads = ("model", "recipe", "size", "weights", *(each.title for each in RUNTIMES.values()), "run by")
    return table(heads, map(_model_cells, tried_models())) + "\n"


def _model_cells(model: TriedModel) -> tuple[str, ...]:
    size = [] if model.params is None else [f"{model.params / 1e6:,.1f} M", f"{model.side} px"]
    outcomes = (str(model.outcomes.get(runtime, Outcome("not run yet"))) for runtime in RUNTIMES)
    link = f"[{model.benchmark}](#{model.benchmark}), {model.recorded}"
    return code(model.name), code(model.recipe), ", ".join(size) or NOTHING, model.weights, *outcomes, link


def families_table() -> str:
    """A line for each recipe: its networks, their sizes, and the range of INT8's signal-to-noise ratio by runtime."""
    by_recipe: dict[str, list[TriedModel]] = {}
    for model in tried_models():
        by_recipe.setdefault(model.recipe, []).append(model)
    heads = ("recipe", "networks", "parameters", *(f"{each.title}, dB" for each in RUNTIMES.values()))
    return table(heads, [_family_cells(recipe, own) for recipe, own in sorted(by_recipe.items())]) + "\n"


def _family_cells(recipe: str, own: list[TriedModel]) -> tuple[str, ...]:
    names = dict.fromkeys(code(model.name) for model in own)
    sizes = [model.params / 1e6 for model in own if model.params]
    ratios = (
        [outcome.snr_db for model in own if (outcome := model.outcomes.get(runtime)) and outcome.snr_db is not None]
        for runtime in RUNTIMES
    )
    return code(recipe), ", ".join(names), f"{_range(sizes)} M", *map(_range, ratios)


def _range(values: list[float]) -> str:
    ends = dict.fromkeys(f"{value:,.1f}" for value in (min(values), max(values))) if values else ()
    return " to ".join(ends) or NOTHING


def systems_table() -> str:
    """Which model stands for each published system, and how far it was run."""
    by_name = {model.name: model for model in _of_giants()}
    rows = [(plain(system), code(name), _progress(by_name[name])) for system, name in FULL_SIZE.items()]
    return table(("system, published top-1", "model", "full size, random weights"), rows) + "\n"


def _progress(model: TriedModel) -> str:
    measured = [name for name, outcome in model.outcomes.items() if outcome.status == "measured"]
    done = [runtime.title for name, runtime in RUNTIMES.items() if name in measured]
    return f"measured with {', '.join(done)}" if done else "not run yet"


def leaderboard_recorded() -> str:
    """A sentence: of which commits, days and machine the leaderboard's rows are."""
    return recorded_rows(read_rows(BENCHMARKS / "leaderboard.json")) + "\n"


def giants_table() -> str:
    """Memory, time and size of the full-size models."""
    heads = (
        "model", "runtime", "INT8 MB", "peak GiB to make it", "CPU s to make it", "MACs in int8", "p50 ms",
        "peak GiB to run it",
    )  # fmt: skip
    rows = [row for row in read_rows(BENCHMARKS / "giants.json") if "bundles" in row]
    cells = [_giant_cells(row, each) for row in rows for each in row["bundles"]]
    return f"{table(heads, cells)}\n\n{recorded_rows(rows)}\n"


def _giant_cells(row: dict[str, Any], bundle: dict[str, Any]) -> tuple[str, ...]:
    share, seconds = bundle["int8_share_of_macs"], row["cpu_seconds"]
    return (
        f"{code(row['model'])}, {row['params'] / 1e6:,.0f} M, {row['input']} px",
        RUNTIMES[row["target"]].title,
        f"{bundle['size_bytes'] / 1e6:,.0f}",
        f"{row['peak_bytes'] / 2**30:.1f}",
        NOTHING if seconds is None else f"{seconds:,.0f}",
        NOTHING if share is None else _percent(share, 1),
        f"{bundle['p50_ms']:,.0f}",
        f"{bundle['run_peak_bytes'] / 2**30:.1f}",
    )


def _percent(share: float, digits: int = 0) -> str:
    return f"{100 * share:.{digits}f} %"
