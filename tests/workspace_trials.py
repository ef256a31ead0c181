"""What tests of workspaces have in common."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kibo.branch.branch import Branch
from kibo.model import errors

ROOT = os.geteuid() == 0
as_root = pytest.mark.skipif(not ROOT, reason="only root can do this to files")
as_user = pytest.mark.skipif(ROOT, reason="root may read and write whatever its mode is")


def run(box: Any, code: str) -> str:
    """Runs Python in a box's workspace."""
    done = box.exec(["python3", "-c", f"import os\n{code}"])
    assert done.returncode == 0, done.stderr
    text: str = done.stdout
    return text


def refused(kind: type[errors.KiboError], call: Callable[[], object], *words: object) -> errors.KiboError:
    """Holds an error to what every one must have: who must act, a remedy, and what it is about."""
    with pytest.raises(kind) as caught:
        call()
    error = caught.value
    assert error.code != errors.KiboError.code
    assert error.hint
    for word in words:
        assert str(word) in error.message, error.message
    return error


def left_in(home: Path) -> list[str]:
    """What of work in progress is in a state directory."""
    return [name for part in ("tmp", "workspaces/applies") for name in os.listdir(home / part)]


def in_a_fork(main: Branch, box: Any, code: str) -> None:
    """Runs Python in a fork, and joins it with a change of the parent's: file by file."""
    (fork,) = main.fork()
    run(fork[box], code)
    run(box, "open('of the parent', 'w').close()")
    fork.merge()


def tree(place: Path) -> dict[str, str]:
    found = {}
    for path in sorted(place.rglob("*")):
        shown = stat.filemode(path.lstat().st_mode)[0]
        if path.is_symlink():
            shown += os.readlink(path)
        elif path.is_file():
            shown += path.read_text()
        found[str(path.relative_to(place))] = shown
    return found
