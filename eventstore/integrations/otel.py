"""Runs as OpenTelemetry traces: `pip install 'trace-eventstore[otel]'`.

A run is a trace: a root span, and below it a span for each execution of a node, branches below their parallel
node. Ids come from the trace id and seqs alone, so exporting again gives the same spans, and a run that goes on
adds to those it has; a span without an end is left for later. Barriers, checkpoints and requests to cancel are
events of the root span, the newest of them where there are many. A fork exports what it ran itself, its root linked
to the span that it was taken after.

Spans are built as the SDK's `ReadableSpan`, which an exporter takes, and not through a tracer: sampling, limits of
attributes and `OTEL_SDK_DISABLED` are rules for a program that watches itself, and would lose parts of the past.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime
from hashlib import blake2b
from heapq import heappush, heappushpop
from itertools import islice
from typing import TYPE_CHECKING, Any
from uuid import UUID

from eventstore.chart import since_1970_us
from eventstore.errors import DeliveryFailed
from eventstore.event import Modify, Reject, Reroute, utc
from eventstore.span import CheckpointMark, ForkMark, Span, Wait
from eventstore.timeline import Reading

try:
    from opentelemetry.sdk.resources import SERVICE_NAME, Resource
    from opentelemetry.sdk.trace import Event, ReadableSpan
    from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope
    from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags
except ImportError as error:
    raise ImportError(
        f"eventstore.integrations.otel needs OpenTelemetry: pip install 'trace-eventstore[otel]' ({error})",
        name=error.name,
    ) from error

if TYPE_CHECKING:
    from eventstore.store import Store

BATCH_SPANS = 512
MOST_EVENTS = 1000
"""How many events a root span has: collectors refuse what is too large, and the whole batch with it."""
_ROOT = "0"


def export_spans(
    store: Store, trace_ids: Iterable[str], exporter: SpanExporter, *, resource: Resource | None = None
) -> int:
    """Give the spans of these traces to an exporter, in batches; how many there were.

    `trace_ids`: taken one by one, so a generator sees how far it is. `resource`: who the spans are from, by default
    what the `OTEL_*` environment says, with service name `eventstore` where it names none. Memory holds a batch of
    spans, not those of a trace, beside a trace's barriers and checkpoints; of these the root span gets the newest
    1,000 events, and `eventstore.events_left_out` says how many it lacks. The exporter stays open.

    Raises DeliveryFailed when the exporter does not take a batch; what went before stays delivered, and exporting
    again gives the same ids. Raises TraceNotFound, TraceErased, LogCorrupted, Trimmed for history that goes meanwhile.

    >>> import eventstore as es
    >>> from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
    >>> exporter = InMemorySpanExporter()
    >>> with es.open(":memory:") as store:
    ...     trace = store.start({"n": 0}, name="count")
    ...     with trace.step("add") as step:
    ...         step.put("n", 1)
    ...     export_spans(store, [trace.id], exporter)
    2
    >>> [span.name for span in exporter.get_finished_spans()]
    ['add', 'count']
    """
    source = _resource() if resource is None else resource
    spans = (span for trace_id in trace_ids for span in _Run(store, trace_id, source).spans())
    delivered = 0
    while batch := list(islice(spans, BATCH_SPANS)):
        try:
            result = exporter.export(batch)
        except Exception as error:  # an exporter may raise what its transport raises
            raise DeliveryFailed(type(exporter).__name__, delivered, str(error)) from error
        if result is not SpanExportResult.SUCCESS:
            raise DeliveryFailed(type(exporter).__name__, delivered)
        delivered += len(batch)
    return delivered


def otel_trace_id(trace_id: str) -> int:
    """The 128-bit id of a run's trace: its UUID, or a hash of an id that is none.

    >>> f"{otel_trace_id('01890a5d-ac96-774b-bcce-b302099a8057'):x}", otel_trace_id("t1") == otel_trace_id("t1")
    ('1890a5dac96774bbcceb302099a8057', True)
    """
    try:
        uuid = UUID(trace_id)
    except ValueError:
        uuid = None
    if uuid is not None and uuid.int and str(uuid) == trace_id:
        return uuid.int
    return _number(trace_id, 16)


def otel_span_id(trace_id: str, place: str) -> int:
    """The 64-bit id of a span. `place`: the seq of the event that ended it; `0` the root; `SEQ/` a parallel node."""
    return _number(f"{trace_id}\0{place}", 8)


def _number(text: str, size: int) -> int:
    return int.from_bytes(blake2b(text.encode(), digest_size=size).digest(), "big") or 1


def _resource() -> Resource:
    found = Resource.create()
    named = str(found.attributes.get(SERVICE_NAME, ""))
    if named and not named.startswith("unknown_service"):
        return found
    return found.merge(Resource({SERVICE_NAME: "eventstore"}))


def _ns(at: datetime) -> int:
    return since_1970_us(at) * 1000


def _attributes(**fields: Any) -> dict[str, Any]:
    """Under `eventstore.`, those that say something."""
    return {f"eventstore.{name}": value for name, value in fields.items() if value is not None and value != ""}


class _Run:
    """The spans of one run. Only its own: what a fork shares is its parent's."""

    def __init__(self, store: Store, trace_id: str, resource: Resource) -> None:
        from eventstore import __version__

        self.trace_id = trace_id
        self.reading = Reading(store, trace_id)
        self.origin: ForkMark | None = self.reading.origin
        self.fields: dict[str, Any] = {
            "resource": resource,
            "instrumentation_scope": InstrumentationScope("eventstore", __version__),
            "kind": SpanKind.INTERNAL,
        }

    def context(self, owner: str, place: str, *, is_remote: bool = False) -> SpanContext:
        """The context of a span of any run."""
        sampled = TraceFlags(TraceFlags.SAMPLED)
        return SpanContext(otel_trace_id(owner), otel_span_id(owner, place), is_remote, sampled)

    def spans(self) -> Iterator[ReadableSpan]:
        """Each node's span as it is read, the root's at last."""
        own_after = self.origin.seq if self.origin is not None else 0
        before_fork: Span | None = None
        began: datetime | None = None
        inside: dict[int, datetime] = {}  # of parallel nodes to come, when their last own branch was over
        cost = 0.0
        for span in self.reading.spans():
            has_own = span.is_parallel and span.opened_seq in inside
            if span.seq <= own_after and not has_own:
                before_fork = span if span.ended_at is not None else before_fork
                continue
            began = span.started_at if began is None else min(began, span.started_at)
            cost += span.token_cost
            if span.ended_at is not None or span.abandoned:
                over = span.ended_at or span.started_at
                if span.within is not None:
                    inside[span.within] = max(over, inside.get(span.within, over))
                yield self._span(span, inside.pop(span.opened_seq, None) if span.is_parallel else None)
        yield self._root(began, cost, before_fork)

    def _span(self, span: Span, inside_over: datetime | None) -> ReadableSpan:
        """`inside_over`: of a parallel node, when its last branch was over."""
        parent = _ROOT if span.within is None else f"{span.within}/"
        over = span.ended_at
        if over is None and span.is_parallel:
            ended = self.reading.fold.ended
            over = max((at for at in (inside_over, ended and ended[0]) if at), default=None)
        if span.success is None:
            status = Status(StatusCode.ERROR, "it may or may not have run: there is no result")
        elif span.success:
            status = Status(StatusCode.UNSET)
        else:
            status = Status(StatusCode.ERROR, span.error)
        return ReadableSpan(
            span.path,
            self.context(self.trace_id, _place(span)),
            self.context(self.trace_id, parent),
            attributes=_attributes(
                trace_id=self.trace_id,
                step=span.step or None,
                node=span.node,
                branch=span.branch,
                attempt=span.attempt,
                seq=span.seq,
                duration_ms=span.duration_ms,
                token_cost=span.token_cost,
                has_side_effects=span.has_side_effects,
                retry_at=None if span.retry_at is None else span.retry_at.isoformat(),
                falls_back=span.falls_back or None,
                in_doubt=span.success is None or None,
            ),
            status=status,
            start_time=_ns(span.started_at),
            end_time=max(_ns(span.started_at), _ns(over or span.started_at)),
            **self.fields,
        )

    def _root(self, began: datetime | None, token_cost: float, before_fork: Span | None) -> ReadableSpan:
        reading, row, origin = self.reading, self.reading.row, self.origin
        ended = reading.fold.ended
        start_ns = _ns(origin.at if origin is not None else reading.started_at or utc(row.created_us))
        start_ns = start_ns if began is None else min(start_ns, _ns(began))
        end_ns = max(start_ns, _ns(ended[0] if ended is not None else utc(reading.head.at_us)))
        status = Status(StatusCode.UNSET)
        if row.status == "failed":
            status = Status(StatusCode.ERROR, None if ended is None else ended[1])
        events, left_out = self._newest_events()
        return ReadableSpan(
            row.name or "run",
            self.context(self.trace_id, _ROOT),
            None,
            attributes=_attributes(
                trace_id=self.trace_id,
                name=row.name,
                status=row.status,
                running=ended is None or None,
                version=reading.head.version,
                graph_hash=reading.fold.graph_hash,
                token_cost=token_cost,
                trimmed_seq=reading.trimmed_seq or None,
                parent_trace_id=None if origin is None else origin.trace_id,
                fork_seq=None if origin is None else origin.seq,
                events_left_out=left_out or None,
            ),
            events=events,
            links=[] if origin is None else [self._link(origin, before_fork)],
            status=status,
            start_time=start_ns,
            end_time=end_ns,
            **self.fields,
        )

    def _link(self, origin: ForkMark, before_fork: Span | None) -> Link:
        """To the last span before the fork, which the parent, or one before it, exports; else to the parent's root."""
        owner, place = origin.trace_id, _ROOT
        if before_fork is not None:
            owner, place = before_fork.inherited_from or owner, _place(before_fork)
        attributes = _attributes(parent_trace_id=origin.trace_id, fork_seq=origin.seq)
        return Link(self.context(owner, place, is_remote=True), attributes)

    def _newest_events(self) -> tuple[list[Event], int]:
        """The newest events, oldest first, and how many others there are."""
        newest: list[tuple[int, int, Event]] = []
        number = -1
        for number, event in enumerate(self._events()):
            item = event.timestamp, number, event
            if len(newest) < MOST_EVENTS:
                heappush(newest, item)
            else:
                heappushpop(newest, item)
        return [event for _, _, event in sorted(newest)], number + 1 - len(newest)

    def _events(self) -> Iterator[Event]:
        own_after = self.origin.seq if self.origin is not None else 0
        for wait in self.reading.fold.waits(utc(self.reading.head.at_us)):
            if wait.inherited_from is None:
                yield from _barrier_events(wait)
        for mark in self.reading.checkpoints():
            if mark.inherited_from is None:
                yield _checkpoint_event(mark)
        for asked in self.reading.fold.cancels:
            if asked.seq > own_after:
                fields = _attributes(seq=asked.seq, by=asked.by, reason=asked.reason)
                yield Event("cancel_requested", fields, _ns(asked.at))


