"""The interpreter that boxes are forked from is out of their reach."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from kibo.runtime import interpreter
from kibo.runtime.idmap import choose_map

pytestmark = pytest.mark.runtime

PYTHON = os.path.realpath(sys.executable)


def run_copy(code: str, *flags: str) -> str:
    copy = interpreter.sealed_copy(PYTHON)
    try:
        done = subprocess.run(
            [sys.executable, *flags, "-c", code],
            executable=f"/proc/self/fd/{copy}", pass_fds=(copy,), capture_output=True, text=True, timeout=30,
        )  # fmt: skip
    finally:
        os.close(copy)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_copy_runs_as_the_interpreter_it_was_made_from() -> None:
    assert (
        run_copy("import sys, json, ssl; print(sys.executable, sys.prefix)")
        == f"{sys.executable} {sys.prefix}"
    )


def test_its_own_file_is_the_copy() -> None:
    assert "memfd:kibo-python" in run_copy("import os; print(os.readlink('/proc/self/exe'))")


def test_a_copy_cannot_be_written_cut_or_grown() -> None:
    copy = interpreter.sealed_copy(PYTHON)
    size = os.fstat(copy).st_size
    for attack in (
        lambda: os.write(os.open(f"/proc/self/fd/{copy}", os.O_WRONLY), b"x"),
        lambda: os.truncate(f"/proc/self/fd/{copy}", 0),
        lambda: os.ftruncate(copy, size + 1),
    ):
        with pytest.raises(PermissionError):
            attack()
    assert os.pread(copy, 4, 0) == b"\x7fELF"
    os.close(copy)


def test_only_a_file_whose_owner_boxes_may_be_needs_a_copy(tmp_path: Path) -> None:
    own = tmp_path / "python"
    own.write_bytes(b"")
    if os.geteuid() == 0:
        assert not interpreter.needs_copy(str(own))
        os.chown(own, choose_map().uid_lines[0][1] + 1000, -1)
    assert interpreter.needs_copy(str(own))
    assert not interpreter.needs_copy("/usr/bin/env")


def test_the_command_line_can_be_hidden() -> None:
    source = Path(interpreter.__file__).parents[2]
    code = f"import sys; sys.path.insert(0, {str(source)!r}); from kibo.runtime.interpreter import hide_arguments\n"
    code += "hide_arguments(); print(repr(open('/proc/self/cmdline').read().strip(chr(0))))"
    done = subprocess.run([sys.executable, "-c", code, "secret"], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "'kibo'"
