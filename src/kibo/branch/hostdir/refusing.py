"""What the kernel refuses on a host directory, as errors that say which path or whose disk is to blame."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Final

from kibo.model.errors import Denied, HostDiskFull, KiboError, Unavailable

NOTHING_APPLIED: Final = "nothing of the workspace was applied"
_FULL: Final = (errno.ENOSPC, errno.EDQUOT)
#: What a person can do about each.
_REMEDIES: Final = {
    errno.EACCES: "give this user the right (`chmod u+rwx`), or do it as its owner, and try again",
    errno.EPERM: "see who owns it, and whether it is immutable (`lsattr -d`); try again once it can be changed",
    errno.EROFS: "mount it so that it can be written, and try again",
    errno.EBUSY: "see what is mounted or running there, and try again once it is not",
}


class on_host:
    """Names a path of the host in what is refused there inside a block.

    Args:
        place: The path.
        deed: What was tried, as a participle.
        outcome: What has become of it all, as a clause.
    """

    def __init__(self, place: Path, deed: str = "written", outcome: str = NOTHING_APPLIED) -> None:
        self._place, self._deed, self._outcome = place, deed, outcome

    def __enter__(self) -> None:
        """Nothing to do before the block."""

    def __exit__(self, _type: object, error: BaseException | None, _traceback: object) -> None:
        """Translates what the kernel said; lets everything else through."""
        if isinstance(error, OSError):
            raise refused(error, self._place, self._deed, self._outcome) from error


def refused(error: OSError, place: Path, deed: str = "written", outcome: str = NOTHING_APPLIED) -> KiboError:
    """Makes the error for what the kernel said; see `on_host`."""
    why = os.strerror(error.errno or 0)
    details = {"path": str(place), "error": why}
    if error.errno in _FULL:
        return HostDiskFull(
            f"the disk that holds {place} is full; {outcome}",
            hint="make room there, and try again",
            details=details,
        )
    message = f"{place} cannot be {deed}: {why}; {outcome}"
    if error.errno in _REMEDIES:
        return Denied(message, hint=_REMEDIES[error.errno], details=details)
    hint = "see that disk's and the kernel's own messages (`dmesg`), and try again"
    return Unavailable(message, hint=hint, details=details)
