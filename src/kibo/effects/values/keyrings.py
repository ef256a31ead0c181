"""The value of a secret from the system's keyring: Secret Service, KWallet, the keychain."""

from __future__ import annotations

import shlex

from kibo.effects.values.references import Reference
from kibo.model.errors import InvalidInput, SecretUnavailable


def read(reference: Reference) -> str:
    """Looks up a password. The system may ask its user to unlock the keyring first, and this waits for that.

    Raises:
        InvalidInput: There is none, or the package is missing.
        SecretUnavailable: The keyring is locked, or this host has none.
    """
    try:
        import keyring  # late, and an extra: few have values there
        from keyring.errors import KeyringError
    except ImportError:
        raise InvalidInput(
            f"{reference} needs the package keyring, which is not installed",
            hint='pip install "kibo[keyring]"',
            details={"source": str(reference)},
        ) from None
    service, user = reference.place, reference.entry
    try:
        found = keyring.get_password(service, user)
    except KeyringError as error:
        raise SecretUnavailable(
            f"{reference} cannot be read from the system's keyring: {str(error) or type(error).__name__}",
            hint="Unlock it; where there is none (`keyring diagnose`), keep the value in a file or in the environment.",
            details={"source": str(reference)},
        ) from None
    if found is None:
        raise InvalidInput(
            f"the system's keyring has no {reference}",
            hint=shlex.join(["keyring", "set", service, user]),
            details={"source": str(reference)},
        )
    return found
