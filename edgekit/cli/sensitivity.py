"""`edgekit sensitivity`, which ranks layers by lost accuracy."""

from dataclasses import replace
from functools import partial
from typing import Any

from edgekit import api
from edgekit.cli import panels
from edgekit.cli.arguments import MODEL_OR_RUN_OR_DEMO
from edgekit.cli.command import command
from edgekit.cli.output import Answer
from edgekit.config.choices import PRECISIONS
from edgekit.job import Job, job_of
from edgekit.job.job import EVERY_CORE, MAKING
from edgekit.job.saved import announce

SAMPLES = 128
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
def sensitivity(stated: dict[str, Any], quiet: bool, model: str = MODEL_OR_RUN_OR_DEMO) -> Answer:
    """Rank layers by the accuracy they lose and the time they save in INT8.

    The loss is simulated from one calibration. Writes sensitivity.json and
    sensitivity.svg to the run folder.
    """
    from edgekit.cli.next_steps import after_sensitivity
    from edgekit.report.sensitivity_document import render_sensitivity

    job = _of_analysis(job_of(model, stated), stated)
    job.check()
    announce(model, job, quiet)
    with api.running(quiet) as reporter:
        from edgekit.tuning.sensitivity import analyse

        analysis = analyse(job, reporter)
    return Answer(
        analysis,
        partial(render_sensitivity, analysis),
        after_sensitivity(analysis, job.folder),
        last=("", f"{job.folder}/sensitivity.json", f"{job.folder}/sensitivity.svg"),
        passed=all(part.verdict == "pass" for part in analysis.targets),
    )


def _of_analysis(job: Job, stated: dict[str, Any]) -> Job:
    """The job as `sensitivity` runs it: on few images, with a bound, and with both precisions."""
    count = job.num_eval_samples or SAMPLES
    changes: dict[str, Any] = {
        "num_eval_samples": count if "num_eval_samples" in stated else min(count, SAMPLES),
        "max_drop": 1.0 if job.max_drop is None else job.max_drop,
    }
    return replace(job.with_values(changes), precisions=PRECISIONS, verb="sensitivity")
