"""The command line, driven from outside as a user does."""

from __future__ import annotations

import errno
import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import leftovers
from own_runtimes import new_home
from patience import eventually
from running_till import running_till
from warm import Warm

BOXES = Path(__file__).parents[1] / "cli_boxes.py"
KIBO = [sys.executable, "-m", "kibo.cli"]
SOURCE = str(Path(__file__).parents[2] / "src")


class Cli:
    """Runs `kibo` with a state directory of its own: as a program that is there at once where it is only waited for."""

    def __init__(self, home: Path, work: Path, warm: Warm) -> None:
        self.home = home
        self.work = work
        self.warm = warm

    def start(self, *arguments: str, **options: Any) -> subprocess.Popen[str]:
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen(
            [*KIBO, *arguments], cwd=self.work, text=True, **({"env": self.variables} | pipes | options)
        )

    @property
    def variables(self) -> dict[str, str]:
        return {**os.environ, "KIBO_HOME": str(self.home), "PYTHONPATH": SOURCE, "NO_COLOR": "1"}

    def __call__(self, *arguments: str, stdin: str = "", status: int = 0) -> subprocess.CompletedProcess[str]:
        done = self.warm.pipe(["-m", "kibo.cli", *arguments], self.variables, 50, self.work, stdin)
        assert done.returncode == status, (done.returncode, done.stdout, done.stderr)
        return done

    def json(self, *arguments: str, status: int = 0) -> Any:
        return json.loads(self(*arguments, "--json", status=status).stdout)


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    path = new_home("kibo-cli-")
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="module")
def warm() -> Iterator[Warm]:
    with Warm(sys.executable, {**os.environ, "PYTHONPATH": SOURCE}) as started:
        yield started


@pytest.fixture
def cli(home: Path, tmp_path: Path, warm: Warm) -> Iterator[Cli]:
    """The command line; fails where a command leaves something."""
    (tmp_path / "boxes.py").write_text(BOXES.read_text())
    with leftovers.adopt_orphans():
        before = set(leftovers.descendants(os.getpid()))
        runner = Cli(home, tmp_path, warm)
        yield runner
        if list(home.glob("run/*")):
            runner("stop", "--all")
        left = leftovers.await_clean(home, 0, before, within_s=10)
        leftovers.reap_adopted(before)
        assert not left, f"left behind: {left}"


@pytest.mark.timeout(240)  # a program for each command
def test_help_names_every_command_and_each_has_its_docstring(cli: Cli) -> None:
    overview = cli("--help").stdout
    assert cli().stdout == overview
    names = (
        "run build spawn ps call exec shell logs diff stop tree commit abort apply checkout effects doctor gc"
    )
    for name in [*names.split(), "approve", "deny"]:
        assert f"\n  {name} " in overview
        assert "Args:" not in (text := cli(name, "--help").stdout)
        assert f"Usage: kibo {name}" in text
    assert cli("--version").stdout == "kibo 0.1.0\n"


def test_help_imports_no_library(cli: Cli) -> None:
    program = (
        "import sys; sys.argv = ['kibo', '--help']; import kibo.cli\n"
        "try: kibo.cli.main()\nexcept SystemExit: pass\n"
        "sys.exit(any(name in sys.modules for name in ('cyclopts', 'rich', 'pydantic', 'anyio', 'kibo.wiring')))"
    )
    subprocess.run([sys.executable, "-c", program], env=cli.variables, check=True, stdout=subprocess.DEVNULL)


LOOKER = """
from urllib.request import urlopen
from kibo import Allow, Box, action

class Looker(Box):
    egress = [Allow("shop.example", to={address!r})]

    @action
    def look(self, path: str) -> str:
        with urlopen("http://shop.example" + path) as answer:
            return answer.read().decode()
"""


