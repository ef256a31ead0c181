"""The value of a secret from Vault's key-value engines, over its HTTP API; OpenBao has the same.

Which Vault, and who asks, is said as for its own command: `VAULT_ADDR`, `VAULT_TOKEN` or `~/.vault-token`,
`VAULT_NAMESPACE`, `VAULT_CACERT`.
"""

from __future__ import annotations

import http.client
import json
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final
from urllib.error import HTTPError, URLError
from urllib.parse import quote, urlsplit
from urllib.request import HTTPRedirectHandler, HTTPSHandler, OpenerDirector, Request, build_opener

from kibo.effects.values.references import Reference
from kibo.model.errors import InvalidInput, SecretUnavailable

MAX_ANSWER_BYTES: Final = 1024 * 1024  # Vault's own bound for what a request may write.
ANSWER_S: Final = 10.0


def read(reference: Reference, variables: Mapping[str, str]) -> str:
    """Reads a field of a secret: two requests, of some milliseconds each where Vault is near.

    Args:
        reference: Where it is.
        variables: The environment, which says which Vault.

    Raises:
        InvalidInput: No Vault is named, or it has no such secret or field.
        SecretUnavailable: Vault does not answer, is sealed, or does not accept the token.
    """
    vault = _Vault(reference, variables)
    mount, version = vault.mount(reference.place)
    inner = reference.place[len(mount) :].lstrip("/")
    answer = vault.get(f"{mount}/data/{inner}" if version == "2" else reference.place)
    fields = answer.get("data") if version == "2" else answer
    if not isinstance(fields, dict):
        raise vault.unclear()
    value = fields.get(reference.entry)
    if not isinstance(value, str):
        has = ", ".join(sorted(map(str, fields))[:20]) or "nothing"
        raise InvalidInput(
            f"{reference.place} in Vault has no text called {reference.entry!r}",
            hint=f"It has {has}. Write it: vault kv patch {reference.place} {reference.entry}=-",
            details={"source": str(reference)},
        )
    return value


class _Unmoved(HTTPRedirectHandler):
    """Follows nowhere: whoever answered would be given the token's bearer."""

    def redirect_request(self, *_: Any) -> None:
        """Nothing is asked for elsewhere."""


class _Vault:
    def __init__(self, reference: Reference, variables: Mapping[str, str]) -> None:
        self._reference = reference
        self._address = variables.get("VAULT_ADDR", "").rstrip("/")
        if urlsplit(self._address).scheme not in ("http", "https"):
            raise InvalidInput(
                f"nothing says which Vault {reference} is in",
                hint="Set VAULT_ADDR, as in https://vault.example:8200, in the environment of the program that spawns.",
                details={"source": str(reference)},
            )
        self._fields = {"X-Vault-Request": "true", "X-Vault-Token": self._token(variables)}
        if namespace := variables.get("VAULT_NAMESPACE"):
            self._fields["X-Vault-Namespace"] = namespace
        self._opener = self._open(variables.get("VAULT_CACERT") or None)

    def _open(self, authority: str | None) -> OpenerDirector:
        try:
            trust = ssl.create_default_context(cafile=authority)
        except OSError as error:
            raise self._unavailable(f"VAULT_CACERT, {authority}, cannot be read: {error}") from None
        return build_opener(_Unmoved, HTTPSHandler(context=trust))

    def _token(self, variables: Mapping[str, str]) -> str:
        token = variables.get("VAULT_TOKEN", "")
        if not token:
            try:
                token = (Path.home() / ".vault-token").read_text().strip()
            except (OSError, ValueError, RuntimeError):
                pass  # there is none, as the next line says
        if not token or not token.isascii() or not token.isprintable():
            raise self._unavailable("there is no token", "Log in: `vault login`; or set VAULT_TOKEN.")
        return token

    def mount(self, path: str) -> tuple[str, str]:
        """Asks which engine a path is in, and which version of its interface that has, as Vault's own command does."""
        found = self.get(f"sys/internal/ui/mounts/{path}")
        mount, options = found.get("path"), found.get("options") or {}
        if not (
            isinstance(mount, str)
            and f"{path}/".startswith(mount.rstrip("/") + "/")
            and isinstance(options, dict)
        ):
            raise self.unclear()
        return mount.rstrip("/"), str(options.get("version", "1"))

    def get(self, path: str) -> dict[str, Any]:
        """Returns the data of an answer."""
        request = Request(f"{self._address}/v1/{quote(path)}", headers=self._fields)
        try:
            with self._opener.open(request, timeout=ANSWER_S) as answer:
                text = answer.read(MAX_ANSWER_BYTES + 1)
        except HTTPError as error:
            with error:
                raise self._refused(error.code) from None
        except (URLError, OSError, http.client.HTTPException) as error:
            raise self._unavailable(f"it does not answer: {getattr(error, 'reason', error)}") from None
        try:
            data = json.loads(text)["data"] if len(text) <= MAX_ANSWER_BYTES else None
        except (ValueError, LookupError, TypeError):
            data = None
        if not isinstance(data, dict):
            raise self.unclear()
        return data

    def _refused(self, status: int) -> InvalidInput | SecretUnavailable:
        place = self._reference.place
        if status == 404:
            return InvalidInput(
                f"Vault has no {place}",
                hint=f"Write it: vault kv put {place} {self._reference.entry}=-",
                details={"source": str(self._reference)},
            )
        if status == 403:
            return self._unavailable(
                f"it does not let this token read {place}",
                "Log in again: `vault login`; or have its policy allow `read` there.",
            )
        if status == 503:
            return self._unavailable("it is sealed, or being set up", "Unseal it: `vault operator unseal`.")
        if 300 <= status < 400:
            return self._unavailable(
                f"it sends elsewhere ({status})", "Set VAULT_ADDR to the node that is active."
            )
        return self._unavailable(f"it answers {status}")

    def unclear(self) -> SecretUnavailable:
        """What answered is no Vault, or a newer one."""
        return self._unavailable("its answer is not one of Vault's")

    def _unavailable(self, why: str, hint: str = "") -> SecretUnavailable:
        return SecretUnavailable(
            f"{self._reference} cannot be had from Vault at {self._address}: {why}",
            hint=hint
            or "`vault status` tells how it is. VAULT_ADDR says where, VAULT_CACERT whom it is trusted by.",
            details={"source": str(self._reference), "address": self._address},
        )
