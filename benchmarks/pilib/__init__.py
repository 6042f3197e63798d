"""Parts of benchmarks/pi_instructions.py, and of the tests' emulated board: Debian for arm64 on this machine."""
