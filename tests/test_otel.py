"""Runs as OpenTelemetry traces: spans, ids, links and events, in memory and over the wire."""

from __future__ import annotations

import subprocess
import sys
import threading
from hashlib import blake2b
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from uuid import UUID

import pytest
from click.testing import CliRunner
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode
from test_timeline import built, clock, visited_twice, write  # noqa: F401

import eventstore as es
from eventstore.cli.spans import spans as command
from eventstore.errors import DeliveryFailed
from eventstore.event import NodeExecuted, TraceEnded, utc
from eventstore.integrations.otel import export_spans, otel_span_id, otel_trace_id
from eventstore.run_event import BranchExecuted, NodeIntended
from eventstore.timeline import timeline

ID = "01890a5d-ac96-774b-bcce-b302099a8057"


def exported(store, *trace_ids, **keywords):
    """The spans of these runs by name, the root under its trace's name."""
    exporter = InMemorySpanExporter()
    count = export_spans(store, trace_ids, exporter, **keywords)
    found = exporter.get_finished_spans()
    assert count == len(found) == len({(span.context.trace_id, span.context.span_id) for span in found})
    return {span.name: span for span in found}


def us(ns):
    assert ns % 1000 == 0
    return utc(ns // 1000)


@pytest.fixture
def refunded(store):
    """A run with a parallel node, a decision, and a payment."""
    graph = built()
    es.run(graph, store, {}, id=ID)
    store.decide(ID, "approve", es.Approve(by="ana"))
    es.resume(graph, store, ID)
    return timeline(store, ID)


def test_a_run_is_a_trace_with_a_span_for_each_execution(store, refunded):
    spans = exported(store, ID)
    assert set(spans) == {"refund", "ask", "gather", "gather/search", "gather/look", "approve", "pay"}
    assert {span.context.trace_id for span in spans.values()} == {UUID(ID).int}
    root = spans["refund"].context.span_id
    assert spans["refund"].parent is None
    assert {spans[name].parent.span_id for name in ("ask", "gather", "approve", "pay")} == {root}
    gather = spans["gather"].context.span_id
    assert {spans[name].parent.span_id for name in ("gather/search", "gather/look")} == {gather}


def test_times_are_exact_to_the_microsecond(store, refunded):
    spans = exported(store, ID)
    for span in refunded.spans:
        found = spans[span.path]
        assert (us(found.start_time), us(found.end_time)) == (span.started_at, span.ended_at)
    root = spans["refund"]
    assert us(root.end_time) == refunded.ended_at
    assert us(root.start_time) == min(refunded.started_at, *(span.started_at for span in refunded.spans))


def test_the_root_begins_no_later_than_what_ran_in_it(store):
    trace = store.start({}, id="t1", name="run")
    trace.append([NodeExecuted("ask", duration_ms=3_600_000)])
    spans = exported(store, "t1")
    assert spans["run"].start_time == spans["ask"].start_time < spans["run"].end_time


def test_attributes_say_what_the_log_says(store, refunded):
    spans = exported(store, ID)
    pay = next(span for span in refunded.spans if span.node == "pay")
    assert dict(spans["pay"].attributes) == {
        "eventstore.trace_id": ID, "eventstore.step": 4, "eventstore.node": "pay", "eventstore.attempt": 1,
        "eventstore.seq": pay.seq, "eventstore.duration_ms": pay.duration_ms, "eventstore.token_cost": 0.0,
        "eventstore.has_side_effects": True,
    }  # fmt: skip
    assert spans["gather/look"].attributes["eventstore.branch"] == "look"
    assert spans["ask"].attributes["eventstore.token_cost"] == 0.25
    assert dict(spans["refund"].attributes) == {
        "eventstore.trace_id": ID, "eventstore.name": "refund", "eventstore.status": "completed",
        "eventstore.version": refunded.version, "eventstore.graph_hash": refunded.graph_hash,
        "eventstore.token_cost": 0.25,
    }  # fmt: skip
    assert len(refunded.graph_hash) > 8
    assert {span.status.status_code for span in spans.values()} == {StatusCode.UNSET}


def test_barriers_and_checkpoints_are_events_of_the_root(store, refunded):
    root = exported(store, ID)["refund"]
    (wait,) = refunded.waits
    by_name = {event.name: event for event in root.events}
    assert dict(by_name["barrier_raised"].attributes) == {
        "eventstore.barrier_id": "approve#1", "eventstore.node": "approve", "eventstore.seq": wait.raised_seq,
        "eventstore.kind": "gate", "eventstore.prompt": "Refund?",
    }  # fmt: skip
    assert dict(by_name["barrier_decided"].attributes) == {
        "eventstore.barrier_id": "approve#1", "eventstore.node": "approve", "eventstore.seq": wait.decided_seq,
        "eventstore.action": "approve", "eventstore.by": "ana", "eventstore.waited_s": wait.waited_s,
    }  # fmt: skip
    assert us(by_name["barrier_raised"].timestamp) == wait.raised_at
    assert us(by_name["barrier_decided"].timestamp) == wait.decided_at
    marks = [event for event in root.events if event.name == "checkpoint"]
    assert len(marks) == len(refunded.checkpoints) > 1
    assert "human_decision" in marks[0].attributes["eventstore.triggers"]
    times = [event.timestamp for event in root.events]
    assert times == sorted(times)


@pytest.mark.parametrize(
    ("decision", "told"),
    [
        (es.Reject("too much", by="bo"), {"action": "reject", "reason": "too much", "by": "bo"}),
        (es.Modify({"total": 3}), {"action": "modify", "keys": ["total"]}),
        (es.Reroute("talk"), {"action": "reroute", "target": "talk"}),
    ],
)
def test_every_decision_is_told(store, decision, told):
    trace = store.start({"total": 1}, id="t1", name="run")
    trace.raise_barrier("ok", keys=["total"])
    trace.decide("ok", decision)
    event = next(event for event in exported(store, "t1")["run"].events if event.name == "barrier_decided")
    found = {name.removeprefix("eventstore."): value for name, value in event.attributes.items()}
    assert found.items() >= told.items()
    assert set(found) - set(told) == {"barrier_id", "node", "seq", "waited_s"}


def test_failures_are_errors_with_their_reason(store):
    trace = store.start({}, id="t1", name="run")
    trace.append([NodeExecuted("a", False, "ValueError: no", retry_at_us=4_000_000_000_000_000)])
    trace.append([NodeExecuted("b", False, "gone", attempt=2, falls_back=True)])
    trace.end("failed", "all gone")
    spans = exported(store, "t1")
    for name, reason in (("a", "ValueError: no"), ("b", "gone"), ("run", "all gone")):
        assert (spans[name].status.status_code, spans[name].status.description) == (StatusCode.ERROR, reason)
    assert spans["a"].attributes["eventstore.retry_at"] == "2096-10-02T07:06:40+00:00"
    assert spans["b"].attributes["eventstore.falls_back"] is True and spans["b"].attributes["eventstore.attempt"] == 2


def test_a_request_to_cancel_is_told(store):
    es.run(built(), store, {}, id="t1")
    store.cancel("t1", by="ana", reason="too late")
    root = exported(store, "t1")["refund"]
    event = next(event for event in root.events if event.name == "cancel_requested")
    assert (event.attributes["eventstore.by"], event.attributes["eventstore.reason"]) == ("ana", "too late")
    assert root.attributes["eventstore.status"] == "cancelled" and root.status.status_code is StatusCode.UNSET
    assert not any(event.name == "barrier_decided" for event in root.events)


# Ids


def test_ids_are_a_function_of_the_log(store, refunded):
    first, again = exported(store, ID), exported(store, ID)
    assert {name: span.context.span_id for name, span in first.items()} == {
        name: span.context.span_id for name, span in again.items()}  # fmt: skip
    pay = next(span for span in refunded.spans if span.node == "pay")
    expected = blake2b(f"{ID}\0{pay.seq}".encode(), digest_size=8).digest()
    assert first["pay"].context.span_id == int.from_bytes(expected, "big") == otel_span_id(ID, str(pay.seq))


@pytest.mark.parametrize("trace_id", ["t1", ID.upper(), ID.replace("-", ""), str(UUID(int=0)), "日本"])
def test_an_id_that_is_no_plain_uuid_is_hashed(trace_id):
    expected = int.from_bytes(blake2b(trace_id.encode(), digest_size=16).digest(), "big")
    assert otel_trace_id(trace_id) == expected != otel_trace_id(ID)


def test_a_run_that_goes_on_adds_spans_and_keeps_those_it_had(store):
    trace = store.start({}, id="t1", name="run")
    trace.append([NodeExecuted("ask")])
    write(trace, NodeIntended("gather/b", "key"))
    write(trace, BranchExecuted("gather/a"))
    before = exported(store, "t1")
    assert set(before) == {"run", "ask", "gather/a"}  # neither what has not ended, nor its parallel node
    assert before["run"].attributes["eventstore.running"] is True
    assert us(before["run"].end_time) == timeline(store, "t1").updated_at
    write(trace, BranchExecuted("gather/b"))
    trace.append([NodeExecuted("gather")])
    trace.end()
    after = exported(store, "t1")
    assert {name: after[name].context.span_id for name in before} == {
        name: span.context.span_id for name, span in before.items()}  # fmt: skip
    assert before["gather/a"].parent == after["gather/a"].parent
    assert before["gather/a"].parent.span_id == after["gather"].context.span_id == after["gather/b"].parent.span_id
    assert "eventstore.running" not in after["run"].attributes


def test_what_may_or_may_not_have_run_is_an_error_without_length(store):
    trace = store.start({}, id="t1", name="run")
    write(trace, NodeIntended("pay", "key"), NodeIntended("gather/a", "key"), BranchExecuted("gather/b"))
    assert set(exported(store, "t1")) == {"run", "gather/b"}
    trace.end("cancelled")
    spans = exported(store, "t1")
    assert set(spans) == {"run", "pay", "gather", "gather/a", "gather/b"}
    pay = spans["pay"]
    assert pay.start_time == pay.end_time and pay.status.status_code is StatusCode.ERROR
    assert pay.attributes["eventstore.in_doubt"] is True
    assert spans["gather"].end_time == spans["run"].end_time
    assert spans["gather/b"].parent.span_id == spans["gather"].context.span_id


# Forks and trims


def test_a_fork_exports_its_own_part_and_links_to_where_it_was_taken(store, refunded):
    at = refunded.waits[0].raised_seq
    store.fork(ID, at=at, id="t2", name="again")
    store.decide("t2", "approve", es.Reject("no"))
    parent, fork = exported(store, ID), exported(store, "t2")
    assert "again" in fork and not set(fork) & {"ask", "gather", "gather/look"}
    root = fork["again"]
    (link,) = root.links
    last = max((span for span in refunded.spans if span.seq <= at), key=lambda span: span.seq)
    assert link.context.trace_id == UUID(ID).int != root.context.trace_id
    assert link.context.span_id == parent[last.path].context.span_id
    assert dict(link.attributes) == {"eventstore.parent_trace_id": ID, "eventstore.fork_seq": at}
    assert us(root.start_time) == timeline(store, "t2").origin.at
    assert [event.name for event in root.events][:1] == ["barrier_raised"]
    assert len([event for event in root.events if event.name == "barrier_raised"]) == 1


def test_a_fork_does_not_tell_again_that_its_parent_was_cancelled(store):
    es.run(built(), store, {}, id="t1")
    store.cancel("t1", by="ana")
    store.fork("t1", id="t2", name="again")
    assert [event.name for event in exported(store, "t2")["again"].events if "cancel" in event.name] == []


def test_a_fork_before_anything_ran_links_to_the_root(store):
    store.start({}, id="t1", name="one")
    store.fork("t1", id="t2", name="two")
    parent, fork = exported(store, "t1"), exported(store, "t2")
    assert fork["two"].links[0].context.span_id == parent["one"].context.span_id


def test_a_fork_of_a_fork_links_to_who_ran_the_span(store):
    trace = store.start({}, id="t1", name="one")
    trace.append([NodeExecuted("a")])
    store.fork("t1", id="t2")
    store.fork("t2", id="t3", name="three")
    (link,) = exported(store, "t3")["three"].links
    assert link.context.trace_id == otel_trace_id("t1")
    assert link.context.span_id == exported(store, "t1")["a"].context.span_id


def test_a_trimmed_run_says_so(store, record):
    record(store, 10)
    store.trim("t1", 21, retry_window_s=0)
    exporter = InMemorySpanExporter()
    assert export_spans(store, ["t1"], exporter) == 6
    assert exporter.get_finished_spans()[-1].attributes["eventstore.trimmed_seq"] == 21


# Resources, batches, failures


def test_the_service_is_named(store, trace, monkeypatch):
    assert exported(store, "t1")["chat"].resource.attributes["service.name"] == "eventstore"
    monkeypatch.setenv("OTEL_SERVICE_NAME", "refunds")
    assert exported(store, "t1")["chat"].resource.attributes["service.name"] == "refunds"
    own = Resource({"service.name": "mine"})
    assert exported(store, "t1", resource=own)["chat"].resource is own
    scope = exported(store, "t1")["chat"].instrumentation_scope
    assert (scope.name, scope.version) == ("eventstore", es.__version__)


def test_nothing_of_a_long_run_is_lost_to_limits(store, monkeypatch):
    for limit in ("SPAN_EVENT_COUNT", "SPAN_ATTRIBUTE_COUNT", "ATTRIBUTE_VALUE_LENGTH"):
        monkeypatch.setenv(f"OTEL_{limit}_LIMIT", "1")
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    trace = store.start({}, id="t1", name="run")
    for _ in range(200):
        trace.raise_barrier("ok")
        trace.decide("ok", es.Approve(by="ana"))
    root = exported(store, "t1")["run"]
    assert len([event for event in root.events if event.name == "barrier_decided"]) == 200
    assert root.attributes["eventstore.trace_id"] == "t1"


class Refusing(SpanExporter):
    """Takes so many batches, then fails, or raises."""

    def __init__(self, takes, error=None):
        self.takes, self.error, self.sizes = takes, error, []

    def export(self, spans):
        self.sizes.append(len(spans))
        if len(self.sizes) <= self.takes:
            return SpanExportResult.SUCCESS
        if self.error is not None:
            raise self.error
        return SpanExportResult.FAILURE


def test_spans_go_in_batches_across_runs(store, record):
    record(store, 600, id="t1")
    record(store, 3, id="t2")
    exporter = Refusing(9)
    assert export_spans(store, ["t1", "t2"], exporter) == 605
    assert exporter.sizes == [512, 93]


@pytest.mark.parametrize(("error", "reason"), [(None, ""), (ConnectionError("no route"), "no route")])
def test_a_batch_that_is_not_taken_is_an_error_that_says_what_went_before(store, record, error, reason):
    record(store, 600)
    with pytest.raises(DeliveryFailed) as failed:
        export_spans(store, ["t1"], Refusing(1, error))
    assert (failed.value.exporter, failed.value.delivered, failed.value.reason) == ("Refusing", 512, reason)
    assert failed.value.__cause__ is error


def test_an_unknown_trace_is_said_so(store):
    with pytest.raises(es.TraceNotFound):
        export_spans(store, ["absent"], InMemorySpanExporter())


def test_without_the_extra_the_import_says_what_to_install():
    code = "import sys; sys.modules['opentelemetry'] = None; import eventstore.integrations.otel"
    failed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert failed.returncode == 1
    assert "ImportError: eventstore.integrations.otel needs OpenTelemetry: pip install 'trace-eventstore[otel]'" in (
        failed.stderr)  # fmt: skip


# The wire, and the command


class Collector(ThreadingHTTPServer):
    """A collector on a free port: keeps the requests, answers `status`."""

    def __init__(self):
        self.requests, self.paths, self.status = [], [], 200
        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"

    @property
    def spans(self):
        return [
            span
            for request in self.requests
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.paths.append(self.path)
        self.server.requests.append(ExportTraceServiceRequest.FromString(body))
        self.send_response(self.server.status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.fixture
def collector(monkeypatch):
    for name in ("ENDPOINT", "TRACES_ENDPOINT", "HEADERS", "TIMEOUT"):
        monkeypatch.delenv(f"OTEL_EXPORTER_OTLP_{name}", raising=False)
    with Collector() as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_the_wire_carries_what_the_spans_say(store, refunded, collector):
    exporter = OTLPSpanExporter(endpoint=f"{collector.url}/v1/traces")
    sent = export_spans(store, [ID], exporter)
    exporter.shutdown()
    assert sent == len(collector.spans) == 7
    spans = exported(store, ID)
    for span in collector.spans:
        expected = spans[span.name]
        assert int.from_bytes(span.trace_id, "big") == UUID(ID).int
        assert int.from_bytes(span.span_id, "big") == expected.context.span_id
        assert int.from_bytes(span.parent_span_id, "big") == (expected.parent.span_id if expected.parent else 0)
        assert (span.start_time_unix_nano, span.end_time_unix_nano) == (expected.start_time, expected.end_time)
    root = collector.spans[-1]
    assert [event.name for event in root.events] == [event.name for event in spans["refund"].events]
    attributes = {item.key: item.value for item in root.attributes}
    assert attributes["eventstore.version"].int_value == refunded.version
    assert attributes["eventstore.graph_hash"].string_value == refunded.graph_hash


@pytest.fixture
def db(path):
    with es.open(path) as store:
        for trace_id, name in (("t1", "chat"), ("t2", "chat"), ("u1", "other")):
            trace = store.start({}, id=trace_id, name=name)
            trace.append([NodeExecuted("ask")])
    return path


def sent(db, *arguments, code=0):
    result = CliRunner().invoke(command, list(arguments), obj=db)
    assert result.exit_code == code, result.output
    return result


def test_the_command_sends_the_runs_that_were_chosen(db, collector):
    assert sent(db, "--endpoint", collector.url).stdout == "Sent 6 spans of 3 runs.\n"
    assert collector.paths == ["/v1/traces"]
    names = [span.name for span in collector.spans]
    assert names == ["ask", "chat", "ask", "chat", "ask", "other"]
    assert sent(db, "--endpoint", collector.url, "--name", "chat").stdout == "Sent 4 spans of 2 runs.\n"
    assert sent(db, "u", "--endpoint", f"{collector.url}/v1/traces").stdout == "Sent 2 spans of 1 run.\n"
    assert sent(db, "t1", "--json", "--endpoint", collector.url).stdout == '{"traces":1,"spans":2}\n'
    assert sent(db, "--status", "failed", "--endpoint", collector.url).stdout == "Sent 0 spans of 0 runs.\n"
    assert "not both" in sent(db, "t1", "--name", "chat", code=2).stderr


def test_the_environment_says_where(db, collector, monkeypatch):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
    assert sent(db, "t1").stdout == "Sent 2 spans of 1 run.\n"
    assert collector.paths == ["/v1/traces"]


def test_a_delivery_that_failed_is_one_line_with_its_reason(db, collector, caplog):
    collector.status = 400
    failed = sent(db, "t1", "--endpoint", collector.url, code=1)
    assert failed.stdout == ""
    (line,) = failed.stderr.splitlines()
    assert line.startswith("Error: the collector did not take the spans: ") and "400" in line
    assert caplog.records == []


@pytest.mark.parametrize("endpoint", ["localhost:4318", "ftp://x", "http://"])
def test_an_endpoint_is_a_url(db, endpoint):
    assert "--endpoint is a URL" in sent(db, "--endpoint", endpoint, code=2).stderr


def test_the_command_says_what_to_install(db, monkeypatch):
    monkeypatch.setitem(sys.modules, "eventstore.integrations.otel", None)
    assert "pip install 'trace-eventstore[otel]'" in sent(db, code=1).stderr


def children(found, parent):
    return [span for span in found if span.parent and span.parent.span_id == parent.context.span_id]


def test_each_visit_of_a_parallel_node_has_its_own_branches(store):
    visited_twice(store)
    exporter = InMemorySpanExporter()
    export_spans(store, ["t1"], exporter)
    found = exporter.get_finished_spans()
    assert len({span.context.span_id for span in found}) == len(found) == 7
    first, second = (span for span in found if span.name == "gather")
    assert (first.status.status_code, second.status.status_code) == (StatusCode.ERROR, StatusCode.UNSET)
    assert [span.name for span in children(found, first)] == ["gather/a", "gather/b"]
    assert [span.name for span in children(found, second)] == ["gather/a"]
    for parent in (first, second):
        for span in children(found, parent):
            assert parent.start_time <= span.start_time <= span.end_time <= parent.end_time


def test_a_parallel_node_that_went_on_after_a_stop_holds_its_branches(store, clock):  # noqa: F811
    trace = store.start({}, id="t1", name="run")
    write(trace, BranchExecuted("gather/a", duration_ms=100))
    first = timeline(store, "t1").spans[-1]
    store.fork("t1", id="t2", name="again")
    clock(60)
    for trace_id in ("t1", "t2"):
        trace = store.open_trace(trace_id)
        write(trace, BranchExecuted("gather/b", duration_ms=5))
        trace.append([NodeExecuted("gather", duration_ms=9)])
        spans = exported(store, trace_id)
        assert us(spans["gather"].start_time) == first.started_at
        assert spans["gather/b"].parent.span_id == spans["gather"].context.span_id
        root = spans["run" if trace_id == "t1" else "again"]
        assert root.start_time <= spans["gather"].start_time and spans["gather"].end_time <= root.end_time


def test_a_fork_exports_an_inherited_visit_that_it_left_open_above_its_own_branches(store):
    trace = store.start({}, id="t1", name="run")
    write(trace, BranchExecuted("gather/a"))
    fork = store.fork("t1", id="t2", name="again")
    write(fork, BranchExecuted("gather/b"))
    assert set(exported(store, "t2")) == {"gather/b", "again"}  # it may still join
    fork.append([TraceEnded("cancelled")])
    spans = exported(store, "t2")
    assert set(spans) == {"gather/b", "gather", "again"}
    assert spans["gather/b"].parent.span_id == spans["gather"].context.span_id


def test_a_root_has_its_newest_events_and_says_how_many_it_lacks(store, monkeypatch):
    trace = store.start({}, id="t1", name="run")
    for number in range(2):
        trace.raise_barrier(f"b{number}")
        trace.decide(f"b{number}", es.Approve())
        trace.checkpoint()
    store.cancel("t1", by="ana")
    whole = exported(store, "t1")["run"]
    assert "eventstore.events_left_out" not in whole.attributes and len(whole.events) > 6
    for most in (3, len(whole.events) - 1, len(whole.events)):
        monkeypatch.setattr("eventstore.integrations.otel.MOST_EVENTS", most)
        root = exported(store, "t1")["run"]
        assert [(event.name, event.timestamp) for event in root.events] == [
            (event.name, event.timestamp) for event in whole.events[-most:]
        ]
        assert root.attributes.get("eventstore.events_left_out", 0) == len(whole.events) - most