def test_run_records_what_a_box_is_answered_and_replays_it(cli: Cli) -> None:
    with running_till() as shop:
        (cli.work / "looker.py").write_text(LOOKER.format(address=shop.address))
        look = ("run", "looker.py:Looker", "look")
        assert cli(*look, "/price", "--record", "prices").stdout == "looked\n"
    cli("recordings", "export", "prices", "prices.recording")
    assert cli(*look, "/price", "--replay", "prices").stdout == "looked\n"
    assert cli.json(*look, "/price", "--replay", "./prices.recording")["result"] == "looked"
    assert (
        "has no answer to GET http://shop.example/other"
        in cli(*look, "/other", "--replay", "prices", status=1).stderr
    )


def test_run_prints_the_result_and_what_the_action_printed(cli: Cli) -> None:
    done = cli("run", "boxes.py:Hello", "greet")
    assert json.loads(done.stdout) == {"text": "hello world", "times": 1}
    assert done.stderr.endswith("greeting None\n")


@pytest.mark.parametrize(
    ("reference", "arguments", "result"),
    [
        ("boxes.py:Hello(name=ada)", ["times=2"], {"text": "hello ada", "times": 2}),
        ("boxes.py:Hello(name=ada, shout=true)", ["3"], {"text": "HELLO ADA", "times": 3}),
        ("boxes.py:Hello(name='1,(2)+3')", ['{"times": 4}'], {"text": "hello 1,(2)+3", "times": 4}),
        ("boxes.py:Hello(name=5)", ["[6]"], {"text": "hello 5", "times": 6}),
        ("boxes.py:bob", ["note=7"], {"text": "hello bob", "times": 1}),
        ("boxes:bob", ["note=null"], {"text": "hello bob", "times": 1}),
        ("boxes.py:Hello(name=eve)+Reply", [], {"text": "hello eve", "times": 1}),
        ("boxes.py:Hello+boxes:Reply", [], {"text": "hello world", "times": 1}),
    ],
)
def test_references_and_arguments(
    cli: Cli, reference: str, arguments: list[str], result: dict[str, Any]
) -> None:
    assert cli.json("run", reference, "greet", *arguments)["result"] == result


def test_text_stays_text_and_bytes_stay_bytes(cli: Cli) -> None:
    assert cli("run", "boxes.py:Hello", "echo", "00012").stdout == "00012\n"
    assert cli("run", "boxes.py:Hello", "echo", "text=a=b").stdout == "a=b\n"
    assert cli("run", "boxes.py:Hello+Reply", "reply").stdout == "hi world\n"
    raw = subprocess.run(
        [*KIBO, "run", "boxes.py:Hello", "picture"],
        cwd=cli.work,
        env=cli.variables,
        capture_output=True,
        timeout=50,
    )
    assert raw.stdout == b"\x89PNG\n"
    assert cli.json("run", "boxes.py:Hello", "picture")["result"] == {"base64": "iVBORwo="}


def test_items_of_a_stream_are_printed_one_a_line(cli: Cli) -> None:
    assert cli("run", "boxes.py:Hello", "count", "3").stdout == "0\n1\n2\n"
    lines = [
        json.loads(line)
        for line in cli("run", "boxes.py:Hello", "count", "2", "--json").stdout.split("\n")[:-1]
    ]
    assert lines[:2] == [{"item": 0}, {"item": 1}]
    assert lines[2]["result"] is None


