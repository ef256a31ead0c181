"""Measures the promises of SPECIFICATION.md on the machine it runs on: `make bench`, or ``python -m benchmarks --help``."""
