"""All commands: importing them registers them with the application, in the order that --help lists them."""

from edgekit.cli import deploy, devices, plan, soup, steps, tune, view
from edgekit.cli.app import run

__all__ = ["deploy", "devices", "plan", "run", "soup", "steps", "tune", "view"]
