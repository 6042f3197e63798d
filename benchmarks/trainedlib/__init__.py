"""Parts of benchmarks/trained.py."""
