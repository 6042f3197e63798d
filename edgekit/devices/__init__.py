"""Devices over SSH: probe them, set them up, and measure bundles on them.

The computer that runs `edgekit` is the host. The device runs `scripts/`, which need only Python and are sent as text,
and then, in its own environment, `agent`, which measures with the same code as the host.
"""