def _place(span: Span) -> str:
    """What tells a span from all others of its run, and stays so as the run goes on."""
    return f"{span.opened_seq}/" if span.is_parallel else str(span.seq)


def _barrier_events(wait: Wait) -> Iterator[Event]:
    asked = _attributes(
        barrier_id=wait.barrier_id,
        node=wait.node,
        seq=wait.raised_seq,
        kind=wait.reason,
        prompt=wait.prompt,
        deadline_at=None if wait.deadline_at is None else wait.deadline_at.isoformat(),
    )
    yield Event("barrier_raised", asked, _ns(wait.raised_at))
    if wait.decision is None or wait.decided_at is None:
        return
    decided = _attributes(
        barrier_id=wait.barrier_id,
        node=wait.node,
        seq=wait.decided_seq,
        action=str(wait.decision.__struct_config__.tag),
        by=wait.by,
        reason=wait.decision.reason if isinstance(wait.decision, Reject) else None,
        target=wait.decision.target if isinstance(wait.decision, Reroute) else None,
        keys=list(wait.decision.values) if isinstance(wait.decision, Modify) else None,
        waited_s=wait.waited_s,
        submitted=wait.submitted or None,
    )
    yield Event("barrier_decided", decided, _ns(wait.decided_at))


def _checkpoint_event(mark: CheckpointMark) -> Event:
    fields = _attributes(checkpoint_id=mark.checkpoint_id, seq=mark.seq, node=mark.node, triggers=mark.triggers)
    return Event("checkpoint", fields, _ns(mark.at))
