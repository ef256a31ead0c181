"""What users set for a state directory, from the environment and from its `kibo.toml`. Read when it is needed."""

from __future__ import annotations

import os
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from kibo.model.errors import InvalidInput
from kibo.store.address import own_url

#: The variable that names the database of the history, and says more than the file does.
STORE: Final = "KIBO_STORE"
FILE: Final = "kibo.toml"


@dataclass(frozen=True, slots=True)
class Settings:
    """What is set.

    Attributes:
        store: The URL of the database that the history is in. It may have a password: show it by `database.shown`.
        said_in: What says so: ``KIBO_STORE``, the path of a `kibo.toml`, or empty for nothing, which means the
            database in the state directory.
    """

    store: str
    said_in: str


def read(home: Path) -> Settings:
    """Reads the settings of a state directory, which need not exist.

    Raises:
        InvalidInput: The file cannot be read as what it is.
    """
    if url := os.environ.get(STORE):
        return Settings(url, STORE)
    path = home / FILE
    try:
        table = tomllib.loads(path.read_text())
    except FileNotFoundError:
        return Settings(own_url(home), "")
    except (OSError, ValueError) as error:
        raise _unreadable(path, str(error) if isinstance(error, OSError) else "it is no TOML") from None
    found = _checked(path, table)
    return Settings(found, str(path)) if found else Settings(own_url(home), "")


def _checked(path: Path, table: dict[str, Any]) -> str:
    store = table.get("store", {})
    url = store.get("url", "") if isinstance(store, dict) else None
    if not isinstance(url, str) or table.keys() - {"store"} or store.keys() - {"url"}:
        raise _unreadable(path, "it has more than the url of a store, or that is no text")
    return url


def _unreadable(path: Path, why: str) -> InvalidInput:
    return InvalidInput(
        f"the settings in {path} cannot be read: {why}",
        hint='Write [store] and, below it, url = "postgresql+psycopg://user:password@host/database".',
        details={"path": str(path)},
    )
