"""A run's way, from its events: what it was in for how long, whatever the events are."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Mapping
from html.parser import HTMLParser
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kibo.schedule import lifecycle
from kibo.schedule.submitting import Happened
from kibo.schedule.timeline import Timeline, timeline

RUN = "run_" + "0" * 24
FAILURE = {"code": "action.raised", "message": "it broke"}


def way(*events: tuple[str, float] | tuple[str, float, Mapping[str, Any]], now_s: float = 1100.0) -> Timeline:
    """What becomes of events, each at so many seconds from the first."""
    happened = [Happened(n, e[0], 1000.0 + e[1], e[2] if len(e) > 2 else {}) for n, e in enumerate(events)]
    return timeline(RUN, "a name", happened, now_s)


def spans(found: Timeline) -> list[tuple[str, float, float, int]]:
    return [(each.phase, each.begin_s, each.end_s, each.attempt) for each in found.spans]


PAID = way(
    ("submit", 0), ("place", 1, {"epoch": 1, "node": "n1"}), ("begin", 3, {"epoch": 1}), ("hold", 6, {"epoch": 1}),
    ("commit", 7, {"epoch": 1}), ("succeed", 9, {"epoch": 1}),
)  # fmt: skip


def test_it_says_how_long_a_run_was_queued_launched_at_work_and_held():
    assert spans(PAID) == [
        ("queued", 0, 1, 0), ("starting", 1, 3, 1), ("running", 3, 6, 1), ("held", 6, 7, 1), ("running", 7, 9, 1),
    ]  # fmt: skip
    assert [(each.what, each.at_s) for each in PAID.marks] == [("commit", 7), ("succeed", 9)]
    assert (PAID.state, PAID.over, PAID.seconds, PAID.warnings) == ("done", True, 9, ())
    labels = [line[11:].split()[0] for line in PAID.text().splitlines()[1:]]
    assert labels == ["queued", "launch", "action", "held", "commit", "action", "succeed"]


def test_what_has_not_ended_lasts_until_now():
    found = way(("submit", 0, {"after": ["run_x"]}), ("ready", 10), now_s=1030.0)
    assert spans(found) == [("waiting", 0, 10, 0), ("queued", 10, 30, 0)]
    assert [each.open for each in found.spans] == [False, True]
    assert (found.state, found.over) == ("queued", False)


def test_failures_pauses_forks_and_cancellations_are_told_with_their_reasons():
    found = way(
        ("submit", 0), ("place", 1, {"epoch": 1, "node": "n1"}), ("begin", 2),
        ("retry", 3, {"failure": FAILURE, "pause_s": 1.0}), ("requeue", 4), ("place", 5, {"epoch": 2, "node": "n2"}),
        ("requeue", 6), ("place", 7, {"epoch": 3, "node": "n1"}), ("begin", 8),
        ("fork", 9, {"failure": FAILURE, "runs": ["run_a", "run_b"]}), ("cancel", 12, {"why": "asked for"}),
    )  # fmt: skip
    assert spans(found) == [
        ("queued", 0, 1, 0), ("starting", 1, 2, 1), ("running", 2, 3, 1), ("backing_off", 3, 4, 0), ("queued", 4, 5, 0),
        ("starting", 5, 6, 2), ("queued", 6, 7, 0), ("starting", 7, 8, 3), ("running", 8, 9, 3), ("forked", 9, 12, 0),
    ]  # fmt: skip
    assert found.spans[3].note == "action.raised: it broke"
    assert found.spans[9].note == "action.raised: it broke; as 2 runs"
    assert [(each.what, each.note) for each in found.marks][-1] == ("cancel", "why asked for")


def test_undoing_has_attempts_of_its_own_and_may_be_placed_again():
    found = way(
        ("submit", 0), ("place", 1, {"epoch": 1}), ("begin", 2), ("compensate", 3, {"failure": FAILURE}),
        ("place", 4, {"epoch": 2}), ("begin", 5), ("requeue", 6), ("place", 7, {"epoch": 3}), ("cancel", 8),
        ("stopped", 9),
    )  # fmt: skip
    assert spans(found)[3:] == [
        ("compensating", 3, 4, 0), ("compensating", 4, 6, 2), ("compensating", 6, 7, 0), ("compensating", 7, 8, 3),
        ("rolling_back", 8, 9, 3),
    ]  # fmt: skip
    assert found.state == "cancelled"


def test_what_a_node_has_told_twice_happened_once():
    found = way(
        ("submit", 0), ("place", 1), ("begin", 2), ("hold", 3), ("commit", 4), ("hold", 5), ("commit", 6)
    )
    assert [each.phase for each in found.spans] == ["queued", "starting", "running", "held", "running"]
    assert [each.what for each in found.marks] == ["commit"]


@pytest.mark.parametrize("at_s", [-4000.0, float("nan"), float("-inf"), float("inf")])
def test_a_clock_that_was_set_back_is_said_and_no_bar_is_negative(at_s: float):
    found = way(("submit", 0), ("place", 5), ("begin", at_s), ("succeed", at_s + 2))
    assert all(each.end_s >= each.begin_s for each in found.spans)
    assert "between place and begin" in found.warnings[0]
    assert "set back" in found.text()
    assert "set back" in found.svg()
    if at_s == -4000.0:
        assert found.warnings == (
            "the clock was set back by 67 min between place and begin: "
            "how long it was from one to the other is not known, and is shown as no time",
        )
        assert spans(found) == [("queued", 0, 5, 0), ("starting", 5, 5, 1), ("running", 5, 7, 1)]


def test_a_clock_that_is_behind_the_last_event_is_said_too():
    found = way(("submit", 0), ("place", 5), now_s=900.0)
    assert "between place and now" in found.warnings[0]
    assert found.seconds == 5


def test_what_a_newer_kibo_has_written_is_shown_as_it_is_and_what_is_known_again_leads_on():
    found = way(
        ("submit", 0), ("place", 1, {"epoch": "many", "node": 7}), ("suspend", 2, {"why": ["no", "text"]}),
        ("resume", 3), ("succeed", 4, {"failure": "none"}),
    )  # fmt: skip
    assert (found.state, found.over) == ("done", True)
    assert [(each.what, each.note) for each in found.marks][:2] == [
        ("suspend", "not known to this Kibo"),
        ("resume", "not known to this Kibo"),
    ]
    assert spans(found) == [("queued", 0, 1, 0), ("starting", 1, 4, 1)]


KINDS = [*lifecycle.MOVES["queued"], *lifecycle.MOVES["running"], "hold", "commit", "new", ""]
VALUES = st.one_of(
    st.none(), st.integers(), st.text(), st.lists(st.text()), st.dictionaries(st.text(), st.text())
)
TOLD = st.dictionaries(st.sampled_from(["epoch", "node", "failure", "runs", "why", "after"]), VALUES)
EVENTS = st.lists(st.tuples(st.sampled_from(KINDS), st.floats(), TOLD), max_size=12)


@settings(max_examples=50)
@given(EVENTS, st.floats(allow_nan=True))
def test_whatever_events_there_are_bars_follow_each_other_and_both_drawings_are_whole(
    events: list[tuple[str, float, dict[str, Any]]], now_s: float
):
    found = way(("submit", 0.0), *events, now_s=now_s)
    at_s = 0.0
    for span in found.spans:
        assert span.begin_s == at_s
        assert span.end_s >= span.begin_s
        at_s = span.end_s
    ElementTree.fromstring(found.svg())
    found.text()


# -- names and notes of anybody's making

NASTY = "</title><script>alert(1)</script>\x1b[31m\x00\u202e\udcff\ud800\"'&<!-- ]]>\r\n+1 s  forged  row"


class Tags(HTMLParser):
    """What a browser makes of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}


