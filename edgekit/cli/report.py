"""The command report: a run's answer again, and other files made of the run."""

import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.cli import panels
from edgekit.cli.arguments import argument, output_option
from edgekit.cli.command import command
from edgekit.cli.output import Answer
from edgekit.errors import MissingExtraError, OutputError
from edgekit.support.files import check_file, replace_text, writing

if TYPE_CHECKING:
    from edgekit.report.document import Report


@command(panels.MORE, "thumbnails", shown=("thumbnails",))
def report(
    stated: dict[str, Any],
    folder: Path = argument("RUN", "A run folder."),
    card: Path | None = output_option(
        "FILE", "Model card to write, in the form that model hubs read: a README.md with YAML metadata."
    ),
    bom: Path | None = output_option(
        "FILE",
        "Bill of materials to write, as CycloneDX 1.6 in JSON: the model with its figures and their intervals, the "
        "hashes of images and bundles, the runtimes and the licences.",
    ),
) -> Answer:
    """Print a run's answer, and rewrite its report.html and report.csv."""
    from edgekit.cli.next_steps import after_job
    from edgekit.report import load_report, render_answer, render_files
    from edgekit.report.markdown import render_card

    check_file("--card", card)
    check_file("--bom", bom)
    document = load_report(folder)
    run = folder if folder.is_dir() else folder.parent
    try:
        render_files(document, run, stated.get("thumbnails", True))
    except (OutputError, MissingExtraError) as error:
        print(f"warning: {error}", file=sys.stderr)
    if card is not None:
        with writing(card, "--card"):
            replace_text(card.resolve(), render_card(document))
    if bom is not None:
        from edgekit.report.bom import render_bom

        with writing(bom, "--bom"):
            replace_text(bom.resolve(), render_bom(document, _file_hashes(document, run)))
    steps = after_job(document, folder) if folder.is_dir() else ()
    return Answer(document, partial(render_answer, document), steps)


def _file_hashes(report: "Report", run: Path) -> dict[str, dict[str, str]]:
    """The hashes of the files of each bundle that is in the run folder, which are checked."""
    from edgekit.runtime.bundle import read_bundle

    names = {row.bundle for row in report.results if row.bundle and (run / row.bundle).is_dir()}
    return {name: read_bundle(run / name).digests() for name in sorted(names)}
