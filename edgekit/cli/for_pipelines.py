"""Files that the user names to be written, such as those of `--junit` and `--summary`."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from edgekit.errors import UsageError
from edgekit.support.files import append_text, check_file, replace_text, writing


@dataclass(frozen=True)
class ForPipelines:
    """Files in which a pipeline looks for the result. They are also written if a gate fails."""

    junit: Path | None
    summary: Path | None

    def check(self) -> None:
        """Raise an InputError for a file that can't be written. Writes nothing."""
        check_file("--junit", self.junit)
        check_file("--summary", self.summary)
        if self.junit is not None and self.summary is not None and self.junit.resolve() == self.summary.resolve():
            raise UsageError(f"--junit and --summary are both '{self.junit}'", valid="two different files")

    def write(self, junit: Callable[[], str] | None, summary: Callable[[], str] | None) -> None:
        """Write the files that the user named. A JUnit file replaces an earlier one, a summary is appended."""
        if self.junit is not None and junit is not None:
            with writing(self.junit, "--junit"):
                replace_text(self.junit.resolve(), junit())
        if self.summary is not None and summary is not None:
            with writing(self.summary, "--summary"):
                append_text(self.summary, summary())
