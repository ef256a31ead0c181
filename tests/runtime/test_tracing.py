"""Runs as traces: one for each run, in whichever processes it is made, and nothing in it that is the user's own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from opentelemetry import trace
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import kibo
from kibo import Allow, Fork, Policy, Retry
from kibo.model.errors import RunFailed, RunInvalid
from kibo.schedule.request import Request
from kibo.wiring import runs, runtime
from patience import eventually
from running_till import Till, serving
from traced_boxes import Payer, Traced

pytestmark = pytest.mark.runtime

ELSEWHERE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
CONFIDENTIAL = "4111-1111"


@pytest.fixture(scope="module")
def exporter() -> Iterator[InMemorySpanExporter]:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    yield exporter
    provider.shutdown()


@pytest.fixture
def spans(exporter: InMemorySpanExporter) -> InMemorySpanExporter:
    exporter.clear()
    return exporter


def finished(spans: InMemorySpanExporter, *names: str) -> list[ReadableSpan]:
    """Waits until these spans have ended, and returns them in this order."""
    eventually(lambda: sorted(each.name for each in spans.get_finished_spans()) == sorted(names))
    found = sorted(spans.get_finished_spans(), key=lambda each: each.start_time or 0)
    return [next(each for each in found if each.name == name) for name in names]


def header(span: ReadableSpan) -> str:
    assert span.context is not None
    where = span.context
    return f"00-{where.trace_id:032x}-{where.span_id:016x}-{where.trace_flags:02x}"


def parent_of(span: ReadableSpan) -> int:
    return span.parent.span_id if span.parent is not None else 0


def id_of(span: ReadableSpan) -> int:
    assert span.context is not None
    return span.context.span_id


def test_a_run_is_one_trace_and_the_programs_of_its_box_are_told_where_they_are(spans: InMemorySpanExporter):
    with trace.get_tracer("test").start_as_current_span("caller"):
        run = kibo.submit(Traced(), "where", tenant="ada")
        told = run.result(30)
    caller, submit, attempt, action = finished(spans, "caller", "kibo.submit", "kibo.attempt", "kibo.action")
    assert told == [header(action), header(action)]
    assert [parent_of(each) for each in (submit, attempt, action)] == [
        id_of(each) for each in (caller, submit, attempt)
    ]
    assert len({each.context.trace_id for each in (caller, submit, attempt, action)}) == 1  # type: ignore[union-attr]
    assert attempt.attributes is not None
    assert (attempt.attributes["kibo.run"], attempt.attributes["kibo.tenant"]) == (run.id, "ada")
    assert next(iter(run.events())).told["traceparent"] == header(submit)


def test_a_request_is_a_span_of_its_action_and_no_span_has_what_it_says(
    spans: InMemorySpanExporter, till: Till, shop: Till
):
    class Paying(Payer):
        """Pays at the shop of this test."""

        egress = [Allow("shop.example", to=till.address)]

    assert kibo.submit(Paying(), "pay", f"/pay?card={CONFIDENTIAL}").result(30).startswith("receipt 1")
    _, _, action, effect = finished(spans, "kibo.submit", "kibo.attempt", "kibo.action", "kibo.effect")
    assert parent_of(effect) == id_of(action)
    assert effect.attributes is not None
    told = dict(effect.attributes)
    assert told.pop("kibo.effect", "").startswith("eff_")  # type: ignore[union-attr]
    assert told == {
        "kibo.effect.class": "irreversible",
        "kibo.effect.state": "done",
        "http.request.method": "POST",
        "server.address": "shop.example",
        "http.response.status_code": 200,
    }
    assert [each.name for each in effect.events] == ["released"]
    assert shop.paid == [f"/pay?card={CONFIDENTIAL}"]
    assert CONFIDENTIAL not in "".join(each.to_json() for each in spans.get_finished_spans())


def test_what_an_action_raises_is_a_code_in_its_trace_and_no_text(spans: InMemorySpanExporter):
    policy = Policy(retry=Retry(1, backoff_s=0))
    with pytest.raises(RunFailed):
        kibo.submit(Traced(), "where", CONFIDENTIAL, policy=policy).result(30)
    twice = ["kibo.attempt", "kibo.action"] * 2
    submit, attempt, action, *_ = finished(spans, "kibo.submit", *twice)
    for each in (attempt, action):
        assert each.attributes is not None
        assert each.attributes["error.type"] == "action.raised"
        assert (each.status.status_code, each.status.description) == (trace.StatusCode.ERROR, None)
        assert not each.events
    attempts = [each for each in spans.get_finished_spans() if each.name == "kibo.attempt"]
    assert {parent_of(each) for each in attempts} == {id_of(submit)}
    assert CONFIDENTIAL not in "".join(each.to_json() for each in spans.get_finished_spans())


def test_runs_that_one_goes_on_as_are_of_its_trace(spans: InMemorySpanExporter):
    policy = Policy(on_failure=Fork(n=2))
    with pytest.raises(RunFailed):
        kibo.submit(Traced(), "where", "wrong", policy=policy).result(30)
    thrice = ["kibo.attempt", "kibo.action"] * 3
    finished(spans, "kibo.submit", *thrice)
    assert len({each.context.trace_id for each in spans.get_finished_spans()}) == 1  # type: ignore[union-attr]


SUBMITTING = """
import sys
sys.path.insert(0, sys.argv[1])
from kibo.wiring.runs import submit_call
from traced_boxes import Traced
made = submit_call(Traced(), "where", [], {}, carry=sys.argv[2] == "here")
print(made.id, *(made.result(40) if sys.argv[2] == "here" else ()))
print([name for name in sys.modules if name.split(".")[0] in ("opentelemetry", "prometheus_client")])
"""


def submitted(where: str) -> list[str]:
    """Has a program without any tracing of its own submit a run, and returns what it prints."""
    program = [sys.executable, "-c", SUBMITTING, str(Path(__file__).parents[1]), where]
    variables = {**os.environ, "TRACEPARENT": ELSEWHERE}
    done = subprocess.run(program, capture_output=True, text=True, check=True, timeout=60, env=variables)
    return done.stdout.split()


def test_a_run_that_another_process_has_submitted_is_of_that_ones_trace(spans: InMemorySpanExporter):
    runtime().scheduling().close()
    run, *imported = submitted("not here")
    assert imported == ["[]"]
    told = kibo.get_run(run).result(30)
    attempt, action = finished(spans, "kibo.attempt", "kibo.action")
    assert told == [header(action)] * 2
    assert header(attempt)[:36] == ELSEWHERE[:36]
    assert f"{parent_of(attempt):016x}" == ELSEWHERE[36:52]


def test_a_program_that_traces_nothing_imports_nothing_for_it_and_hands_on_where_it_is():
    runtime().scheduling().close()
    assert submitted("here")[1:] == [ELSEWHERE, ELSEWHERE, "[]"]


@pytest.mark.parametrize("text", ["00-" + "0" * 32 + "-b7ad6b7169203331-01", "x" * 55, ELSEWHERE + "\n"])
def test_what_is_no_place_in_a_trace_is_not_taken_for_one(text: str, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(RunInvalid):
        Request(b"", trace=text)
    monkeypatch.setenv("TRACEPARENT", text)
    with trace.use_span(trace.INVALID_SPAN):
        assert runs.tracing.traceparent() == ""


EXPORTING = """
import sys
sys.path.insert(0, sys.argv[1])
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

provider = TracerProvider()
provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=sys.argv[2])))
trace.set_tracer_provider(provider)

import kibo
from traced_boxes import Traced

kibo.submit(Traced(), "where").result(40)
kibo.wiring.runtime().close()
provider.shutdown()
"""


def test_an_sdk_that_exports_over_http_sends_the_trace_to_its_receiver():
    received: list[str] = []

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                for scope in resource.scope_spans:
                    received.extend(f"{scope.scope.name} {span.name}" for span in scope.spans)
            answer = ExportTraceServiceResponse().SerializeToString()
            self.send_response(200)
            self.send_header("content-type", "application/x-protobuf")
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, format: str, *args: object) -> None:
            """Tests print nothing."""

    runtime().scheduling().close()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
    with serving(server):
        url = f"http://127.0.0.1:{server.server_address[1]}/v1/traces"
        program = [sys.executable, "-c", EXPORTING, str(Path(__file__).parents[1]), url]
        subprocess.run(program, check=True, timeout=60)
    assert sorted(received) == ["kibo kibo.action", "kibo kibo.attempt", "kibo kibo.submit"]
