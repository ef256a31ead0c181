"""The queue against a plain count: it passes no bound, leaves nothing that could start, and starves nobody."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from kibo.schedule.queue import Queue
from run_queues import Ledger, item, limit, node, rate

KEYS = st.sampled_from(["x", "y", "z"])
BARS = st.lists(
    st.one_of(
        st.builds(limit, KEYS, st.integers(1, 3)),
        st.builds(rate, KEYS, st.integers(1, 3), st.sampled_from([1.0, 5.0])),
    ),
    max_size=3,
    unique_by=lambda bar: (bar.kind, bar.key),
).map(tuple)
LABELS = st.sampled_from([(), (("gpu", "yes"),)])
STEPS = st.lists(
    st.one_of(
        st.tuples(
            st.just("add"),
            st.sampled_from("abc"),
            st.integers(-3, 3),
            st.sampled_from([0, 500, 2000]),
            BARS,
            LABELS,
        ),
        st.tuples(st.just("end"), st.integers(0, 50)),
        st.tuples(st.just("remove"), st.integers(0, 50)),
        st.tuples(st.just("wait"), st.sampled_from([0.5, 2.0, 40.0])),
        st.tuples(st.just("decide"), st.sampled_from([1, 2, 10_000])),
        st.tuples(st.just("join"), st.integers(0, 3), st.booleans()),
        st.tuples(st.just("part"), st.integers(0, 3)),
        st.tuples(st.just("drain"), st.integers(0, 3), st.booleans()),
    ),
    max_size=80,
)


@settings(max_examples=200)
@given(STEPS)
def test_no_bound_is_passed_and_nothing_that_could_start_is_left(steps: list[tuple]) -> None:  # type: ignore[type-arg]
    queue, now_s, number = Queue(), 0.0, 0
    ledger = Ledger(queue)
    queue.join(node("n9", 2000, 3))
    for kind, *told in steps:
        if kind == "add":
            tenant, priority, cpu, bars, labels = told
            number += 1
            ledger.add(
                item(
                    f"r{number}", tenant=tenant, at_s=now_s, priority=priority, cpu=cpu,
                    bars=bars, labels=labels, since_s=now_s, number=number,
                )
            )  # fmt: skip
        elif kind == "end" and ledger.working:
            ledger.end(sorted(ledger.working)[told[0] % len(ledger.working)], now_s)
        elif kind == "remove" and ledger.items:
            ledger.remove(sorted(ledger.items)[told[0] % len(ledger.items)])
        elif kind == "wait":
            now_s += told[0]
        elif kind == "decide":
            ledger.decide(now_s, told[0])
        elif kind == "join" and f"n{told[0]}" not in queue.nodes:
            labels = frozenset({("gpu", "yes")}) if told[1] else frozenset()
            queue.join(node(f"n{told[0]}", 2000, 3, labels=labels))
        elif kind == "part" and f"n{told[0]}" in queue.nodes:
            for run in queue.part(f"n{told[0]}"):
                ledger.end(run, now_s)
        elif kind == "drain" and f"n{told[0]}" in queue.nodes:
            queue.describe(f"n{told[0]}", draining=told[1])
    ledger.decide(now_s)
    ledger.check_reasons(now_s)
    for run in list(ledger.working):
        ledger.end(run, now_s)
    # However it was left: with room for all and as much time as rates want, all are started.
    queue.join(node("large", 10_000_000, 10_000, labels=frozenset({("gpu", "yes")})))
    for _ in range(400):
        if not ledger.items:
            break
        now_s = max(now_s + 0.01, queue.next_s() or now_s)
        for run in ledger.decide(now_s):
            ledger.end(run, now_s)
    assert not ledger.items
    assert len(queue) == 0
    assert not queue._lanes
    assert not queue._full
    assert not [gate for gate in queue._gates.values() if gate.parked or gate.working]
