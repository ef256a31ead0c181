"""Schedules on the days on which clocks are set, and files that say what is wanted."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from kibo.cli.references import load_box
from kibo.model.errors import InvalidInput, ManifestInvalid, StoreDamaged
from kibo.schedule.manifest import read_documents
from kibo.schedule.request import Request
from kibo.schedule.ticks import Schedule
from kibo.schedule.triggering import SKEW_S, Settle, due
from kibo.schedule.wanted import Trigger, read_trigger
from kibo.wiring.wanting import read_manifest

BERLIN = ZoneInfo("Europe/Berlin")
BOXES = Path(__file__).parents[1] / "run_boxes.py"


def at(*when: int, fold: int = 0) -> int:
    return int(datetime(*when, tzinfo=BERLIN, fold=fold).timestamp())  # type: ignore[misc]


def ticks(cron: str, first: int, last: int) -> list[str]:
    schedule, found = Schedule(cron, "Europe/Berlin"), []
    tick = schedule.after(first - 1)
    while tick is not None and tick <= last:
        found.append(f"{schedule.moment(tick):%H:%M %Z}")
        tick = schedule.after(tick)
    return found


def test_what_is_due_in_the_hour_that_is_left_out_is_due_right_after_it_and_once() -> None:
    night = at(2026, 3, 29), at(2026, 3, 29, 5)
    assert ticks("30 2 * * *", *night) == ["03:00 CEST"]
    assert ticks("0 2,3 * * *", *night) == ["03:00 CEST"]
    assert ticks("*/30 * * * *", *night)[3:7] == ["01:30 CET", "03:00 CEST", "03:30 CEST", "04:00 CEST"]


def test_what_is_due_in_the_hour_that_comes_twice_is_due_the_first_time() -> None:
    night = at(2026, 10, 25), at(2026, 10, 25, 4)
    assert ticks("30 2 * * *", *night) == ["02:30 CEST"]
    assert ticks("0 * * * *", *night) == [
        "00:00 CEST", "01:00 CEST", "02:00 CEST", "02:00 CET", "03:00 CET", "04:00 CET",
    ]  # fmt: skip
    assert Schedule("30 2 * * *", "Europe/Berlin").latest(at(2026, 10, 25, 2, 15, fold=1)) == at(
        2026, 10, 25, 2, 30
    )


@pytest.mark.parametrize(
    "cron",
    [
        "",
        "* * * *",
        "* * * * * *",
        "61 * * * *",
        "@daily",
        "a b c d e",
        "* * * * */0",
        "* " * 200,
        "0 0 31 2 *",
    ],
)
def test_what_is_no_schedule_is_refused(cron: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        Schedule(cron)
    assert refused.value.hint


@pytest.mark.parametrize("zone", ["", "Europe/Nowhere", "/etc/passwd", "../../etc/passwd", "x\0y", "Europe"])
def test_what_is_no_time_zone_is_refused(zone: str) -> None:
    with pytest.raises(InvalidInput, match="no time zone"):
        Schedule("* * * * *", zone)


def test_a_trigger_that_is_never_due_is_refused() -> None:
    with pytest.raises(ManifestInvalid, match="never due"):
        Trigger("never", Request(b""), "0 0 */20 * 1L")


def test_of_ticks_that_were_missed_the_last_one_counts_and_none_that_is_too_late() -> None:
    daily, noon = Trigger("daily", Request(b""), "0 12 * * *"), at(2026, 6, 3, 14)
    assert due([(daily, noon - 30 * 86400)], noon) == (Settle("daily", noon, noon),)
    assert due([(daily, noon)], noon + 3600) == ()
    hasty = Trigger("hasty", Request(b""), "0 12 * * *", late_s=60)
    assert due([(hasty, noon - 86400)], noon + 60) == (Settle("hasty", noon, noon),)
    assert due([(hasty, noon - 86400)], noon + 61) == (Settle("hasty", noon, None),)


def test_a_clock_that_was_wrong_for_a_while_holds_nothing_up() -> None:
    daily, noon = Trigger("daily", Request(b""), "0 12 * * *"), at(2026, 6, 3, 14)
    assert due([(daily, noon + 1)], noon) == ()
    assert due([(daily, noon + 1000 * 86400)], noon + 5) == (Settle("daily", noon + 5, None),)
    assert due([(daily, int(noon + SKEW_S))], noon) == ()


def test_a_trigger_is_read_as_it_was_written_and_a_damaged_one_is_not() -> None:
    made = Trigger("t", Request(b"work", tenant="x"), topic="a.*", branch="main", message="body")
    read = read_trigger("t", made.spec(), b"work")
    assert (read.spec(), read.request.work, read.topic) == (made.spec(), b"work", "a.*")
    for spec in (b"{}", b"[]", made.spec().replace(b'"t"', b'"u"'), made.spec().replace(b"a.*", b"a..*")):
        with pytest.raises(StoreDamaged):
            read_trigger("t", spec, b"work")


# -- files

GOOD = f"""\
kind: Trigger
name: nightly
cron: "0 3 * * *"
zone: Europe/Berlin
late: 2h
run:
  box: {BOXES}:Worker(times=2)
  action: double
  with: {{number: 21}}
  retry: 3
