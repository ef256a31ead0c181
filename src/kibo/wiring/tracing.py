"""Runs as traces: a span for the submission, for each attempt, for its action and for each request that it made.

Kibo exports nothing and imports nothing for it. Spans are made with the API of OpenTelemetry where the program has
imported that already, as whatever sets up an SDK does, and go where that SDK sends them. Where a run belongs is stored
with it as a traceparent (W3C Trace Context), so that its spans are one trace in whichever processes they are made.

Attributes are ids, names that definitions have, classes, states and hosts. What a run is given, asks for and comes to
is in none, nor is the text of an error, in which that may be.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from kibo.model.errors import KiboError
from kibo.schedule.request import is_trace

if TYPE_CHECKING:
    from opentelemetry import trace as api
    from opentelemetry.context import Context

    from kibo.effects.records import Effect
    from kibo.schedule.ports import Order

_log: Final = logging.getLogger(__name__)
_NANOSECONDS: Final = 1_000_000_000


def _api() -> Any:
    """Returns the API, if the program uses it."""
    return sys.modules.get("opentelemetry.trace")


def traceparent() -> str:
    """Returns where this program is in a trace: by its current span, or else by its environment; empty for nowhere."""
    api = _api()
    if api is not None and (here := _header(api.get_current_span())):
        return here
    told = os.environ.get("TRACEPARENT", "")
    return told if is_trace(told) else ""


@contextmanager
def submission(box: str, action: str, tenant: str) -> Iterator[str]:
    """Traces a block in which a run is submitted. Gives where the run belongs.

    Args:
        box: The definition's digest.
        action: What is to be called.
        tenant: Whose it is.
    """
    api = _api()
    if api is None:
        yield traceparent()
        return
    told = {"kibo.box": box, "kibo.action": action, "kibo.tenant": tenant}
    with _span(api, "kibo.submit", api.SpanKind.PRODUCER, traceparent(), told) as span:
        yield _header(span) or traceparent()


@contextmanager
def attempt(order: Order, where: str) -> Iterator[None]:
    """Traces an attempt of a run during a block.

    Args:
        order: Which.
        where: Where the run belongs.
    """
    api = _api()
    if api is None:
        yield
        return
    told: dict[str, str | int] = {
        "kibo.run": order.run.id,
        "kibo.attempt": order.attempt.epoch,
        "kibo.attempt.kind": order.attempt.kind,
        "kibo.node": order.attempt.node,
        "kibo.tenant": order.run.request.tenant,
    }
    with _span(api, "kibo.attempt", api.SpanKind.CONSUMER, where, told):
        yield


@contextmanager
def action(box: str, name: str, where: str) -> Iterator[str]:
    """Traces the call of an action during a block, within an attempt. Gives what the box is told of where it is.

    Args:
        box: The definition's digest.
        name: The action's.
        where: Where the run belongs.
    """
    api = _api()
    if api is None:
        yield where
        return
    told = {"kibo.box": box, "kibo.action": name}
    with _span(api, "kibo.action", api.SpanKind.CLIENT, "", told) as span:
        yield _header(span) or where


def effects(where: str, read: Callable[[], Iterable[Effect]]) -> None:
    """Traces the requests that an action has made, as they stand now.

    Args:
        where: What `action` gave; empty where none was called.
        read: Reads them, where somebody traces.
    """
    api = _api()
    if api is None or not where or not api.get_current_span().is_recording():
        return
    try:
        found = read()
    except KiboError as error:
        _log.warning("what a run has asked for is missing in its trace: %s", error.message)
        return
    tracer, context = api.get_tracer("kibo"), _remote(api, where)
    for each in found:
        if each.action is not None:
            continue  # the call itself, which has a span
        told: dict[str, str | int] = {
            "kibo.effect": each.id,
            "kibo.effect.class": each.effect,
            "kibo.effect.state": each.state,
            "http.request.method": each.method,
            "server.address": urlsplit(each.url).hostname or "",
        }
        if each.status is not None:
            told["http.response.status_code"] = each.status
        span = tracer.start_span(
            "kibo.effect",
            context,
            kind=api.SpanKind.CLIENT,
            attributes=told,
            start_time=int(each.created_s * _NANOSECONDS),
        )
        if each.released_s is not None:
            span.add_event("released", timestamp=int(each.released_s * _NANOSECONDS))
        span.end(None if each.ended_s is None else int(each.ended_s * _NANOSECONDS))


@contextmanager
def _span(
    api: Any, name: str, kind: api.SpanKind, parent: str, told: Mapping[str, str | int]
) -> Iterator[api.Span]:
    """Makes a span the current one during a block, below another process's or below the current one."""
    tracer = api.get_tracer("kibo")
    context = _remote(api, parent) if parent else None
    with tracer.start_as_current_span(
        name, context, kind=kind, attributes=told, record_exception=False, set_status_on_exception=False
    ) as span:
        try:
            yield span
        except BaseException as error:
            code = error.code if isinstance(error, KiboError) else type(error).__name__
            span.set_attribute("error.type", code)
            span.set_status(api.Status(api.StatusCode.ERROR))
            raise


def _header(span: api.Span) -> str:
    found = span.get_span_context()
    if not found.is_valid:
        return ""
    return f"00-{found.trace_id:032x}-{found.span_id:016x}-{found.trace_flags & 0xFF:02x}"


def _remote(api: Any, header: str) -> Context:
    _, trace, span, flags = header.split("-")
    where = api.SpanContext(
        int(trace, 16), int(span, 16), is_remote=True, trace_flags=api.TraceFlags(int(flags, 16))
    )
    found: Context = api.set_span_in_context(api.NonRecordingSpan(where))
    return found
