"""`edgekit sensitivity`, which ranks layers by lost accuracy, and `edgekit tune`, which searches for a recipe."""

from dataclasses import replace
from typing import Any

from edgekit.cli import panels
from edgekit.cli.arguments import JSON, MODEL_OR_RUN_OR_DEMO, QUIET, WIDE, search_option
from edgekit.cli.command import FIELDS, command
from edgekit.cli.output import answer_width, clean_stdout, emit, show_report, show_steps, wrapped
from edgekit.config.choices import PRECISIONS
from edgekit.job import Job, job_of
from edgekit.job.job import EVERY_CORE, MAKING
from edgekit.job.saved import announce, run_of
from edgekit.support.libraries import import_needed

SAMPLES = 128
MOST_MINUTES = 365 * 24 * 60
UNLESS_DEMO = f"{panels.REQUIRED}, except for demo"
SHOWN = ("weights", "labels", "imgsz", "data", "calibration_data", "targets", "recipe", "output", "num_eval_samples")


@command(
    panels.MORE,
    *(name for name in MAKING if name != "scheme"),
    *("num_eval_samples", "max_drop", "threads"),
    defaults={
        "data": UNLESS_DEMO,
        "output": "runs/MODEL, or the run folder that is given as MODEL",
        "num_eval_samples": str(SAMPLES),
        "max_drop": "1",
        "threads": EVERY_CORE,
    },
    helps={
        "output": "Run folder for sensitivity.json and sensitivity.svg.",
        "num_eval_samples": "Number of images to simulate on.",
        "max_drop": "Loss of accuracy, in percentage points, above which a layer is flagged.",
    },
    shown=(*SHOWN, "max_drop", "threads"),
)
def sensitivity(
    stated: dict[str, Any], model: str = MODEL_OR_RUN_OR_DEMO, json_: bool = JSON, quiet: bool = QUIET
) -> int:
    """Rank layers by the accuracy they lose and the time they save in INT8.

    The loss is simulated from one calibration. Writes sensitivity.json and
    sensitivity.svg to the run folder.
    """
    from edgekit.support.progress import Reporter, loading

    job = _of_analysis(job_of(model, stated), stated)
    job.check()
    announce(model, job, quiet)
    with clean_stdout() as out:
        reporter = Reporter(quiet)
        with loading(reporter):
            from edgekit.tuning.sensitivity import analyse
        analysis = analyse(job, reporter)
        if json_:
            emit(out, analysis)
        else:
            from rich.console import Console

            from edgekit.cli.next_steps import after_sensitivity
            from edgekit.report.sensitivity_document import render_sensitivity

            render_sensitivity(analysis, Console(file=out))
            show_steps(after_sensitivity(analysis, job.folder), out)
            out.write(f"\n{job.folder}/sensitivity.json\n{job.folder}/sensitivity.svg\n")
    return 0 if all(part.verdict == "pass" for part in analysis.targets) else 1


def _of_analysis(job: Job, stated: dict[str, Any]) -> Job:
    """The job as `sensitivity` runs it: on few images, with a bound, and with both precisions."""
    count = job.num_eval_samples or SAMPLES
    changes: dict[str, Any] = {
        "num_eval_samples": count if "num_eval_samples" in stated else min(count, SAMPLES),
        "max_drop": 1.0 if job.max_drop is None else job.max_drop,
    }
    return replace(job.with_values(changes), precisions=PRECISIONS, verb="sensitivity")


@command(
    panels.COMMANDS,
    *(name for name in FIELDS if name not in ("precisions", "scheme", "check_stability", "repair")),
    defaults={"data": UNLESS_DEMO, "output": "runs/MODEL, or RUN-tuned for a run folder"},
    shown=(*SHOWN, "devices", "threads", "max_drop", "min_speedup"),
)
def tune(
    stated: dict[str, Any],
    model: str = MODEL_OR_RUN_OR_DEMO,
    num_tuning_samples: int | None = search_option(
        "N",
        "Number of images to search on. The final figures come from the remaining images.",
        min=1,
        show_default="half of the images that calibration leaves",
    ),
    trials: int | None = search_option("N", "Number of recipes to try for each runtime.", min=1, show_default="all"),
    budget_minutes: float | None = search_option(
        "MINUTES",
        "Minutes after which no further trial starts. The final measurement comes after the search.",
        min=0.01,
        max=MOST_MINUTES,
        show_default="no limit",
    ),
    wide: bool = WIDE,
    json_: bool = JSON,
    quiet: bool = QUIET,
) -> int:
    """Search for the fastest recipe that stays within --max-drop.

    Trials run on this machine, one at a time. With another --device, speed is
    judged only in the final measurement there. Images that the search never
    saw judge the result. Writes recipe.toml and its bundles and report to the
    run folder. After an interruption, the same command resumes.
    """
    from edgekit.support.progress import Reporter, loading

    run = run_of(model, stated.get("output"))
    if run and "output" not in stated:
        stated["output"] = run.with_name(f"{run.name}-tuned")
    job = job_of(model, stated)
    if run and "num_eval_samples" not in stated and (total := job.num_eval_samples):
        held_out = total - total // 2 if num_tuning_samples is None else None
        num_tuning_samples = num_tuning_samples or total // 2  # the run's images are split between search and verdict
        job = job.with_values({"num_eval_samples": held_out})
    own = {"--num-tuning-samples": num_tuning_samples, "--trials": trials, "--budget-minutes": budget_minutes}
    more = tuple(word for flag, value in own.items() if value is not None for word in (flag, f"{value:g}"))
    job = replace(job, verb="tune", more=more, precisions=PRECISIONS)
    job.check()
    announce(model, job, quiet)
    with clean_stdout() as out:
        import_needed("tomlkit", "tune")
        reporter = Reporter(quiet)
        with loading(reporter):
            from edgekit.tuning.search import Search
            from edgekit.tuning.search import tune as search_recipe
        report = search_recipe(job, Search(trials, budget_minutes, num_tuning_samples), reporter)
        if json_:
            emit(out, report)
        else:
            from edgekit.cli.next_steps import after_job
            from edgekit.report.recipe_search import lines

            show_report(report, out, wide)
            for line in lines(report.tuning) if report.tuning else ():
                out.writelines(f"{part}\n" for part in wrapped(line, answer_width()))
            show_steps(after_job(report, job.folder), out)
            out.write(f"\nRecipe: {job.folder}/recipe.toml\nReport: {job.folder}/report.html\n")
    return 0 if all(row.verdict == "pass" for row in report.results) else 1
