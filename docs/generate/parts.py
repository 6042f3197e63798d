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
    "recipe file": settings.recipe_file,
    "shipped device classes": settings.shipped_device_classes,
    "device class keys": settings.device_class_keys,
    "device class file": settings.device_class_file,
    "supported platforms": compatibility.supported,
    "known-bad combinations": compatibility.known_bad,
    **examples.blocks(),
}


def fill(markdown: str) -> str:
    """The page with each comment replaced by its part. Raises KeyError for a name that no part has."""
    return re.sub(r"<!-- generate: (.+?) -->", lambda found: PARTS[found[1]](), markdown)
