"""`edgekit deploy` and `edgekit demo`, which run the whole job."""

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from edgekit import api
from edgekit.cli import panels
from edgekit.cli.arguments import MODEL_OR_RUN
from edgekit.cli.command import FIELDS, command
from edgekit.cli.output import Answer
from edgekit.cli.plan import lines_of_plan
from edgekit.job import DEMO, Job, job_of
from edgekit.job.job import MODEL
from edgekit.job.saved import announce
from edgekit.models.demo import OUTPUT

if TYPE_CHECKING:
    from edgekit.pipeline.deploy import PlannedRun

OF_DEMO = {
    "weights": "edgekit's own",
    "data": "edgekit's own images",
    "calibration_data": "edgekit's own images; with --data, its split train or a part of it",
    "output": str(OUTPUT),
}
"""Defaults of `edgekit demo`."""
DEPLOY_EXAMPLES = """
Examples:
  edgekit deploy resnet18 --data photos
  edgekit deploy resnet18 --weights best.pth --data photos
  edgekit deploy my-saved-model --data validation.zip --labels labels.txt
  edgekit deploy resnet18 --data photos --device pi5 --target tflite
  edgekit deploy resnet18 --data photos --max-drop 0.5 --json > report.json
  edgekit deploy resnet18 --data photos --junit junit.xml --summary summary.md
  edgekit deploy job.toml
  edgekit deploy runs/resnet18 --labels corrected.txt
"""


@command(panels.COMMANDS, *FIELDS, defaults={"data": panels.REQUIRED}, judges=True, epilog=DEPLOY_EXAMPLES)
def deploy(stated: dict[str, Any], quiet: bool, dry_run: bool, model: str = MODEL_OR_RUN) -> Answer:
    """Quantize, compile, evaluate, benchmark and report, for every runtime.

    The run folder then holds a float and an int8 bundle for each runtime, and
    the report in several formats. The exit code is 0 if every bundle passed
    its gates and 1 if not. After an interruption, the same command resumes.
    """
    job = job_of(model, stated)
    announce(model, job, quiet)
    return _run(job, quiet, dry_run)


@command(
    panels.COMMANDS,
    *(name for name in FIELDS if name == "weights" or name not in MODEL),
    defaults=OF_DEMO,
    shown=("targets", "devices", "output"),
    advanced=("junit", "summary", "dry_run"),
    judges=True,
)
def demo(stated: dict[str, Any], quiet: bool, dry_run: bool) -> Answer:
    """Run `edgekit deploy` on the model and images that come with edgekit.

    The model is a small ConvNeXt V2, the images are from CIFAR-10.
    """
    job = replace(Job.of(DEMO, stated), verb=DEMO)
    return _run(job, quiet, dry_run)


def _run(job: Job, quiet: bool, dry_run: bool) -> Answer:
    """Run or plan the job."""
    from edgekit.cli.next_steps import after_job
    from edgekit.report import render_answer
    from edgekit.report.junit import junit_of_report
    from edgekit.report.markdown import summary_of_report

    if dry_run:
        planned = _planned(job, quiet)
        facts = {key: value for key, value in vars(planned).items() if key != "prediction"}
        lines = lines_of_plan(planned.prediction, "this machine") if planned.prediction else ()
        return Answer(planned, [*(f"{key}: {value}" for key, value in facts.items()), *lines])
    run = api.deploy_job(job, quiet)
    return Answer(
        run.report,
        partial(render_answer, run.report),
        after_job(run.report, job.folder),
        last=("", f"Report: {job.folder}/report.html"),
        passed=run.passed,
        junit=lambda: junit_of_report(run.report),
        summary=lambda: summary_of_report(run.report),
    )


def _planned(job: Job, quiet: bool) -> "PlannedRun":
    job.check()
    with api.running(quiet) as reporter:
        from edgekit.pipeline.deploy import plan

        return plan(job, reporter)
