"""The time of one recorded call: what its box asks for meanwhile is part of it, and not held where it can be undone."""

from __future__ import annotations

import socket


class Window:
    """The time of one recorded call. It ends with a socket's other end, which is looked at whenever that matters.

    So it is over before whoever made the call goes on, whatever has been read here by then, and however they ended.

    Args:
        lasts: That socket.
        effect: The call in the ledger.
        lets_out: Whether what is asked for meanwhile is not held: it can be undone.
    """

    def __init__(self, lasts: socket.socket, effect: str, *, lets_out: bool) -> None:
        self._lasts = lasts
        self.effect, self.lets_out = effect, lets_out

    @property
    def open(self) -> bool:
        """Whether the call goes on."""
        if self._lasts.fileno() < 0:
            return False
        try:
            self._lasts.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return True
        except OSError:
            pass
        self.close()
        return False

    def close(self) -> None:
        """Ends it."""
        self._lasts.close()
