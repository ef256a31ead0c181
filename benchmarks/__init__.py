"""Measures the promises of SPECIFICATION.md on the machine it runs on: ``python -m benchmarks --help``."""
