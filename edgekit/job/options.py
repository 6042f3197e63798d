"""How a field of a job is declared: its kind, its place in the help, and how it is written on a command line."""

from dataclasses import dataclass
from typing import Literal

from edgekit.job.kinds import Kind

Panel = Literal["Model", "Images", "Bundles", "Device", "Measurement", "Gates", "Output"]


@dataclass(frozen=True, kw_only=True)
class Option:
    """The declaration of a field of a job."""

    kind: Kind
    """Kind of its values."""
    panel: Panel
    """Title of the panel of `--help` that it is in."""
    help: str
    """Sentences that say what it means."""
    metavar: str | None = None
    """Placeholder of its value on the command line."""
    default: str | None = None
    """Default in words, if the value doesn't speak for itself."""
    flags: tuple[str, ...] = ()
    """Ways to write it on the command line; none for the name of the field with two hyphens."""
    turns_off: bool = False
    """Whether its flag stands for False."""
    advanced: bool = False
    """Whether only `--help-all` lists it."""

    def flags_of(self, name: str) -> tuple[str, ...]:
        """Every way to write the field of this name on the command line."""
        return self.flags or (f"--{name.replace('_', '-')}",)
