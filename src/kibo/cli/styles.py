"""A few terminal styles without a library, for what must be fast: plain where the reader is no terminal."""

from __future__ import annotations

import os
import sys
from typing import TextIO


def styled(stream: TextIO) -> bool:
    """Tells whether a stream's reader wants colours. Source: https://no-color.org."""
    return stream.isatty() and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"


def bold(text: str, stream: TextIO | None = None) -> str:
    """Returns the text in bold."""
    return _style("1", text, stream)


def dim(text: str, stream: TextIO | None = None) -> str:
    """Returns the text in a faint colour."""
    return _style("2", text, stream)


def red(text: str, stream: TextIO | None = None) -> str:
    """Returns the text in bold red."""
    return _style("1;31", text, stream)


def _style(code: str, text: str, stream: TextIO | None) -> str:
    return f"\x1b[{code}m{text}\x1b[0m" if styled(stream or sys.stdout) else text
