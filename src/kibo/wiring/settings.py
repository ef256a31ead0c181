"""What users set for a state directory, from the environment and from its `kibo.toml`. Read when it is needed."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from kibo.effects.values.references import Reference
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
        secrets: Where the values of secrets are that are not in the environment, by name; see
            `kibo.effects.values.references`.
    """

    store: str
    said_in: str
    secrets: Mapping[str, str] = field(default_factory=dict)


def read(home: Path) -> Settings:
    """Reads the settings of a state directory, which need not exist.

    Raises:
        InvalidInput: The file cannot be read as what it is.
    """
    path = home / FILE
    url, secrets = "", dict[str, str]()
    try:
        text = path.read_text()
        import tomllib  # late: few have set anything

        url, secrets = _checked(path, tomllib.loads(text))
    except FileNotFoundError:
        pass
    except (OSError, ValueError) as error:
        raise _unreadable(path, str(error) if isinstance(error, OSError) else "it is no TOML") from None
    if said := os.environ.get(STORE):
        return Settings(said, STORE, secrets)
    return Settings(url, str(path), secrets) if url else Settings(own_url(home), "", secrets)


def _checked(path: Path, table: dict[str, Any]) -> tuple[str, dict[str, str]]:
    store, secrets = table.get("store", {}), table.get("secrets", {})
    url = store.get("url", "") if isinstance(store, dict) else None
    if not isinstance(url, str) or table.keys() - {"store", "secrets"} or store.keys() - {"url"}:
        raise _unreadable(path, "it has more than secrets and the url of a store, or that is no text")
    if not isinstance(secrets, dict) or not all(isinstance(each, str) for each in secrets.values()):
        raise _unreadable(path, "[secrets] is not names and texts")
    return url, {name: str(Reference.parse(text)) for name, text in secrets.items()}


def _unreadable(path: Path, why: str) -> InvalidInput:
    return InvalidInput(
        f"the settings in {path} cannot be read: {why}",
        hint='It takes [store], with url = "postgresql+psycopg://user:password@host/database", and [secrets], with '
        'lines such as SHOP_TOKEN = "file:/run/secrets/shop".',
        details={"path": str(path)},
    )
