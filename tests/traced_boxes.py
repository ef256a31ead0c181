"""Boxes whose programs say what they were told of a trace."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import kibo
from payer_boxes import asked


class Traced(kibo.Box):
    """Says where it is in a trace."""

    @kibo.action
    def where(self, fail: str = "") -> list[str]:
        """Return what this process has, and what a program that it starts has."""
        if fail:
            raise ValueError(fail)
        program = subprocess.run(
            ["sh", "-c", "echo $TRACEPARENT"], capture_output=True, text=True, check=True
        )
        return [os.environ.get("TRACEPARENT", ""), program.stdout.strip()]


class Payer(kibo.Box):
    """Pays at the shop. Where that is, a subclass says."""

    @kibo.action(effect="irreversible", timeout_s=60)
    def pay(self, path: str) -> str:
        """Pay."""
        Path("/work/paid").write_text(path)
        return asked(path)
