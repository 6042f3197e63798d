"""`edgekit soup`, which averages several fine-tunes into one checkpoint."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from edgekit.cli import completion, panels
from edgekit.cli.arguments import NAMES, argument, image_option, model_option, output_option
from edgekit.cli.command import command
from edgekit.cli.output import Answer
from edgekit.errors import OutputError, UsageError
from edgekit.job import Job
from edgekit.job.job import MODEL

if TYPE_CHECKING:
    from edgekit.models.soup import SoupRecord


@command(panels.MORE, *(name for name in MODEL if name != "weights"), "data", "seed")
def soup(
    stated: dict[str, Any],
    quiet: bool,
    members: list[Path] = argument("CHECKPOINT", "Checkpoints (.safetensors) of fine-tunes of one model."),
    method: Literal["uniform", "greedy"] | None = model_option(
        None,
        "uniform averages all members; greedy adds a member only if it raises the accuracy on held-out images.",
        show_default="greedy with --data, else uniform",
    ),
    model: str | None = model_option(
        "MODEL",
        f"Model of the checkpoints: demo for edgekit's own model, or a {NAMES}.",
        autocompletion=completion.models_and_demo,
    ),
    num_held_out_samples: int | None = image_option(
        "N",
        "Number of images that choose the members. The remaining images give the final accuracy.",
        min=1,
        show_default="half of them",
    ),
    output: Path | None = output_option(
        "FILE", "The .safetensors file to write.", flags=("--output", "-o"), show_default=panels.REQUIRED
    ),
) -> Answer:
    """Average the weights of several fine-tunes of one model.

    A soup is one checkpoint that costs no more to run than a member. With
    --data and --model, only members that raise the accuracy on held-out
    images are averaged; the remaining images give the final accuracy.
    """
    from edgekit.support.progress import Reporter, loading

    if output is None:
        raise UsageError(
            "no output was given", valid="the path of a .safetensors file", fix="Name one with --output FILE"
        )
    check_soup_output(output)
    job = Job.of(model or "", stated)
    network = job.model_options if model else None
    reporter = Reporter(quiet)
    with loading(reporter):
        from edgekit.models.soup import SoupOptions, make_soup
    options = SoupOptions(
        tuple(members),
        output,
        method or ("uniform" if job.data is None else "greedy"),
        network,
        job.data,
        num_held_out_samples,
        job.seed,
    )
    record = make_soup(options, reporter)
    return Answer(record, [*_lines(record), str(output)])


def _lines(record: "SoupRecord") -> list[str]:
    """A record as lines of text."""
    lines = []
    for member in record.members:
        single = f": {member.held_out_top1:.2%} alone" if member.held_out_top1 is not None else ""
        lines.append(f"{'kept' if member.kept else 'left out':<8} {member.file}{single}")
    if record.accuracy is None or record.held_out is None:
        return lines
    for name, accuracy in vars(record.accuracy).items():
        final = accuracy.final_top1
        rest = f", {final:.2%} on the other {record.final_count}" if final is not None else ""
        lines.append(
            f"{name.replace('_', ' ')}: top-1 {accuracy.held_out_top1:.2%} on the {record.held_out.count} "
            f"images that chose the members{rest}"
        )
    return lines


def check_soup_output(path: Path) -> None:
    """Raise OutputError unless a .safetensors file can be written there."""
    place = next(folder for folder in path.absolute().parents if folder.exists())
    if path.suffix.lower() == ".safetensors" and not path.is_dir() and place.is_dir():
        return
    raise OutputError(
        f"the soup can't be written to '{path}'",
        valid="the path of a .safetensors file, the one format of soups and of their members",
        fix="Correct --output",
    )
