"""All commands. Importing this module registers them with the application."""

from edgekit.cli import (
    catalogue,
    deploy,
    devices,
    explain,
    field,
    plan,
    report,
    signatures,
    soup,
    steps,
    tune,
    verdicts,
    view,
)
from edgekit.cli.app import app, run

__all__ = [
    "app", "catalogue", "deploy", "devices", "explain", "field", "plan", "report", "run", "signatures", "soup", "steps",
    "tune", "verdicts", "view",
]  # fmt: skip
