"""Directories of the host as boxes see them: frozen once, and changed only by an apply that happens whole or not."""
