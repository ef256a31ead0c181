"""The value of a secret from a file, as containers' and systemd's secrets are."""

from __future__ import annotations

import os
import stat

from kibo.effects.values.references import Reference
from kibo.model.errors import InvalidInput
from kibo.model.limits import MAX_SECRET_BYTES


def read(reference: Reference) -> str:
    """Reads a file of text; the end of its last line does not count.

    Raises:
        InvalidInput: It is missing, may not be read, is too long, or is no text.
    """
    path = os.path.expanduser(reference.place)
    try:
        # What is no plain file may have no end, or wait for somebody.
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise _refused(path, "is no file")
            data = file.read(MAX_SECRET_BYTES + 3)
    except OSError as error:
        raise _refused(path, f"cannot be read: {error.strerror}") from None
    data = data.removesuffix(b"\n").removesuffix(b"\r")
    if len(data) > MAX_SECRET_BYTES:
        raise _refused(path, f"has more than {MAX_SECRET_BYTES} bytes")
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise _refused(path, "is not text in UTF-8") from None


def _refused(path: str, why: str) -> InvalidInput:
    return InvalidInput(
        f"{path}, which a secret's value is to come from, {why}",
        hint=f"Write the value there, and nothing else, for your user to read: chmod 600 {path}",
        details={"path": path},
    )
