"""What `kibo top` draws: whole in a pipe, fitted to a terminal, and nothing of a name but its text."""

from __future__ import annotations

import io
import json

from rich.console import Console

from kibo.cli.top_view import Frame, document, drawn, lines
from kibo.schedule.figures import figures
from unit.test_explaining import asked, survey

NASTY = "[bold red]\x1b[2J\u202e\n</x>"


def frame(count: int, dispatcher: str = "somebody") -> Frame:
    runs = [asked("running", name=NASTY, limits={"[k]": 2})]
    runs += [asked(tenant=f"t{n % 30}", name=NASTY, position=n) for n in range(2, count + 1)]
    return Frame(figures(survey(*runs, boxes=2, dispatcher=dispatcher)), boxes=1, branches=2)


def on_terminal(shown: Frame, height: int) -> list[str]:
    out = io.StringIO()
    Console(file=out, force_terminal=True, color_system=None, width=100, height=height).print(
        drawn(shown, height)
    )
    return out.getvalue().splitlines()


def test_a_frame_for_a_pipe_says_what_there_is_and_how_much_it_leaves_out():
    shown = list(lines(frame(200)))
    assert "200 open runs, 1 box, 2 open branches; carried out by somebody" in shown[0]
    assert "... 150 more" in shown
    columns = [line.split()[0] for line in shown if line[:3].isupper()]
    assert columns == ["STATE", "TENANT", "KEY", "NODE", "RUN"]
    assert all(line.isprintable() for line in shown)
    assert len(list(lines(frame(1)))) == 1 + 5 * 3


def test_a_frame_for_a_terminal_fits_it_and_names_are_no_markup():
    for height in (24, 60):
        shown = on_terminal(frame(2_000), height)
        assert len(shown) <= height
        assert any("more" in line for line in shown)
        assert any("[bold red]" in line for line in shown)
        assert all(line.isprintable() for line in shown)


def test_a_frame_for_programs_is_values_of_json():
    found = json.loads(json.dumps(document(frame(3, dispatcher=""))))
    assert (found["dispatcher"], found["runs"], found["nodes"]) == (None, 3, [])
    assert found["keys"] == [{"kind": "limit", "key": "[k]", "used": 1, "most": 2, "per_s": 0.0, "queued": 0}]
