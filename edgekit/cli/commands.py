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
    sensitivity,
    soup,
    steps,
    view,
)  # fmt: skip
from edgekit.cli.app import app, run

__all__ = ["app", "run"]
