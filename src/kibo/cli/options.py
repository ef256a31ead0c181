"""What every command takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from cyclopts import Parameter


@Parameter(name="*")
@dataclass(frozen=True)
class Common:
    """Options of every command."""

    json: Annotated[bool, Parameter(negative="", help="Print JSON, for programs.")] = False
    traceback: Annotated[
        bool, Parameter(negative="", help="Show where in Python an error arose, besides its message.")
    ] = False
