"""Commands beside the guest: run to the end, streamed, and on a terminal."""

from __future__ import annotations

import fcntl
import os
import select
import signal
import termios
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

import leftovers
from kibo import Box, Env, action
from kibo.model import errors
from kibo.runtime.instance import Instance
from patience import until


class Machine(Box):
    """A box to run commands in."""

    env = Env(variables={"COLOUR": "green", "SIZE": "small"})

    @action
    def variable(self, name: str) -> str:
        """Read a variable."""
        return os.environ.get(name, "")

    @action
    def doze(self, seconds: float) -> str:
        """Take long."""
        time.sleep(seconds)
        return "awake"

    @action
    def rename(self, name: str) -> None:
        """Give this process a name."""
        with open("/proc/self/comm", "w") as file:
            file.write(name)

    @action
    def processes(self) -> list[str]:
        """Name what runs."""
        names = []
        for pid in sorted(filter(str.isdigit, os.listdir("/proc")), key=int):
            try:
                with open(f"/proc/{pid}/cmdline") as file:
                    names.append(file.read().replace("\0", " ").strip())
            except (FileNotFoundError, ProcessLookupError):  # it ended before we looked, or while we read
                continue
        return names


@pytest.fixture(scope="module")
def machine() -> Iterator[Instance]:
    with Machine().spawn() as instance:
        yield instance


def running(machine: Instance, name: str) -> list[str]:
    """Lists what runs in the box and has a word in its command line; waits a moment for it to be gone."""
    deadline = time.monotonic() + 2
    while found := [line for line in machine.processes() if name in line]:
        if time.monotonic() > deadline:
            break
        time.sleep(0.01)
    return found


def test_a_command_returns_its_output_and_status(machine: Instance) -> None:
    done = machine.exec("echo out; echo err >&2; exit 3")
    assert (done.stdout, done.stderr, done.returncode) == ("out\n", "err\n", 3)


def test_a_sequence_is_run_without_a_shell(machine: Instance) -> None:
    assert machine.exec(["printf", "%s", "$HOME; exit 3"]).stdout == "$HOME; exit 3"


def test_a_command_killed_by_a_signal_says_which(machine: Instance) -> None:
    assert machine.exec("kill -TERM $$").returncode == -signal.SIGTERM


def test_a_command_reads_its_input(machine: Instance) -> None:
    assert machine.exec("cat", stdin="latte").stdout == "latte"
    assert machine.exec("wc -c", stdin=b"x" * 3_000_000).stdout.strip() == "3000000"


def test_a_command_that_leaves_its_input_unread_is_no_failure(machine: Instance) -> None:
    assert machine.exec("true", stdin=b"x" * 3_000_000).returncode == 0


def test_a_command_runs_where_it_is_told_and_in_work_else(machine: Instance) -> None:
    assert machine.exec("pwd").stdout == "/work\n"
    assert machine.exec("pwd", cwd="/tmp").stdout == "/tmp\n"


def test_commands_and_actions_have_the_variables_of_the_environment(machine: Instance) -> None:
    assert machine.exec("echo $COLOUR").stdout == "green\n"
    assert machine.variable("COLOUR") == "green"


def test_a_commands_own_variables_go_before_the_boxs(machine: Instance) -> None:
    assert (
        machine.exec("echo $COLOUR $SIZE $ICE", variables={"SIZE": "large", "ICE": "no"}).stdout
        == "green large no\n"
    )


def test_no_variable_of_the_host_is_in_a_box(machine: Instance, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOST_ONLY", "1")
    assert "HOST_ONLY" not in machine.exec("env").stdout
    assert "KIBO" not in machine.exec("env").stdout


@pytest.mark.parametrize("command", ["no-such-program", ["/no/such/program"], ["no-such-program", "x"]])
def test_a_program_that_is_not_there_is_named(machine: Instance, command: str | list[str]) -> None:
    with pytest.raises(errors.FileMissing, match="No such") as caught:
        machine.exec(command)
    assert "Env.apt" in caught.value.hint


def test_a_directory_that_is_not_there_is_an_error(machine: Instance) -> None:
    with pytest.raises(errors.FileMissing):
        machine.exec("pwd", cwd="/no/such")


def test_a_file_that_is_no_program_is_an_error(machine: Instance) -> None:
    with pytest.raises(errors.KiboError, match=r"[Pp]ermission|denied"):
        machine.exec(["/etc/passwd"])


@pytest.mark.parametrize("command", ["", [], ["echo", 1], ["echo", "a\0b"], "a\0b"])
def test_a_command_that_is_none_is_refused(machine: Instance, command: object) -> None:
    with pytest.raises(errors.InvalidInput):
        machine.exec(command)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "options",
    [
        {"timeout_s": "1"},
        {"timeout_s": 0},
        {"timeout_s": -1},
        {"variables": {"A": 1}},
        {"variables": {"A=B": "x"}},
        {"variables": {"A": "\0"}},
        {"variables": ["A=1"]},
        {"stdin": 5},
        {"cwd": "a\0b"},
        {"cwd": 5},
    ],
)
def test_an_option_that_makes_no_sense_is_refused_before_anything_runs(
    machine: Instance, options: dict[str, Any]
) -> None:
    with pytest.raises(errors.InvalidInput) as caught:
        machine.exec("touch /work/ran", **options)
    assert caught.value.hint
    with pytest.raises(errors.FileMissing):
        machine.files.read("ran")


