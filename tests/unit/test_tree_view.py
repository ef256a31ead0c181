"""An exploration as people and programs see it."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import kibo
from fake_worlds import FakeWorld
from kibo.branch.explore.exploration import Attempt, ExploreEvent
from kibo.cli.tree_view import TreeView, as_line, shown_of

EXPLORER = [sys.executable, str(Path(__file__).parents[1] / "explorer.py"), "show"]


def test_without_a_terminal_each_event_is_a_line():
    done = subprocess.run(EXPLORER, capture_output=True, text=True, timeout=30, check=True)
    lines = [re.sub(r"^\[ *[0-9.]+ s\] ", "", line) for line in done.stderr.splitlines()]
    assert done.stdout == ""
    assert "▸ slow: started" in lines
    assert "▸ slow: reading the tests" in lines
    assert any(
        re.fullmatch(r"✗ fails: failed after \d+ ms: ValueError: no such module", one) for one in lines
    )
    assert lines[-1] == "ended: won (3 branches)"
    assert "\x1b" not in done.stderr


def test_programs_get_json_lines():
    done = subprocess.run([*EXPLORER, "--json"], capture_output=True, text=True, timeout=30, check=True)
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert (events[0]["event"], events[-1]["event"]) == ("began", "ended")
    assert events[-1]["winner"] == 2
    failed = next(event["attempt"] for event in events if event["event"] == "failed")
    assert (failed["strategy"], failed["error"]["message"]) == ("fails", "ValueError: no such module")


def test_in_a_terminal_a_tree_grows():
    main, side = pty.openpty()
    variables = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "100", "LINES": "30"}
    variables.pop("NO_COLOR", None)
    process = subprocess.Popen(EXPLORER, stderr=side, env=variables)
    os.close(side)
    screen = b""
    try:
        while piece := os.read(main, 65536):
            screen += piece
    except OSError:  # the other side of the terminal is closed
        pass
    finally:
        os.close(main)
    assert process.wait(30) == 0
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen.decode())
    assert "▸ slow" in text
    assert "├── ✗ fails" in text
    final = text[text.rindex("exploring") :]
    assert "■ slow" in final
    assert "✓ works" in final
    assert b"\x1b[?25h" in screen, "the cursor was not shown again"


def test_a_view_may_show_several_explorations():
    out = io.StringIO()
    with TreeView(out) as view:
        for _ in range(2):
            kibo.explore(FakeWorld().spawn(), [("fine", lambda _: True)], progress=view)
    assert out.getvalue().count("fine: won") == 2


def test_of_many_attempts_what_lives_is_shown_with_its_line_and_the_newest():
    attempts = {
        n: Attempt(n, f"a{n}", "a", n - 1 if n % 10 else None, n % 10 + 1, state="failed") for n in range(100)
    }
    attempts[15] = replace(attempts[15], state="running")
    shown = shown_of(attempts, 20)
    assert len(shown) <= 20
    assert {10, 11, 12, 13, 14, 15, 99} <= shown
    assert shown_of(attempts, 100) == set(attempts)


def test_what_is_not_worth_a_line_has_none():
    attempt = Attempt(0, "a", "a", None, 1)
    assert as_line(ExploreEvent("began")) == ""
    assert as_line(ExploreEvent("queued", attempt)) == ""
