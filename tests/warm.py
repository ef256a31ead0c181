"""Programs and test modules that start warm: forked from a process that has imported what they need.

An interpreter takes one to two seconds for Kibo, its store and pytest; some suites start hundreds. Run as a program
this is that process. It reads orders, a line of JSON each: the words of a command line behind ``python``, its whole
environment, its directory, and a file for each of its streams; it answers with how the command ended. Of Kibo nothing
runs in it.
"""

from __future__ import annotations

import json
import os
import runpy
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self


class Warm:
    """A process to start others from, as a user who may be another.

    Args:
        python: The interpreter.
        env: Its environment.
        **how: What `subprocess.Popen` is told besides, such as the user.
    """

    def __init__(self, python: str, env: Mapping[str, str], **how: Any) -> None:
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(
            [python, __file__], env=env, stdin=pipe, stdout=pipe, text=True, process_group=0, **how
        )

    def run(
        self, words: Sequence[str], env: Mapping[str, str], timeout_s: float
    ) -> subprocess.CompletedProcess[str]:
        """Runs a program, or ``-m`` and a module, and waits for its end. It reads nothing.

        Args:
            words: What would come behind ``python``.
            env: All of its environment.
            timeout_s: After so long it fails, and with it every later order.

        Returns:
            How it ended, with both of its output streams as one.
        """
        with tempfile.NamedTemporaryFile("w+") as output:
            os.chmod(output.name, 0o666)  # another user writes it
            streams = [os.devnull, output.name, output.name]
            status = self._order(words, env, timeout_s, os.curdir, streams)
            return subprocess.CompletedProcess([*map(str, words)], status, output.read())

    def pipe(
        self, words: Sequence[str], env: Mapping[str, str], timeout_s: float, cwd: Path, stdin: str
    ) -> subprocess.CompletedProcess[str]:
        """Does as `run` in a directory, with something to read, and tells the two output streams apart."""
        with (
            tempfile.NamedTemporaryFile("w+") as given,
            tempfile.NamedTemporaryFile("w+", newline="") as output,
            tempfile.NamedTemporaryFile("w+", newline="") as errors,
        ):
            given.write(stdin)
            given.flush()
            streams = [given.name, output.name, errors.name]
            status = self._order(words, env, timeout_s, str(cwd), streams)
            return subprocess.CompletedProcess([*map(str, words)], status, output.read(), errors.read())

    def _order(
        self, words: Sequence[str], env: Mapping[str, str], timeout_s: float, cwd: str, streams: list[str]
    ) -> int:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        order = {"words": [str(word) for word in words], "env": dict(env), "cwd": cwd, "streams": streams}
        print(json.dumps(order), file=self._process.stdin, flush=True)
        ready, _, _ = select.select([self._process.stdout], [], [], timeout_s)
        if not ready:
            os.killpg(self._process.pid, signal.SIGKILL)  # and the fork, whose answer would be the next one's
        assert ready, f"{words} did not end in {timeout_s} s: {Path(streams[2]).read_text()[-6000:]}"
        return int(json.loads(self._process.stdout.readline()))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_raised: object) -> None:
        with self._process:
            self._process.terminate()


def _become(order: dict[str, Any]) -> int:
    """Is in a fork what was ordered, as a new interpreter would be. Returns how it ends."""
    from kibo.store import crash

    for number, path in enumerate(order["streams"]):
        opened = os.open(path, os.O_WRONLY | os.O_APPEND if number else os.O_RDONLY)
        os.dup2(opened, number)
        os.close(opened)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115 - the old one has read ahead of what was ordered
    os.chdir(order["cwd"])
    os.environ.clear()
    os.environ.update(order["env"])
    if at := os.environ.get(crash.VARIABLE):
        crash.install(crash._armed(at))
    if order["words"][:2] == ["-m", "pytest"]:
        import pytest

        # Its plugins' modules are here already, and none of them has assertions that a test is to see.
        return pytest.main(["-W", "ignore::pytest.PytestAssertRewriteWarning", *order["words"][2:]])
    if order["words"][0] == "-m":
        sys.argv, sys.path[0] = order["words"][1:], os.getcwd()
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
        return 0
    sys.argv = order["words"]
    sys.path[0] = str(Path(sys.argv[0]).parent)
    runpy.run_path(sys.argv[0], run_name="__main__")
    return 0


def main() -> int:
    import hypothesis
    import pytest

    import kibo.cli.application
    import kibo.wiring.branches

    assert hypothesis
    assert pytest
    assert kibo
    for line in sys.stdin:
        order = json.loads(line)
        pid = os.fork()
        if pid == 0:
            return _become(order)
        _, status = os.waitpid(pid, 0)
        print(json.dumps(os.waitstatus_to_exitcode(status)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
