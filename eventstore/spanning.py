"""Events into spans: the pure fold behind a timeline.

A commit is its node's end, and the measured duration gives the start. An intent opens a span; the result of its
path closes it, a withdrawal takes it back, and a second intent of the path leaves the first in doubt for good.
What one visit of a parallel node does belongs together by the seq of the first event that tells of a branch,
so it is known as soon as that event is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any

import msgspec

from .control import with_prefix
from .event import EPOCH, BarrierDecided, BarrierRaised, TraceEnded, TraceForked
from .run_event import CancelRequested, IntentWithdrawn, NodeIntended
from .span import CancelMark, RetryWait, Span, Wait
from .waiting import Place, Waiting, when


class _Started(msgspec.Struct):
    name: str = ""
    graph_hash: str = ""


class _Cleared(msgspec.Struct):
    """A run that was reopened, or went on with another graph."""

    graph_hash: str = ""
    clears: list[str] = []


class _Reopened(_Cleared):
    pass


class _Executed(msgspec.Struct):
    """A node's execution, or (with a `path`) a branch's, without what it wrote."""

    node: str = ""
    path: str = ""
    success: bool = True
    error: str | None = None
    duration_ms: float = 0.0
    token_cost: float = 0.0
    has_side_effects: bool = False
    attempt: int = 1
    retry_at_us: int | None = None
    falls_back: bool = False
    clears: list[str] = []


KINDS: dict[str, type[Any]] = {
    "trace_started": _Started,
    "trace_forked": TraceForked,
    "node_executed": _Executed,
    "branch_executed": _Executed,
    "node_intended": NodeIntended,
    "intent_withdrawn": IntentWithdrawn,
    "barrier_raised": BarrierRaised,
    "barrier_decided": BarrierDecided,
    "cancel_requested": CancelRequested,
    "graph_changed": _Cleared,
    "trace_reopened": _Reopened,
    "trace_ended": TraceEnded,
}


class _Group:
    """One visit of a parallel node. `seq`: of the first event that told of a branch; `began`: when a branch did."""

    def __init__(self, place: Place) -> None:
        self.seq = place.seq
        self.owner = place.owner
        self.began: datetime | None = None


class Spanning:
    """What the events of one trace have come to. `ended`: when, and why where it failed.

    >>> spanning = Spanning()
    >>> from .event import utc
    >>> place = Place(3, utc(5_000_000), None)
    >>> [(span.node, span.started_at.second) for span in spanning.take(_Executed("ask", duration_ms=2000), place)]
    [('ask', 3)]
    """

    def __init__(self) -> None:
        self.graph_hash = ""
        self.ended: tuple[datetime, str | None] | None = None
        self.cancels: list[CancelMark] = []
        self.waiting = Waiting()
        self._steps = 0
        self._intents: dict[str, tuple[NodeIntended, Place]] = {}
        self._groups: dict[str, _Group] = {}
        self._retries: dict[str, RetryWait] = {}
        self._lost: list[Span] = []
        self._takes: dict[type[Any], Callable[[Any, Place], Span | None]] = {
            _Executed: self._executed,
            NodeIntended: self._intended,
            IntentWithdrawn: self._withdrawn,
            BarrierRaised: self.waiting.raised,
            BarrierDecided: self.waiting.decided,
            TraceForked: self._forked,
            _Started: self._started,
            _Cleared: self._cleared,
            _Reopened: self._reopened,
            TraceEnded: self._over,
            CancelRequested: self._cancel,
        }

    def begin(self, control: Mapping[str, Any], place: Place) -> None:
        """Go on from the control of a trimmed trace's root."""
        self.graph_hash = control.get("graph_hash", "")
        self._steps = int(control.get("steps", 0))
        for path, intent in with_prefix(control, "intent/").items():
            self._intended(NodeIntended(path, intent["key"], intent["attempt"]), place)
        for path in (*with_prefix(control, "held/"), *with_prefix(control, "failed/")):
            self._group(path, place).began = place.at
        for path, retry in with_prefix(control, "retry/").items():
            self._retries[path] = RetryWait(path, retry["attempt"] + 1, when(retry["at_us"]), place.seq)

    def take(self, event: Any, place: Place) -> list[Span]:
        """Take in an event of one of the types in `KINDS`; gives the spans that are over by it."""
        span = self._takes[type(event)](event, place)
        if not self._lost:
            return [] if span is None else [span]
        over, self._lost = self._lost, []
        return over if span is None else [*over, span]

    def without_end(self) -> Iterator[Span]:
        """The spans that have no end."""
        abandoned = self.ended is not None
        begun: dict[str, list[datetime]] = {}
        for path in self._intents:
            span = self._doubtful(path, abandoned=abandoned)
            begun.setdefault(span.node, []).append(span.started_at)
            yield span
        for node, group in self._groups.items():
            began = [*begun.get(node, ()), *([] if group.began is None else [group.began])]
            if began:
                yield Span(
                    0,
                    node,
                    min(began),
                    group.seq,
                    group.seq,
                    is_parallel=True,
                    abandoned=abandoned,
                    inherited_from=group.owner,
                )

    def waits(self, now: datetime) -> list[Wait]:
        """Every waiting, in the order of the log; what is pending, until the trace's end or `now`."""
        return self.waiting.until(self.ended[0] if self.ended else now)

    def retries(self) -> list[RetryWait]:
        """The attempts that wait for their time, the next one first."""
        return [] if self.ended else sorted(self._retries.values(), key=lambda retry: retry.due_at)

    # What each kind of event does

    def _executed(self, event: _Executed, place: Place) -> Span:
        node, _, branch = event.path.partition("/")
        path = event.path or event.node
        self._intents.pop(path, None)
        self._clear(event.clears)
        counts = event.success or event.falls_back
        ms = min(event.duration_ms, (place.at - EPOCH) / timedelta(milliseconds=1))  # an import may claim any duration
        began = place.at - timedelta(milliseconds=ms)
        within, opened_seq, is_parallel = None, place.seq, False
        if event.path:
            group = self._group(path, place)
            group.began = began if group.began is None else min(group.began, began)
            within = group.seq
            step = self._steps + 1 if event.success else 0
        else:
            node = event.node
            if (ended := self._groups.pop(node, None)) is not None:
                opened_seq, is_parallel = ended.seq, True
            self._steps += counts
            step = self._steps if counts else 0
        retry_at = None
        if event.retry_at_us is None:
            self._retries.pop(path, None)
        else:
            retry_at = when(event.retry_at_us)
            self._retries[path] = RetryWait(path, event.attempt + 1, retry_at, place.seq)
        return Span(
            step,
            node,
            began,
            place.seq,
            opened_seq,
            place.at,
            event.success,
            event.error,
            event.duration_ms,
            event.token_cost,
            event.has_side_effects,
            event.attempt,
            branch or None,
            within,
            is_parallel,
            retry_at,
            event.falls_back,
            False,
            place.owner,
        )

    def _intended(self, event: NodeIntended, place: Place) -> None:
        self._clear([f"intent/{event.path}"])
        self._intents[event.path] = event, place
        if "/" in event.path:
            self._group(event.path, place)

    def _withdrawn(self, event: IntentWithdrawn, place: Place) -> None:
        self._intents.pop(event.path, None)

    def _group(self, path: str, place: Place) -> _Group:
        return self._groups.setdefault(path.partition("/")[0], _Group(place))

    def _clear(self, keys: Iterable[str]) -> None:
        """Control keys are gone; an intent among them was a call whose result will not be known."""
        for key in keys:
            kind, _, path = key.partition("/")
            if kind == "retry":
                self._retries.pop(path, None)
            elif kind == "intent" and path in self._intents:
                self._lost.append(self._doubtful(path, abandoned=True))
                del self._intents[path]

    def _doubtful(self, path: str, *, abandoned: bool) -> Span:
        """An intent without a result."""
        event, place = self._intents[path]
        node, slash, branch = path.partition("/")
        return Span(
            0,
            node if slash else path,
            place.at,
            place.seq,
            place.seq,
            has_side_effects=True,
            attempt=event.attempt,
            branch=branch or None,
            within=self._group(path, place).seq if slash else None,
            abandoned=abandoned,
            inherited_from=place.owner,
        )

    def _forked(self, event: TraceForked, place: Place) -> None:
        self._intents.clear()  # calls of the parent, not of this run
        self._retries.clear()
        self.waiting.withdrawn(event, place)
        self.ended = None

    def _started(self, event: _Started, place: Place) -> None:
        self.graph_hash = event.graph_hash

    def _cleared(self, event: _Cleared, place: Place) -> None:
        self.graph_hash = event.graph_hash or self.graph_hash
        self._clear(event.clears)

    def _reopened(self, event: _Reopened, place: Place) -> None:
        self.ended = None
        self._cleared(event, place)

    def _over(self, event: TraceEnded, place: Place) -> None:
        self.ended = place.at, event.error

    def _cancel(self, event: CancelRequested, place: Place) -> None:
        self.cancels.append(CancelMark(place.seq, place.at, event.by, event.reason))
