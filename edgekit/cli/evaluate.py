"""The command evaluate: the accuracy of bundles on labelled images."""

import sys
from pathlib import Path
from typing import Any

from edgekit import api
from edgekit.cli import panels
from edgekit.cli.arguments import BUNDLES
from edgekit.cli.command import command
from edgekit.cli.output import Answer, answer_width
from edgekit.job.job import OF_BUNDLE

EXAMPLES = """
Examples:
  edgekit evaluate runs/demo --data photos
  edgekit evaluate runs/demo/onnx-float runs/demo/onnx-int8 --data photos
  edgekit evaluate new/onnx-int8 --reference old/onnx-int8 --data photos \\
      --max-drop 0.5
"""


@command(
    panels.MORE,
    of=api.evaluate,
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
    judges=True,
    epilog=EXAMPLES,
)
def evaluate(stated: dict[str, Any], json_: bool, quiet: bool, bundles: list[Path] = BUNDLES) -> Answer:
    """Measure the accuracy of bundles on labelled images.

    Prints top-1 and top-5 accuracy, or the metric of another task, and each
    bundle's drop compared with a reference, such as the float bundle. The exit
    code is 1 if a bundle misses --max-drop, or if the interval can't confirm it.
    """
    from edgekit.cli.measured import accuracy_answer
    from edgekit.cli.next_steps import after_evaluate
    from edgekit.report.junit import junit_of_rows
    from edgekit.report.markdown import summary_of_rows

    evaluation = api.evaluate(bundles, quiet=quiet, **stated)
    rows, meaningful = evaluation.results, evaluation.accuracy_meaningful
    some = stated["data"] if "num_eval_samples" in stated else None
    for warning in evaluation.warnings if json_ else ():
        print(f"warning: {warning}", file=sys.stderr)
    title = "edgekit evaluate"
    return Answer(
        evaluation,
        accuracy_answer(evaluation, answer_width()),
        after_evaluate(rows, evaluation.evaluation.count, some, stated.get("max_drop")),
        passed=all(row.verdict == "pass" for row in rows),
        junit=lambda: junit_of_rows(title, rows, meaningful, evaluation.doubts),
        summary=lambda: summary_of_rows(title, rows, meaningful, evaluation.warnings),
    )
