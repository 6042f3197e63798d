"""All commands: importing them registers them with the application, in the order that --help lists them."""

from edgekit.cli import compare, deploy, devices, doctor, plan, soup, steps, tune, view
from edgekit.cli.app import run

__all__ = ["compare", "deploy", "devices", "doctor", "plan", "run", "soup", "steps", "tune", "view"]
