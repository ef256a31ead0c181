"""A box whose files have everything that files can have."""

from __future__ import annotations

import os

import kibo
from value_boxes import WORK, Values


class Desk(Values):
    """Keeps values, and arranges files."""

    @kibo.action
    def arrange(self) -> None:
        """Change the files of the workspace in every way."""
        (WORK / "abc.txt").write_text("a\nB\nc")
        (WORK / "hello.txt").unlink()
        (WORK / "one").chmod(0o750)
        (WORK / "link").symlink_to("one")
        (WORK / "raw").write_bytes(b"\0\1")
        (WORK / "raw").chmod(0o4755)
        (WORK / "sub").mkdir()
        (WORK / "sub" / "odd \n name").write_text("odd\n")
        os.link(WORK / "raw", WORK / "sub" / "hard")
        os.setxattr(WORK / "abc.txt", "user.note", b"kept")
        os.mkfifo(WORK / "pipe")