@pytest.mark.parametrize(
    ("arguments", "status", "code", "words"),
    [
        (["run", "boxes.py:Hello", "fly"], 64, "action.unknown", "greet"),
        (["run", "boxes.py:Hello", "greet", "often"], 65, "action.arguments", "times"),
        (["run", "boxes.py:Hello(nose=1)", "greet"], 65, "box.definition", "nose"),
        (["run", "boxes.py:Hello(", "greet"], 65, "input.invalid", "file.py:Name"),
        (["run", "boxes.py:Bye", "greet"], 65, "input.invalid", "Hello"),
        (["run", "boxes.py:not_a_box", "greet"], 65, "input.invalid", "no Box"),
        (["run", "nowhere.py:Hello", "greet"], 65, "input.invalid", "no file"),
        (["run", "nowhere:Hello", "greet"], 65, "input.invalid", "no module"),
        (["run", "broken.py:Hello", "greet"], 65, "input.invalid", "ZeroDivisionError"),
        (["run", "Hello", "greet"], 65, "input.invalid", "module:Name"),
        (["run", "boxes.py:Reply", "reply"], 65, "box.unmet_need", "Hello"),
        (["run", "boxes.py:Hello", "fail"], 1, "action.raised", "nothing here"),
        (["run", "boxes.py:BadLaunch", "x"], 64, "action.unknown", "none"),
        (["build", "boxes.py:BadBuild"], 74, "build.failed", "this is why"),
        (["build", "boxes.py:BadLaunch"], 74, "build.failed", "no way"),
        (["build", "boxes.py:Hello", "--locked", "--lock", "none.lock"], 65, "build.locked", "none.lock"),
        (["build", "boxes.py:Hello", "--lock", "no/where.lock"], 65, "input.invalid", "directory"),
        (["spawn", "boxes.py:BadLaunch"], 74, "build.failed", "no way"),
        (["spawn", "boxes.py:Hello", "--ttl", "soon"], 65, "input.invalid", "90s"),
        (["spawn", "boxes.py:Hello", "--name", "a:b"], 65, "input.invalid", "letters"),
        (["call", "nobody", "greet"], 66, "instance.unknown", "kibo ps"),
        (["exec", "nobody", "true"], 66, "instance.unknown", "kibo ps"),
        (["exec", "nobody"], 65, "input.invalid", "command"),
        (["shell", "nobody"], 66, "instance.unknown", "nobody"),
        (["logs", "nobody"], 66, "instance.unknown", "nobody"),
        (["diff", "nobody"], 66, "snapshot.unknown", "nobody"),
        (["stop", "nobody"], 66, "instance.unknown", "nobody"),
        (["stop"], 65, "input.invalid", "--all"),
        (["gc", "--unused", "x"], 65, "input.invalid", "7d"),
        (["fly"], 64, "usage", "kibo --help"),
        (["run"], 64, "usage", "kibo run --help"),
        (["ps", "--colour"], 64, "usage", "--colour"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_errors_say_what_and_what_to_do(
    cli: Cli, arguments: list[str], status: int, code: str, words: str
) -> None:
    (cli.work / "broken.py").write_text("1 / 0\n")
    done = cli(*arguments, status=status)
    assert "error: " in done.stderr
    assert f"code: {code}" in done.stderr
    assert words in done.stderr
    assert "kibo/cli/" not in done.stderr
    told = cli.json(*arguments, status=status)["error"]
    assert told["code"] == code
    assert words in json.dumps(told)


def test_closed_standard_streams_are_no_trouble(cli: Cli) -> None:
    cli("spawn", "boxes.py:Hello", "--name", "closed")
    for closed, command, expected in (
        ("<&-", "exec closed cat", 0),
        (">&-", "ps", 0),
        ("2>&- <&-", "exec no ls", 66),
    ):
        line = f"{sys.executable} -m kibo.cli {command} {closed}"
        done = subprocess.run(
            line, shell=True, cwd=cli.work, env=cli.variables, timeout=50, stdout=subprocess.DEVNULL
        )
        assert done.returncode == expected, line


def test_a_reader_that_has_had_enough_ends_the_command(cli: Cli) -> None:
    cli("spawn", "boxes.py:Hello", "--name", "yes")
    line = f"{sys.executable} -m kibo.cli exec yes -- yes | head -1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", line], cwd=cli.work, env=cli.variables, timeout=50, text=True, capture_output=True
    )
    assert (done.stdout, done.stderr) == ("y\n141\n", "")


def test_traceback_shows_where(cli: Cli) -> None:
    done = cli("run", "boxes.py:Hello", "fly", "--traceback", status=64)
    assert "Traceback (most recent call last)" in done.stderr
    assert "UnknownAction" in done.stderr


def test_the_traceback_of_the_box_is_shown(cli: Cli) -> None:
    assert "LookupError: nothing here" in cli("run", "boxes.py:Hello", "fail", status=1).stderr


def test_build_writes_a_lock_that_a_locked_build_obeys(cli: Cli) -> None:
    first = cli.json("build", "boxes.py:Noted")
    assert len(first["layers"]) >= 1
    lock = cli.work / "kibo.lock"
    assert json.loads(lock.read_text())["version"] == 1
    again = cli.json("build", "boxes.py:Noted", "--locked")
    assert again["layers"] == first["layers"]
    assert "checked against kibo.lock" in cli("build", "boxes.py:Noted", "--locked").stdout
    assert cli.json("build", "boxes.py:SlowBuild", "--locked", status=65)["error"]["code"] == "build.locked"
    assert cli("build", "boxes.py:Hello", "--lock", "other.lock", "--no-launch").stdout.endswith(
        "recorded in other.lock\n"
    )


def test_a_build_shows_its_steps_and_their_output(cli: Cli) -> None:
    (cli.work / "fresh.py").write_text(
        "from kibo import Box, Env\nclass Fresh(Box):\n    '''Fresh.'''\n"
        f"    env = Env(run=['echo said {time.time_ns()}'])\n"
    )
    shown = cli("build", "fresh.py:Fresh").stderr
    assert "] run: " in shown
    assert "  said " in shown
    assert "built run: " in shown


def test_a_build_on_a_terminal_shows_a_bar_with_its_steps(cli: Cli) -> None:
    (cli.work / "barred.py").write_text(
        "from kibo import Box, Env\nclass Barred(Box):\n    '''Barred.'''\n"
        f"    env = Env(run=['echo said {time.time_ns()}; sleep 0.5'])\n"
    )
    told, shown = on_terminal(cli, "build", "barred.py:Barred", "--json")
    assert json.loads(told)["lock"] == "kibo.lock"
    assert "━" in shown
    assert re.search(r"run: .*\d/\d", shown)
    assert "  said " in shown
    assert "built run: " in shown


def on_terminal(cli: Cli, *arguments: str) -> tuple[str, str]:
    """Runs a command whose standard error is a terminal. Returns what it printed, and what was to be seen there."""
    ours, theirs = pty.openpty()
    variables = {name: text for name, text in cli.variables.items() if name != "NO_COLOR"}
    process = cli.start(*arguments, stderr=theirs, env=variables | {"TERM": "xterm"})
    os.close(theirs)
    seen = b""
    while piece := read_terminal(ours):
        seen += piece
    os.close(ours)
    told, _ = process.communicate(timeout=20)
    assert process.returncode == 0, seen
    return told, seen.decode()


def read_terminal(fd: int) -> bytes:
    """Reads what was printed on a terminal; empty once its last program is gone."""
    try:
        return os.read(fd, 65536)
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        return b""


def test_a_spawned_instance_can_be_listed_used_and_stopped(cli: Cli) -> None:
    instance = cli("spawn", "boxes.py:Hello(name=eve)", "--name", "eve").stdout.strip()
    (row,) = cli.json("ps")
    assert (row["id"], row["name"], row["box"], row["state"]) == (instance, "eve", "Hello", "running")
    assert row["age_s"] < 30
    assert Path(f"/proc/{row['pid']}").exists()
    assert Path(f"/proc/{row['owner_pid']}").exists()
    assert instance in cli("ps").stdout
    assert {cell["id"].partition("_")[0] for cell in cli.json("ps", "--all")} == {"inst", "state"}
    assert cli("exec", "eve", "--", "cat", "/work/launched").stdout == "eve"
    assert cli("exec", instance[:12], "cat", stdin="through").stdout == "through"
    done = cli("exec", "eve", "--", "sh", "-c", "echo out; echo err >&2; exit 9", status=9)
    assert (done.stdout, done.stderr) == ("out\n", "err\n")
    assert cli("exec", "eve", "-C", "/tmp", "pwd").stdout == "/tmp\n"
    assert cli("exec", "eve", "--", "sh", "-c", "kill -9 $$", status=137).stdout == ""
    assert cli.json("exec", "eve", "pwd") == {"stdout": "/work\n", "stderr": "", "returncode": 0}
    assert "No such program" in cli("exec", "eve", "--", "nosuch", status=66).stderr
    cli("exec", "eve", "--", "sh", "-c", "echo new > /work/new; echo more >> /work/launched")
    assert cli("diff", "eve").stdout == "M /work/launched  (8 B)\nA /work/new  (4 B)\n"
    assert cli.json("diff", "eve")["files"][1] == {"kind": "added", "path": "/work/new", "size": 4}
    assert cli("logs", "eve").stdout == ""
    assert "called 'eve' already" in cli("spawn", "boxes.py:Hello", "--name", "eve", status=65).stderr
    assert cli.json("stop", "eve") == {"stopped": [instance]}
    assert cli.json("ps") == []
    assert not list((cli.home / "run").iterdir())
    assert cli.json("exec", instance, "true", status=66)["error"]["code"] == "instance.unknown"


def test_actions_of_a_spawned_instance_are_called_from_other_programs(cli: Cli) -> None:
    instance = cli("spawn", "boxes.py:Hello(name=eve)", "--name", "called").stdout.strip()
    done = cli("call", "called", "greet", "times=2")
    assert json.loads(done.stdout) == {"text": "hello eve", "times": 2}
    assert done.stderr == "greeting None\n"
    assert cli("call", instance[:12], "echo", "42").stdout == "42\n"
    assert cli.json("call", "called", "echo", "text=x") == {"instance": instance, "result": "x"}
    assert cli.json("call", "called", "picture")["result"] == {"base64": "iVBORwo="}
    stream = cli("call", "called", "count", "3")
    assert (stream.stdout, stream.stderr) == ("0\n1\n2\n", "at 0\nat 1\nat 2\n")
    assert [cli("call", "called", "mark").stdout for _ in range(3)] == ["1\n", "2\n", "3\n"]
    assert "LookupError: nothing here" in cli("call", "called", "fail", status=1).stderr
    assert "It has: " in cli("call", "called", "fly", status=64).stderr
    assert cli.json("call", "called", "greet", "times=many", status=65)["error"]["code"] == "action.arguments"
    assert cli("exec", "called", "cat", "/work/launched").stdout == "eve"


def test_calls_wait_for_each_other_and_one_that_is_given_up_is_interrupted(cli: Cli) -> None:
    cli("spawn", "boxes.py:Hello", "--name", "busy")
    given_up = cli.start("call", "busy", "nap", "50")
    eventually(lambda: "napping" in cli("logs", "busy").stdout)
    waiting = cli.start("call", "busy", "echo", "after")
    time.sleep(0.3)
    assert waiting.poll() is None
    given_up.send_signal(signal.SIGINT)
    given_up.communicate(timeout=20)
    assert given_up.returncode == 130
    assert waiting.communicate(timeout=20)[0] == "after\n"
    assert cli("call", "busy", "mark").stdout == "1\n"


def test_a_call_ends_with_its_instance(cli: Cli) -> None:
    cli("spawn", "boxes.py:Hello", "--name", "ending")
    calling = cli.start("call", "ending", "nap", "50")
    eventually(lambda: "napping" in cli("logs", "ending").stdout)
    cli("stop", "ending")
    _, complaint = calling.communicate(timeout=20)
    assert calling.returncode != 0
    assert "ended" in complaint


def test_actions_of_an_instance_of_another_program_are_that_programs(cli: Cli) -> None:
    program = "from boxes import Hello; box = Hello().spawn(); print(box.id, flush=True); input()"
    options = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "cwd": cli.work}
    with subprocess.Popen([sys.executable, "-c", program], env=cli.variables, **options) as other:
        identity = other.stdout.readline().strip()
        told = cli("call", identity, "greet", status=75)
        assert "kibo exec" in told.stderr
        other.communicate("\n", timeout=20)


