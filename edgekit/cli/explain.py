"""`edgekit explain`, which prints the cause and the cure of an error."""

import shutil
import textwrap
from typing import Annotated

import typer

from edgekit.cli import panels
from edgekit.cli.app import app
from edgekit.cli.completion import error_classes
from edgekit.errors import UsageError

WIDEST = 100


@app.command(rich_help_panel=panels.MORE)
def explain(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME",
            autocompletion=error_classes,
            show_default="all errors",
            help="The name of an error, such as BundleError, as messages give it. Case doesn't matter.",
        ),
    ] = None,
) -> None:
    """Explain an error of edgekit: its usual cause and the cure."""
    from edgekit.support.error_text import explain as explanation_of

    if name is None:
        for error_class in error_classes():
            print(_wrapped(f"{error_class + ':':<21} {explanation_of(error_class).summary}", indent=22))
        print("\nRun `edgekit explain NAME` for the cause and the cure of one of them.")
        return
    matches = [error_class for error_class in error_classes() if error_class.lower() == name.lower()]
    if not matches:
        raise UsageError(
            f"there is no error named '{name}'",
            valid=", ".join(error_classes()),
            fix="Run `edgekit explain` for a list with a sentence on each",
        )
    explanation = explanation_of(matches[0])
    print(f"{explanation.name}: {explanation.summary}\n")
    for label, text in (("Cause", explanation.cause), ("Cure", explanation.cure)):
        print(_wrapped(f"{label + ':':<7} {text}", indent=8))
    print(f"\nA command that ends with this error has the exit code {explanation.exit_code}.")


def _wrapped(text: str, indent: int) -> str:
    """Text broken at the width of the terminal, with its second and later lines indented."""
    width = min(shutil.get_terminal_size().columns, WIDEST)
    return textwrap.fill(text, width, subsequent_indent=" " * indent, break_on_hyphens=False)