def test_bytes_that_are_no_text_are_replaced(machine: Instance) -> None:
    assert machine.exec(r"printf 'a\377b'").stdout == "a\ufffdb"


def test_a_large_output_arrives_whole(machine: Instance) -> None:
    assert len(machine.exec("head -c 20000000 /dev/zero | tr '\\0' x").stdout) == 20_000_000


def test_an_endless_output_is_stopped_with_an_error(machine: Instance) -> None:
    with pytest.raises(errors.FrameTooLarge) as caught:
        machine.exec("yes endless", timeout_s=30)
    assert "popen" in caught.value.hint
    assert running(machine, "endless") == []


def test_commands_end_with_a_steward_that_the_box_kills() -> None:
    with Machine().spawn() as box:
        mark = "sleep 61.25"
        with box.popen(["sh", "-c", f"{mark} & {mark}; true"]) as left:
            deadline = time.monotonic() + 10
            while box.exec(["pgrep", "-fxc", mark]).stdout != "2\n":
                assert time.monotonic() < deadline
            with pytest.raises(errors.Unavailable):
                box.exec(f"kill -9 $PPID; {mark}")
            with pytest.raises(errors.Unavailable):
                left.wait(timeout_s=10)
        while (found := box.exec(["pgrep", "-fx", mark])).returncode == 0:
            assert time.monotonic() < deadline, found.stdout
        assert box.exec("echo on").stdout == "on\n"


def test_a_box_that_kills_its_steward_again_and_again_harms_nobody(machine: Instance) -> None:
    with Machine().spawn() as box:
        for _ in range(10):
            with pytest.raises(errors.Unavailable):
                box.exec("kill -9 $PPID")
            assert machine.exec("echo on").stdout == "on\n"
        assert box.exec("echo on").stdout == "on\n"


def test_a_command_past_its_time_is_killed_with_what_it_started(machine: Instance) -> None:
    begin = time.monotonic()
    with pytest.raises(errors.CommandTimedOut, match=r"0\.3 s") as caught:
        machine.exec("sleep 71 & sleep 72 & wait", timeout_s=0.3)
    assert time.monotonic() - begin < 71
    assert caught.value.details == {"timeout_s": 0.3}
    assert running(machine, "sleep 7") == []


def test_a_command_that_closed_its_streams_still_times_out(machine: Instance) -> None:
    with pytest.raises(errors.CommandTimedOut):
        machine.exec("exec >&- 2>&- <&-; sleep 73", timeout_s=0.3)
    assert running(machine, "sleep 73") == []


def test_a_command_whose_child_holds_its_output_ends_when_that_ends(machine: Instance) -> None:
    assert machine.exec("(sleep 0.2; echo late) & echo soon").stdout == "soon\nlate\n"


def test_a_command_works_while_an_action_runs(machine: Instance) -> None:
    results: list[str] = []
    caller = threading.Thread(target=lambda: results.append(machine.doze(0.5)))
    caller.start()
    assert machine.exec("echo meanwhile").stdout == "meanwhile\n"
    assert results == []
    caller.join()
    assert results == ["awake"]


def test_commands_run_beside_each_other(machine: Instance) -> None:
    machine.exec("mkdir /tmp/met")
    meet = "touch /tmp/met/%d; until [ $(ls /tmp/met | wc -l) = 8 ]; do sleep 0.01; done"
    with ThreadPoolExecutor(8) as threads:
        for done in threads.map(lambda number: machine.exec(meet % number, timeout_s=60), range(8)):
            assert done.returncode == 0


def test_a_command_sees_the_files_of_the_actions_and_the_other_way_round(machine: Instance) -> None:
    machine.exec("echo shared > /work/note")
    assert machine.files.read("note") == b"shared\n"


def test_a_command_has_no_right_of_root(machine: Instance) -> None:
    assert machine.exec("id -u").stdout == "1000\n"
    status = machine.exec("grep -E 'Cap(Eff|Prm|Bnd)|NoNewPrivs|^Seccomp:' /proc/self/status").stdout
    assert "CapEff:\t0000000000000000" in status
    assert "NoNewPrivs:\t1" in status
    assert "Seccomp:\t2" in status


def test_a_started_command_streams(machine: Instance) -> None:
    with machine.popen("read line; echo got $line; read line; echo and $line") as process:
        process.stdin.write(b"one\n")
        assert process.stdout.readline() == b"got one\n"
        process.stdin.write(b"two\n")
        assert process.stdout.readline() == b"and two\n"
        assert process.wait(5) == 0