def test_large_input_and_output_pass_through_exec(cli: Cli) -> None:
    cli("spawn", "boxes.py:Hello", "--name", "pipe")
    data = "0123456789abcdef" * 500_000
    assert cli("exec", "pipe", "cat", stdin=data).stdout == data
    assert cli("exec", "pipe", "--", "head", "-c", "5", stdin=data).stdout == data[:5]


def test_logs_of_a_program_can_be_followed_from_another(cli: Cli) -> None:
    napper = cli.start("run", "boxes.py:Hello", "nap", "8.0")
    while not (rows := cli.json("ps")) or rows[0]["state"] != "running":
        time.sleep(0.05)
    follower = cli.start("logs", "--follow", rows[0]["id"])
    assert follower.stdout is not None
    assert follower.stdout.readline() == "napping\n"
    napper.send_signal(2)
    assert napper.wait(10) == 130
    assert follower.wait(10) == 0
    for process in (napper, follower):
        process.communicate()


def test_logs_of_a_service_are_its_own(cli: Cli) -> None:
    cli("spawn", "boxes.py:Serving", "--name", "serving")
    assert cli("logs", "serving", "--service", "talker").stdout.startswith("I talk\n")
    assert cli.json("logs", "serving", "--service", "talker", "--tail", "3")["log"] == "lk\n"
    assert cli("logs", "serving").stdout == ""
    assert "no service 'listener'" in cli("logs", "serving", "--service", "listener", status=66).stderr


