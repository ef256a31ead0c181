"""Paths that a definition names: relative to the file that defines the class."""

import os
import sys


def located(owner: type, path: str) -> str:
    """Returns `path` as an absolute one.

    A relative path starts beside the file that defines `owner`; in a notebook, which is no file, in the working
    directory. Digests hold the path as it was written, so that a definition is the same on every machine.
    """
    file = getattr(sys.modules.get(owner.__module__), "__file__", None)
    return os.path.join(os.path.dirname(os.path.abspath(file)) if file else os.getcwd(), path)
