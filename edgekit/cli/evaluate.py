"""The command evaluate: the accuracy of bundles on labelled images."""

import re
from functools import partial
from pathlib import Path
from typing import Any

from edgekit.cli import panels
from edgekit.cli.arguments import (
    BUNDLES,
    JSON,
    JUNIT,
    QUIET,
    SUMMARY,
    WIDE,
    bundle_option,
    output_option,
    timing_option,
)
from edgekit.cli.command import command
from edgekit.cli.for_pipelines import ForPipelines
from edgekit.cli.output import answer_width, clean_stdout, show
from edgekit.devices.registry import LOCAL, THIS, Device
from edgekit.errors import UsageError
from edgekit.job import Job
from edgekit.job.job import MOST_THREADS, OF_BUNDLE
from edgekit.job.saved import bundles_of

# A host name or address, and a port; Dask takes tcp:// for granted.
_SCHEDULER = re.compile(r"(?:(?:tcp|tls|ucx|ws|wss)://)?(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_.-]+):[0-9]{1,5}")
EXAMPLES = """
Examples:
  edgekit evaluate runs/demo --data photos
  edgekit evaluate runs/demo/onnx-float runs/demo/onnx-int8 --data photos
  edgekit evaluate new/onnx-int8 --reference old/onnx-int8 --data photos \\
      --max-drop 0.5
"""


@command(
    panels.MORE,
    *("data", "num_eval_samples", "seed", "devices", "web_runtime", "web_network", "threads", "threshold", "max_drop"),
    defaults={
        "data": panels.REQUIRED,
        "num_eval_samples": "all",
        "threads": f"{OF_BUNDLE}, or 1 for each of several workers",
        "max_drop": "no gate",
    },
    helps={
        "num_eval_samples": "Number of images to evaluate on, of each class in proportion to its size.",
        "devices": "Device to evaluate on: local (this machine), or web for a browser, such as a phone's, that opens "
        "the address which edgekit shows. A browser runs bundles for LiteRT.",
        "threads": "Number of threads that the runtime uses in each process.",
        "max_drop": "Largest loss of top-1 accuracy, or of the task's metric, against the reference, in percentage "
        "points, with which a bundle passes. Its whole 95 % confidence interval must lie within the bound. Float "
        "bundles are exempt if int8 bundles are compared with one.",
    },
    epilog=EXAMPLES,
)
def evaluate(
    stated: dict[str, Any],
    bundles: list[Path] = BUNDLES,
    reference: Path | None = bundle_option(
        "BUNDLE",
        "Bundle that the others are compared with.",
        show_default="the first float bundle, or else the first bundle",
    ),
    workers: int | None = timing_option(
        "N",
        "Number of processes to spread the images over.",
        min=1,
        max=MOST_THREADS,
        show_default="1, in this process",
    ),
    scheduler: str | None = timing_option(
        "ADDRESS",
        "Address of a Dask scheduler, such as tcp://HOST:8786, whose workers evaluate too. They need the bundles and "
        "images at the same paths. Dask sends pickles, which can run code, so use it only between machines that you "
        "trust, on a private network.",
    ),
    output: Path | None = output_option(
        "FOLDER",
        "Folder for finished parts, from which the same command resumes after an interruption.",
        flags=("--output", "-o"),
    ),
    junit: Path | None = JUNIT,
    summary: Path | None = SUMMARY,
    wide: bool = WIDE,
    json_: bool = JSON,
    quiet: bool = QUIET,
) -> int:
    """Measure the accuracy of bundles on labelled images.

    Prints top-1 and top-5 accuracy, or the metric of another task, and each
    bundle's drop compared with a reference, such as the float bundle. The exit
    code is 1 if a bundle misses --max-drop, or if the interval can't confirm it.
    """
    from edgekit.cli.measured import accuracy_answer
    from edgekit.cli.next_steps import after_evaluate
    from edgekit.measure.evaluate_bundles import Scale, evaluate_bundles
    from edgekit.report.junit import junit_of_rows
    from edgekit.report.markdown import summary_of_rows
    from edgekit.support.progress import Reporter
    from edgekit.support.run_folder import check_output

    bundles, files = bundles_of(bundles), ForPipelines(junit, summary)
    job = Job.of("", stated)
    job.check_data()
    check_scheduler(scheduler)
    files.check()
    if output is not None:
        check_output(output)
    browser = _browser(job)
    if browser is not None and (workers or scheduler or output):
        raise UsageError(
            f"'{browser.name}' is a browser, for which --workers, --scheduler and --output don't work",
            fix="Leave them out",
        )
    gates = None if job.max_drop is None else job.gates
    with clean_stdout() as out:
        reporter = Reporter(quiet)
        evaluated = partial(
            evaluate_bundles,
            data=job.data, count=job.num_eval_samples, seed=job.seed, threads=job.threads, reporter=reporter,
            scale=Scale(workers, scheduler, output), reference=reference, gates=gates, threshold=job.threshold,
        )  # fmt: skip
        if browser is None:
            evaluation = evaluated(bundles)
        else:
            from edgekit.devices.web.evaluate import evaluate_in_browser

            evaluation = evaluate_in_browser(browser, bundles, reference, job.threads, evaluated, reporter)
        rows, meaningful = evaluation.results, evaluation.accuracy_meaningful
        some = job.data if job.num_eval_samples else None
        steps = after_evaluate(rows, evaluation.evaluation.count, some, job.max_drop)
        show(out, evaluation, accuracy_answer(evaluation, answer_width(), wide), json_, steps)
        for warning in evaluation.warnings if json_ else ():
            reporter.warn(warning)
    title = "edgekit evaluate"
    files.write(
        lambda: junit_of_rows(title, rows, meaningful, evaluation.doubts),
        lambda: summary_of_rows(title, rows, meaningful, evaluation.warnings),
    )
    return 0 if all(row.verdict == "pass" for row in rows) else 1


def _browser(job: Job) -> Device | None:
    """The browser to evaluate in; None for this machine. Raises UsageError for a board."""
    if job.machines == (THIS,):
        return None
    if len(job.machines) > 1 or not job.machines[0].is_browser:
        raise UsageError(
            f"--device is '{','.join(job.devices)}'",
            valid=f"{LOCAL}, or web for a browser",
            fix="`edgekit deploy --device` also evaluates on boards, and on several devices",
        )
    return job.machines[0]


def check_scheduler(address: str | None) -> None:
    """Raise UsageError unless this looks like the address of a Dask scheduler."""
    if address is not None and not _SCHEDULER.fullmatch(address):
        raise UsageError(
            f"--scheduler is '{address}'",
            valid="the address of a Dask scheduler, such as tcp://HOST:8786",
            fix="Start one with `dask scheduler`, which prints its address",
        )