@pytest.fixture
def nasty() -> Timeline:
    failure = {"code": NASTY, "message": NASTY * 100}
    happened = [
        Happened(0, "submit", 1.0, {"variation": NASTY, "after": NASTY}),
        Happened(1, "place", 2.0, {"node": NASTY}),
        Happened(2, NASTY, 3.0, {}),
        Happened(3, "retry", 4.0, {"failure": failure, "by": NASTY, "question": NASTY}),
    ]
    return timeline(NASTY, NASTY, happened, 5.0)


def texts(element: ElementTree.Element) -> Iterator[str]:
    yield element.tag.removeprefix("{http://www.w3.org/2000/svg}")
    for child in element:
        yield from texts(child)


def test_no_name_is_markup_in_a_picture_or_a_page(nasty: Timeline):
    document = ElementTree.fromstring(nasty.svg())
    known = {"svg", "title", "style", "rect", "text", "g", "path"}
    assert set(texts(document)) <= known
    tags = Tags()
    tags.feed(nasty.html())
    assert tags.tags <= known | {"html", "head", "meta", "body"}
    assert not {name for name in tags.attributes if name.startswith("on") or name in ("href", "src")}
    assert nasty.html().encode()  # half a character would not go into a file


def test_no_name_reaches_a_terminal_as_more_than_its_text(nasty: Timeline):
    for line in nasty.text().splitlines():
        assert line.isprintable()
        assert not line.startswith("+1 s  forged")
    assert len(nasty.text().splitlines()) == 1 + len(nasty.way)


def test_a_very_long_way_is_drawn_by_its_beginning_and_its_end():
    events: list[tuple[str, float, dict[str, Any]]] = [("submit", 0.0, {})]
    for n in range(5000):
        events += [
            ("place", 3.0 * n + 1, {"epoch": n + 1}),
            ("retry", 3.0 * n + 2, {}),
            ("requeue", 3.0 * n + 3, {}),
        ]
    found = way(*events, now_s=1e6)
    assert len(found.spans) == 15_001
    assert " more ..." in found.text()
    assert len(found.text()) < 50_000
    assert len(found.svg()) < 1_000_000
