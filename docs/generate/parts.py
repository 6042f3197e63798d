"""The generated parts of pages: a page shows the part whose name a comment `<!-- generate: NAME -->` gives."""

import re
from collections.abc import Callable, Mapping

from docs.generate import commands, compatibility, errors, examples, report, settings

PARTS: Mapping[str, Callable[[], str]] = {
    "commands": commands.command_sections,
    "exit codes": commands.exit_codes,
    "errors": errors.error_sections,
    "report fields": report.report_sections,
    "shipped recipes": settings.shipped_recipes,
    "recipe keys": settings.recipe_keys,
    "runtime keys": settings.runtime_keys,
    "rewrites": settings.rewrites,
    "lowerings": settings.lowerings,
    "recipe file": settings.recipe_file,
    "shipped device classes": settings.shipped_device_classes,
    "device class keys": settings.device_class_keys,
    "device class file": settings.device_class_file,
    "supported platforms": compatibility.supported,
    "known-bad combinations": compatibility.known_bad,
    **examples.blocks(),
}


REPOSITORY_NOTE = re.compile(r"<!-- only in the repository -->\n.*?<!-- end -->\n", re.DOTALL)
"""What a page says to those who read it where no part is filled in."""


def fill(markdown: str) -> str:
    """The page as the site has it: each comment replaced by its part, without notes for readers of the repository.

    Raises KeyError for a name that no part has.
    """
    return re.sub(r"<!-- generate: (.+?) -->", lambda found: PARTS[found[1]](), REPOSITORY_NOTE.sub("", markdown))