---
kind: Trigger
name: on-order
topic: order.*.paid
run: {{box: "{BOXES}:Worker", action: double, message: number}}
"""


def test_a_file_is_read() -> None:
    nightly, order = read_manifest(GOOD, "boxes.yaml", load_box)
    assert (nightly.cron, nightly.zone, nightly.late_s, nightly.request.tenant) == (
        "0 3 * * *", "Europe/Berlin", 7200, "default",
    )  # fmt: skip
    assert (order.topic, order.message) == ("order.*.paid", "number")
    assert read_manifest("---\n---\n# nothing\n", "boxes.yaml", load_box) == []


@pytest.mark.parametrize(
    ("before", "after", "place", "says", "hint"),
    [
        ("kind: Trigger\nname: n", "kind: Triger\nname: n", (1, 1), "unknown kind 'Triger'", "'Trigger'"),
        ("kind: Trigger\nname: n", "name: n", (1, 1), "no kind", "Trigger"),
        ("zone: Eu", "Zone: Eu", (4, 1), "unknown field 'Zone'", "'zone'"),
        ("  retry: 3", "  retires: 3", (10, 3), "unknown field 'retires'", "'retry'"),
        ("retry: 3", "retry: -1", (10, 3), "n=-1", "whole number"),
        ("retry: 3", "retry: yes", (10, 3), "retry is text", "a number"),
        ("retry: 3", "retry: true", (10, 3), "retry is true or false", "a number"),
        ("retry: 3", "priority: 1000", (10, 3), "priority=1000", "from -100"),
        ("retry: 3", "retry: 3\n  retry: 4", (11, 3), "'retry' is there twice", "Leave"),
        ("late: 2h", "late: soon", (5, 1), "'soon' is no duration", "2h"),
        ('"0 3 * * *"', "*/5 * * * *", (3, 8), "alias", "quotation marks"),
        ('"0 3 * * *"', '"99 3 * * *"', (3, 1), "Bad minute", "weekday"),
        ("Berlin", "Berlinn", (4, 1), "no time zone", "tzdata"),
        ("number: 21", "number: many", (9, 10), "'number' must be int", "number: int"),
        ("number: 21", "numbr: 21", (9, 10), "'numbr'", "number: int"),
        ("action: double\n", "action: duble\n", (8, 3), "duble", "double"),
        ("Worker(times=2)", "Wrker", (7, 3), "nothing called 'Wrker'", "Worker"),
        ("run_boxes.py:Worker(", "gone.py:Worker(", (7, 3), "no file", "module:Name"),
        ("message: number", "message: numbr", (15, 0), "no parameter 'numbr'", "'number'"),
        ("order.*.paid", "order..paid", (14, 1), "not a pattern", "joined by dots"),
        ("topic: order.*.paid\n", "", (14, 0), "messages", "topic"),
        ("name: on-order", "name: On_Order", (13, 1), "no name", "hyphens"),
        ("name: on-order", "name: nightly", (13, 1), "wanted twice", "of its own"),
        ("topic: order", 'cron: "* * * * *"\ntopic: order', (13, 1), "both a cron and a topic", "one of"),
        ("  action: double\n", "", (6, 1), "action: is missing", "action:"),
        ("late: 2h", "late: [2h", (6, 4), "expected", "closed"),
    ],
)  # fmt: skip
def test_what_is_wrong_in_a_file_is_said_with_its_place_and_what_to_do(
    before: str, after: str, place: tuple[int, int], says: str, hint: str
) -> None:
    assert before in GOOD
    with pytest.raises(ManifestInvalid) as refused:
        read_manifest(GOOD.replace(before, after, 1), "boxes.yaml", load_box)
    error = refused.value
    assert says in error.message
    assert hint in error.hint
    # Column 0: how far to the right it stands depends on where the tests are.
    assert (error.details["line"], error.details["column"] * bool(place[1])) == place
    assert error.message.startswith(f"boxes.yaml:{error.details['line']}:")


@pytest.mark.security
@pytest.mark.parametrize(
    "text",
    [
        "a: &a [x]\nb: &b [*a, *a]\nc: [*b, *b]",
        "a: !!python/object/apply:os.system [id]",
        "a: !!binary aaaa",
        "<<: {a: 1}\n? {b: 1}\n: 2",
        "[" * 5000,
        "a: " + "[" * 60 + "]" * 60,
        "a: " + "9" * 5000,
        "x" * (1 << 20) + ": 1\n",
        "a: 1\n---\n" * 1001,
        "a: \x00",
    ],
)
def test_a_file_that_would_cost_or_do_something_is_refused(text: str) -> None:
    with pytest.raises(ManifestInvalid):
        read_documents(text, "x.yaml")


def test_text_is_not_taken_for_what_it_looks_like() -> None:
    (found,) = read_documents(
        "a: no\nb: 2026-01-01\nc: 12:30\nd: 0o17\ne: 1_000\nf: .inf\ng: 1.5\nh: null", "x"
    )
    assert found.value == {
        "a": "no", "b": "2026-01-01", "c": "12:30", "d": "0o17", "e": "1_000", "f": ".inf", "g": 1.5, "h": None,
    }  # fmt: skip
