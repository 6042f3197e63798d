"""Debian for arm64 on this machine, for benchmarks/pi_instructions.py and the tests' emulated boards."""
