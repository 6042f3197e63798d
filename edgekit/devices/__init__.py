"""Devices over SSH: find out what they are, set them up, and measure bundles on them.

The computer that runs `edgekit` is the host. What runs on the device is `scripts/` (Python alone, sent as text) and,
once an environment is there, `agent`, which measures through the very code that measures on the host.
"""
