"""Titles of the panels in which `--help` groups commands and options."""

COMMANDS = "Commands"
MORE = "More"

COMMAND_ORDER = (
    "demo", "deploy", "benchmark", "inspect", "doctor",
    "quantize", "compile", "evaluate", "classify", "report", "sensitivity", "compare", "plan", "targets", "soup",
    "sign", "verify", "devices", "push", "rollback",
)  # fmt: skip
"""The commands in the order in which `--help` shows them; others come last."""

MODEL = "Model"
IMAGES = "Images"
BUNDLES = "Bundles"
DEVICE = "Device"
MEASUREMENT = "Measurement"
GATES = "Gates"
OUTPUT = "Output"

OPTION_PANELS = (MODEL, IMAGES, BUNDLES, DEVICE, MEASUREMENT, GATES, OUTPUT)
"""The panels of options, in the order in which `--help` shows them."""

REQUIRED = "required"
"""Beginning of an option's default in words if a command needs the option although Typer does not demand it."""