def test_waiting_for_a_started_command_can_time_out_and_it_goes_on(machine: Instance) -> None:
    with machine.popen("sleep 0.5; echo end") as process:
        with pytest.raises(TimeoutError):
            process.wait(0.05)
        assert process.wait(5) == 0
        assert process.stdout.read() == b"end\n"


def test_a_started_command_can_be_signalled(machine: Instance) -> None:
    with machine.popen(
        "trap 'echo caught; exit 5' TERM; echo ready; while :; do sleep 0.05; done"
    ) as process:
        assert process.stdout.readline() == b"ready\n"
        process.kill(signal.SIGTERM)
        assert process.wait(5) in (5, -signal.SIGTERM)


def test_leaving_a_started_command_kills_it(machine: Instance) -> None:
    with machine.popen("sleep 74"):
        pass
    assert running(machine, "sleep 74") == []


def test_a_started_program_that_is_not_there_is_named(machine: Instance) -> None:
    with machine.popen(["no-such-program"]) as process, pytest.raises(errors.FileMissing):
        process.wait(5)


def test_a_command_on_a_terminal_has_one(machine: Instance) -> None:
    terminal = machine.shell(rows=31, columns=97)
    try:
        terminal.write(b"tty; stty size; echo $((6*7))x; exit\n")
        shown = b""
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline and (piece := terminal.read()):
            shown += piece
    finally:
        terminal.close()
    assert b"31 97" in shown
    assert b"42x" in shown


def test_control_c_on_a_terminal_interrupts_the_program(machine: Instance) -> None:
    # Not a shell: one that is interrupted between two commands may go on with the second. Nor one long sleep: Python
    # looks for signals between its steps, and one that comes just before a system call waits until that returns.
    program = "import time; print('ready', flush=True)\nfor _ in range(750): time.sleep(0.1)"
    terminal = machine.shell(["/usr/bin/python3", "-c", program])
    try:
        shown = b""
        while b"ready" not in shown:
            shown += terminal.read()
        terminal.write(b"\x03")
        assert terminal.running is not None
        poll = select.poll()
        poll.register(terminal.running.fd, select.POLLIN)
        assert poll.poll(5000), "the program still runs"
    finally:
        terminal.close()
    assert running(machine, "range(750)") == []


def test_hanging_up_a_terminal_kills_its_program(machine: Instance) -> None:
    machine.shell(["sleep", "76"]).close()
    assert running(machine, "sleep 76") == []


def test_a_command_in_a_box_that_ends_is_an_error(machine: Instance) -> None:
    with Machine().spawn() as other:
        failures: list[BaseException] = []

        def call() -> None:
            try:
                other.exec("sleep 77")
            except errors.KiboError as error:
                failures.append(error)

        caller = threading.Thread(target=call)
        caller.start()
        time.sleep(0.1)
        other.destroy()
        caller.join(5)
    assert [type(error) for error in failures] == [errors.InstanceEnded]


def test_a_command_for_a_box_that_was_killed_a_moment_ago_says_that_it_has_ended() -> None:
    """The order comes to the warden before it hears of the end."""
    with Machine().spawn() as box, ThreadPoolExecutor(1) as calls:
        warden = leftovers.warden_of(os.getpid())
        box.rename("killed-soon")
        below = leftovers.descendants(os.getpid()).items()
        (first,) = [pid for pid, name in below if name == "killed-soon"]
        orders = box._conversation.session._socket
        os.kill(warden, signal.SIGSTOP)
        try:
            done = calls.submit(box.exec, ["true"])
            until(lambda: any(fcntl.ioctl(orders, termios.TIOCOUTQ, bytes(4))))
            os.kill(first, signal.SIGKILL)
            until(lambda: not os.path.lexists(f"/proc/{first}/exe"))  # a dead process has no program
        finally:
            os.kill(warden, signal.SIGCONT)
        with pytest.raises(errors.InstanceEnded):
            done.result(20)


def test_orphans_of_commands_are_reaped_though_no_action_runs() -> None:
    with Machine().spawn() as box:
        for _ in range(20):
            assert box.exec("(sleep 0.01 >/dev/null 2>&1 &); exit 0").returncode == 0
        deadline = time.monotonic() + 5
        while "Z" in box.exec("cat /proc/[0-9]*/stat 2>/dev/null | sed 's/.*) //' | cut -c1").stdout:
            assert time.monotonic() < deadline
            time.sleep(0.02)


def test_descriptors_do_not_pile_up(machine: Instance) -> None:
    machine.exec("true")
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        machine.exec("true")
        with machine.popen("true") as process:
            process.wait(5)
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_command_has_the_three_streams_alone(machine: Instance) -> None:
    assert machine.exec("ls /proc/self/fd").stdout.split() == ["0", "1", "2", "3"]  # 3 is the listing's own