def test_an_instance_ends_when_its_time_is_over(cli: Cli) -> None:
    cli("spawn", "boxes.py:Hello", "--ttl", "1s")
    deadline = time.monotonic() + 15
    while list((cli.home / "run").iterdir()):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_an_instance_that_ends_by_itself_takes_its_holder_along(cli: Cli) -> None:
    held = cli.json("spawn", "boxes.py:Hello", "--name", "gone")
    (row,) = cli.json("ps")
    assert (held["instance"], held["name"], held["pid"]) == (row["id"], "gone", row["owner_pid"])
    pid = row["pid"]
    os.kill(pid, 9)
    deadline = time.monotonic() + 15
    while list((cli.home / "run").iterdir()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    cli("exec", "gone", "true", status=66)


def test_a_shell_runs_in_an_instance_and_in_a_box(cli: Cli) -> None:
    cli("spawn", "boxes.py:Hello", "--name", "sh")
    done = cli("shell", "sh", stdin="cat launched; echo; exit 6\n", status=6)
    assert "world" in done.stdout
    assert "eve" in cli("shell", "boxes.py:Hello(name=eve)", stdin="cat launched; echo; exit\n").stdout
    assert len(cli.json("ps")) == 1
    done = cli("shell", "sh", "--json", stdin="exit 7\n", status=7)
    assert json.loads(done.stdout.splitlines()[-1]) == {"returncode": 7}
    assert "24 80" in cli("exec", "sh", "-t", "--", "stty", "size").stdout


def test_doctor_tells_what_there_is(cli: Cli) -> None:
    told = cli.json("doctor")
    assert told["ok"] is True
    assert {"name", "ok", "level", "found", "remedy"} <= set(told["checks"][0])
    assert "boxes run here" in cli("doctor").stdout


def test_doctor_says_which_secrets_have_no_value_and_shows_none(cli: Cli) -> None:
    (cli.home / "token").write_text("v4lue\n")
    settings = cli.home / "kibo.toml"
    settings.write_text(f'[secrets]\nTOKEN = "file:{cli.home}/token"\nOTHER = "vault:secret/shop#token"\n')
    try:
        checks = {check["name"]: check for check in cli.json("doctor")["checks"]}
        assert (checks["secret TOKEN"]["ok"], checks["secret TOKEN"]["found"]) == (
            True,
            f"file:{cli.home}/token",
        )
        assert checks["secret OTHER"]["ok"] is False
        shown = cli("doctor").stdout
    finally:
        settings.unlink()
    assert "Set VAULT_ADDR" in shown
    assert "v4lue" not in shown


def test_gc_tells_and_then_removes_what_is_unused(cli: Cli) -> None:
    cli("build", "boxes.py:Noted", "--no-launch")
    assert cli.json("gc")["layers"] == []
    dry = cli.json("gc", "--all", "--dry-run")
    assert dry["layers"]
    cli("spawn", "boxes.py:Hello", "--name", "user")
    used = cli.json("gc", "--all")
    assert used["freed_bytes"] > 0
    assert used["kept"] > 0
    assert cli("exec", "user", "cat", "launched").stdout == "world"
    cli("stop", "user")
    told, shown = on_terminal(cli, "gc", "--all")
    assert "removed" in told
    assert re.search(r"look at layers .*\d/\d", shown)
    assert cli("run", "boxes.py:Hello", "echo", "x").stdout == "x\n"


def test_policy_check_says_which_rule_decides_and_what_would_allow_the_rest(cli: Cli) -> None:
    allowed = cli("policy", "check", "boxes.py:Caller", "https://api.example/v1/x?y=1")
    assert "waits" not in allowed.stdout
    assert allowed.stdout.startswith(
        'allowed: Allow("api.example", methods=("GET",), paths=("/v1/*",)) covers GET /v1/x'
    )
    refused = cli(
        "policy", "check", "boxes.py:Caller", "https://api.example/v1/x", "--method", "post", status=1
    )
    assert 'add Allow("api.example:443", methods=("POST",), paths=("/v1/x",))' in refused.stdout
    denied = cli.json("policy", "check", "boxes.py:Caller", "http://bad.example/", status=1)
    assert denied == {
        "allowed": False,
        "reason": 'Deny("bad.example") keeps this box from GET / at bad.example:80, whatever allows it.',
    }
    assert cli.json("policy", "check", "boxes.py:Caller", "http://test.example/")["to"] == "127.0.0.1:9"
    post = cli("policy", "check", "boxes.py:Caller", "http://test.example/", "--method", "post")
    assert "it is irreversible, and in a fork of a branch it waits for the commit" in post.stdout
    assert cli("policy", "check", "boxes.py:Caller", "ftp://x/", status=65).stderr
    raw = cli("policy", "check", "boxes.py:Caller", "tcp://db.example:5432").stdout
    assert raw.startswith(
        'allowed: Allow("db.example:5432", tcp=True) covers any protocol at db.example:5432'
    )
    only = cli("policy", "check", "boxes.py:Caller", "tcp://test.example:80", status=1).stdout
    assert 'Allow("test.example:80", tcp=True)' in only
    assert cli("policy", "check", "boxes.py:Caller", "tcp://db.example", status=65).stderr


def test_logs_say_what_the_gateway_has_refused_and_what_would_allow_it(cli: Cli) -> None:
    cli("spawn", "boxes.py:Caller", "--name", "caller")
    cli("exec", "caller", "--", "curl", "-sS", "-o", "/dev/null", "http://elsewhere.example/")
    assert cli("logs", "caller").stdout == (
        'Kibo: no rule lets this box reach elsewhere.example:80. To allow it, add Allow("elsewhere.example:80") to the '
        "`egress` of the Box that needs it.\n"
    )
