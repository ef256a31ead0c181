"""Says where the value of a secret is, without the value. Pure.

```
file:/run/secrets/shop          what a file holds
keyring:shop/ada                the password of a user of a service, in the system's keyring
vault:secret/shop#token         a field of a secret in a key-value engine of Vault
```
"""

from __future__ import annotations

from typing import Final, NamedTuple

from kibo.model.errors import InvalidInput

#: How each is written.
FORMS: Final = {
    "file": "file:/run/secrets/shop",
    "keyring": "keyring:shop/ada",
    "vault": "vault:secret/shop#token",
}


class Reference(NamedTuple):
    """Where a value is.

    Attributes:
        kind: One of `FORMS`.
        place: The file, the service, or the path in Vault.
        entry: The user of the service, or the field in Vault; empty for a file.
    """

    kind: str
    place: str
    entry: str

    @classmethod
    def parse(cls, text: str) -> Reference:
        """Reads what users write.

        Raises:
            InvalidInput: It is none of `FORMS`.
        """
        kind, _, rest = text.partition(":")
        if kind == "file" and rest.startswith(("/", "~/")):
            return cls(kind, rest, "")
        if kind in ("keyring", "vault"):
            place, _, entry = rest.rpartition("/" if kind == "keyring" else "#")
            place = place.strip("/") if kind == "vault" else place
            if place and entry and rest.isprintable():
                return cls(kind, place, entry)
        raise InvalidInput(
            f"{text!r} does not say where the value of a secret is",
            hint=f"One of {', '.join(FORMS.values())}.",
            details={"source": text},
        )

    def __str__(self) -> str:
        separator = {"keyring": "/", "vault": "#"}.get(self.kind, "")
        return f"{self.kind}:{self.place}{separator}{self.entry}"
