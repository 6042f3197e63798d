"""All commands. Importing this module registers them with the application."""

from edgekit.cli import (  # noqa: F401
    benchmark,
    catalogue,
    deploy,
    devices,
    evaluate,
    field,
    plan,
    report,
    soup,
    steps,
    tune,
    view,
)  # fmt: skip
from edgekit.cli.app import app, run

__all__ = ["app", "run"]
