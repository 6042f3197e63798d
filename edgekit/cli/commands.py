"""All commands: importing them registers them with the application, in the order that --help lists them."""

from edgekit.cli import deploy, steps, view
from edgekit.cli.app import run

__all__ = ["deploy", "run", "steps", "view"]
