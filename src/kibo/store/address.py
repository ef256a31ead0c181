"""Where a history is if nothing else is said. Brings no database along."""

from __future__ import annotations

from pathlib import Path


def own_url(home: Path) -> str:
    """Names the database in a state directory itself."""
    return f"sqlite:///{home}/history.db"
