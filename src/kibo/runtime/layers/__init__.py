"""Immutable file deltas on the local disk: how they are made deterministic, named, kept and collected."""
