"""All commands. Importing this module registers them with the application."""

from edgekit.cli import (
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
)
from edgekit.cli.app import app, run

__all__ = [
    "app", "benchmark", "catalogue", "deploy", "devices", "evaluate", "field", "plan", "report", "run",
    "soup", "steps", "tune", "view",
]  # fmt: skip
