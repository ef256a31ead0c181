"""Ctrl-C and kills of the command line, at every stage: nothing is left."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import time
from collections.abc import Callable

import pytest

from e2e.test_cli import KIBO, Cli, cli, home, warm  # noqa: F401 - fixtures


def _await(condition: Callable[[], object], within_s: float = 30) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _read_until(process: subprocess.Popen[str], text: str) -> None:
    assert process.stderr is not None
    for line in process.stderr:
        if text in line:
            return
    raise AssertionError(f"it ended without saying {text!r}")


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
@pytest.mark.parametrize("command", ["build", "spawn", "shell"])
def test_a_build_that_is_interrupted_leaves_nothing(cli: Cli, command: str, signum: int) -> None:  # noqa: F811
    process = cli.start(command, "boxes.py:SlowBuild")
    _read_until(process, "  begun")
    process.send_signal(signum)
    process.communicate(timeout=20)
    assert process.returncode == {signal.SIGINT: 130, signal.SIGKILL: -9}.get(signum, 128 + signum)


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("command", ["build", "spawn", "shell"])
def test_a_launch_that_is_interrupted_leaves_nothing(cli: Cli, command: str, signum: int) -> None:  # noqa: F811
    process = cli.start(command, "boxes.py:SlowLaunch")
    _await(lambda: cli.json("ps", "--all"))
    process.send_signal(signum)
    process.communicate(timeout=20)
    assert process.returncode in (130, 128 + signum, -signum)


def test_ctrl_c_of_the_whole_group_ends_a_build_in_order(cli: Cli) -> None:  # noqa: F811
    process = cli.start("build", "boxes.py:SlowBuild", start_new_session=True)
    _read_until(process, "  begun")
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=20)
    assert process.returncode == 130
    assert said == "interrupted\n"


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_action_that_is_interrupted_leaves_nothing(cli: Cli, signum: int) -> None:  # noqa: F811
    process = cli.start("run", "boxes.py:Hello", "nap", "600.0", start_new_session=True)
    _await(lambda: [row for row in cli.json("ps") if row["state"] == "running"])
    os.killpg(process.pid, signum)
    process.communicate(timeout=20)
    assert process.returncode in (130, 128 + signum, -signum)


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_a_shell_that_is_interrupted_leaves_nothing(cli: Cli, signum: int) -> None:  # noqa: F811
    process = cli.start("shell", "boxes.py:Hello", stdin=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("echo rea''dy\n")
    process.stdin.flush()
    while "ready" not in (line := process.stdout.readline()):
        assert line
    process.send_signal(signum)
    process.communicate(timeout=20)
    assert process.returncode in (130, 128 + signum, -signum)


def test_keys_and_the_screens_size_go_through_a_real_terminal(cli: Cli) -> None:  # noqa: F811
    """Ctrl-C typed at the terminal interrupts the command in the box, and not the shell or this program."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*KIBO, "shell", "boxes.py:Hello"],
        stdin=theirs, stdout=theirs, stderr=theirs, cwd=cli.work, env=cli.variables, start_new_session=True,
    )  # fmt: skip
    os.close(theirs)
    seen = b""

    def await_text(text: bytes) -> None:
        nonlocal seen
        deadline = time.monotonic() + 30
        while text not in seen:
            assert select.select([ours], [], [], max(0.0, deadline - time.monotonic()))[0], seen
            seen += os.read(ours, 65536)
        seen = seen.partition(text)[2]

    try:
        await_text(b"$ ")
        os.write(ours, b"echo be''gun; sleep 600\n")
        await_text(b"begun")
        time.sleep(0.2)
        os.write(ours, b"\x03")
        await_text(b"$ ")
        os.write(ours, b"echo sti''ll here; exit 5\n")
        await_text(b"still here")
        while True:
            try:
                if not os.read(ours, 65536):
                    break
            except OSError:
                break  # EIO: the last program on the terminal is gone
        assert process.wait(20) == 5
    finally:
        process.kill()
        process.wait()
        os.close(ours)


def test_signals_reach_the_command_of_exec(cli: Cli) -> None:  # noqa: F811
    cli("spawn", "boxes.py:Hello", "--name", "sig")
    script = "trap 'echo caught; exit 11' INT; echo up; while :; do sleep 0.05; done"
    process = cli.start("exec", "sig", "--", "sh", "-c", script)
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=20)
    assert (output, process.returncode) == ("caught\n", 11)


def test_a_killed_exec_takes_its_command_along(cli: Cli) -> None:  # noqa: F811
    cli("spawn", "boxes.py:Hello", "--name", "host")
    process = cli.start("exec", "host", "--", "sh", "-c", "echo up; exec sleep 4321")
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    process.kill()
    process.communicate()
    list_all = ["exec", "host", "--", "sh", "-c", "cat /proc/[0-9]*/comm"]
    _await(lambda: "sleep" not in cli(*list_all).stdout)


def test_a_killed_holder_leaves_nothing(cli: Cli) -> None:  # noqa: F811
    cli("spawn", "boxes.py:Hello", "--name", "held")
    owner = cli.json("ps")[0]["owner_pid"]
    os.kill(owner, signal.SIGKILL)
    _await(lambda: not list((cli.home / "run").iterdir()))
    assert cli.json("ps") == []
