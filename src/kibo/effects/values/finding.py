"""Finds the value of a secret by its name: in the environment, or where this host's user has said that it is."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from typing import Final

from kibo.effects.values import files, keyrings
from kibo.effects.values.references import Reference
from kibo.model.errors import InvalidInput
from kibo.model.limits import MAX_SECRET_BYTES

#: For how long a value is not asked for again: a thousand boxes are a thousand look-ups otherwise.
KEPT_S: Final = 60.0


class Values:
    """The values of secrets. Safe to use from several threads; of those that want one value, one asks for it.

    Args:
        variables: The environment. What is set there counts before anything else.
        sources: Where values are that are not there, by the names of secrets; see `Reference`.

    Raises:
        InvalidInput: One of `sources` is malformed.
    """

    def __init__(self, variables: Mapping[str, str], sources: Mapping[str, str] | None = None) -> None:
        self._variables = variables
        self._sources = {name: Reference.parse(text) for name, text in (sources or {}).items()}
        #: One each: a keyring that waits for its user is no reason to wait for Vault.
        self._guards = {name: threading.Lock() for name in self._sources}
        self._kept: dict[str, tuple[float, str]] = {}

    @property
    def sources(self) -> dict[str, str]:
        """Where values are that are not in the environment."""
        return {name: str(reference) for name, reference in self._sources.items()}

    def find(self, name: str) -> str:
        """Returns a value. One of a keyring or of Vault may be up to `KEPT_S` old.

        Raises:
            InvalidInput: There is none.
            SecretUnavailable: Where it is, nobody answers. Retry once the cause is gone.
        """
        if value := self._variables.get(name):
            return value
        if name not in self._sources:
            raise InvalidInput(
                f"the secret {name} has no value",
                hint=f"Set {name} in the environment of the program that spawns the box, or say in kibo.toml where it "
                f'is: [secrets] {name} = "file:/run/secrets/{name.lower()}"',
                details={"secret": name},
            )
        reference = self._sources[name]
        if reference.kind == "file":
            return self._checked(name, files.read(reference))
        with self._guards[name]:
            until, value = self._kept.get(name, (0.0, ""))
            if time.monotonic() >= until:
                value = self._checked(name, self._read(reference))
                self._kept[name] = time.monotonic() + KEPT_S, value
            return value

    def _read(self, reference: Reference) -> str:
        if reference.kind == "keyring":
            return keyrings.read(reference)
        from kibo.effects.values import vault  # late: it brings a client of HTTP along

        return vault.read(reference, self._variables)

    def _checked(self, name: str, value: str) -> str:
        length = len(value.encode("utf-8", "surrogatepass"))
        if 0 < length <= MAX_SECRET_BYTES:
            return value
        raise InvalidInput(
            f"the secret {name} is {'empty' if not length else f'longer than {MAX_SECRET_BYTES} bytes'} in "
            f"{self._sources[name]}",
            hint="Write its value there, and nothing else.",
            details={"secret": name, "source": str(self._sources[name])},
        )
