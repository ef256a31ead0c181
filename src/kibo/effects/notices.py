"""What a box's log says of its gateway: a line for each refusal, which is also told to the program that asked.

The log is the box's own, beside what its actions print: `kibo logs` shows both in order.
"""

import contextlib
import os
import time
from typing import Final

#: Refusals that are written at once, and how many a second after that.
BURST: Final = 32
PER_S: Final = 1.0
#: A line: a rule, a remedy and a long host. And all lines of one box, which count as files of its own.
MAX_CHARACTERS: Final = 1000
MAX_BYTES: Final = 1024 * 1024
_SOME: Final = "too many refusals at once: those that follow within a second or so are not shown."
_NO_MORE: Final = "no further refusals are shown: there have been too many."


class Notices:
    """Adds lines to one box's log.

    Args:
        log: A descriptor of it, open to append to, which is closed with this; None where nobody keeps a log.
    """

    def __init__(self, log: int | None) -> None:
        self._log = log
        self._left = MAX_BYTES
        self._tokens = float(BURST)
        self._counted = time.monotonic()
        self._quiet = False

    def tell(self, text: str) -> None:
        """Adds one line, unless there have been too many; whatever `text` holds, it is one line and printable.

        Where the box's files are full, or its log as large as a file can be, there is no line.
        """
        if self._log is None or self._left <= 0:
            return
        now = time.monotonic()
        self._tokens = min(BURST, self._tokens + (now - self._counted) * PER_S)
        self._counted = now
        if self._tokens < 1:
            if not self._quiet:
                self._quiet = True
                self._add(_SOME)
            return
        self._tokens -= 1
        self._quiet = False
        self._add(text)
        if self._left <= 0:
            self._add(_NO_MORE)

    def close(self) -> None:
        """Closes the log. Safe to repeat."""
        if self._log is not None:
            os.close(self._log)
            self._log = None

    def _add(self, text: str) -> None:
        text = printable(text)
        if len(text) > MAX_CHARACTERS:  # the remedy stands last
            text = f"{text[: MAX_CHARACTERS // 2]} ... {text[-MAX_CHARACTERS // 2 :]}"
        line = f"Kibo: {text}\n".encode()
        self._left -= len(line)
        if self._log is not None:
            # It is a file: this waits for no reader.
            with contextlib.suppress(OSError):
                os.write(self._log, line)


def printable(text: str) -> str:
    """Writes what no terminal should be given as an escape: control characters, changes of direction, ends of lines."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
