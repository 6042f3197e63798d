"""Titles of the panels in which `--help` groups commands and options."""

MAIN_JOB = "Main job"
STEPS = "Steps"
ANALYSIS = "Analysis"
DEVICES = "Devices and help"

COMMAND_PANELS = (MAIN_JOB, STEPS, ANALYSIS, DEVICES)
"""The panels of commands, in the order in which `--help` shows them."""

MODEL = "Model"
IMAGES = "Images"
BUNDLES = "Bundles"
SEARCH = "Search"
DEVICE = "Device"
MEASUREMENT = "Measurement"
GATES = "Gates"
OUTPUT = "Output"

OPTION_PANELS = (MODEL, IMAGES, BUNDLES, SEARCH, DEVICE, MEASUREMENT, GATES, OUTPUT)
"""The panels of options, in the order in which `--help` shows them."""
