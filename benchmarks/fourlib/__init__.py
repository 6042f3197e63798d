"""Parts of benchmarks/four_bits.py."""
