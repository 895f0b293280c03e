"""Events into spans: the pure fold behind a timeline.

A commit is its node's end, and the measured duration gives the start. An intent opens a span; the result of its
path closes it, a withdrawal takes it back, and a second intent of the path leaves the first in doubt for good.
What one visit of a parallel node does belongs together by the seq of the first event that tells of a branch,
so it is known as soon as that event is. A visit ends with its join, or without one when its results are dropped;
a node that got another name goes on under it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import msgspec

from .control import PARENTS_ALONE, with_prefix
from .event import EPOCH, BarrierDecided, BarrierRaised, TraceEnded, TraceForked
from .run_event import CancelRequested, IntentWithdrawn, NodeIntended
from .span import CancelMark, RetryWait, Span, Wait
from .waiting import Place, Waiting, when


class _Started(msgspec.Struct):
    name: str = ""
    graph_hash: str = ""


class _Cleared(msgspec.Struct, rename={"moved": "puts"}):
    """A run that was reopened, or went on with another graph. `moved`: the keys alone matter."""

    graph_hash: str = ""
    clears: list[str] = []
    moved: dict[str, msgspec.Raw] = {}


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
    """One visit of a parallel node.

    `seq`: of the first event that told of a branch; `began`: when the first span of a branch did; `keys`: what its
    branches have in control.
    """

    def __init__(self, place: Place) -> None:
        self.seq = place.seq
        self.owner = place.owner
        self.began: datetime | None = None
        self.keys: set[str] = set()

    def holds(self, began: datetime) -> None:
        """A branch began then."""
        self.began = began if self.began is None else min(self.began, began)


class _Intent(NamedTuple):
    event: NodeIntended
    place: Place
    group: _Group | None


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
        self._intents: dict[str, _Intent] = {}
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
        for kind in ("held/", "failed/", "retry/"):
            for path in with_prefix(control, kind):
                if "/" in path:
                    self._group(path, place, kind).holds(place.at)
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
        for path, intent in self._intents.items():
            yield self._doubtful(path, intent, abandoned=abandoned)
        for node, group in self._groups.items():
            if group.began is not None:
                yield _visit(node, group, group.began, abandoned=abandoned)

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
        began = _began(event, place, self._intents.pop(path, None))
        self._clear(event.clears)
        counts = event.success or event.falls_back
        within, opened_seq, is_parallel = None, place.seq, False
        if event.path:
            group = self._group(path, place, _left_by(event))
            group.keys.discard(f"intent/{path}")
            group.holds(began)
            within = group.seq
            step = self._steps + 1 if event.success else 0
        else:
            node = event.node
            if (ended := self._groups.pop(node, None)) is not None:
                opened_seq, is_parallel = ended.seq, True
                began = began if ended.began is None else min(began, ended.began)
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
        group = self._group(event.path, place, "intent/") if "/" in event.path else None
        self._intents[event.path] = _Intent(event, place, group)

    def _withdrawn(self, event: IntentWithdrawn, place: Place) -> None:
        intent = self._intents.pop(event.path, None)
        if intent is not None and intent.group is not None:
            intent.group.keys.discard(f"intent/{event.path}")

    def _group(self, path: str, place: Place, kind: str) -> _Group:
        """The visit that a branch belongs to. `kind`: of the control key that the branch has from now on."""
        node = path.partition("/")[0]
        group = self._groups.get(node)
        if group is None:
            group = self._groups[node] = _Group(place)
        group.keys.add(kind + path)
        return group

    def _clear(self, keys: Iterable[str]) -> None:
        """Control keys are gone; an intent among them was a call whose result will not be known."""
        for key in keys:
            kind, _, path = key.partition("/")
            node, slash, _ = path.partition("/")
            if slash and (group := self._groups.get(node)) is not None:
                group.keys.discard(key)
            if kind == "retry":
                self._retries.pop(path, None)
            elif kind == "intent" and (intent := self._intents.pop(path, None)) is not None:
                self._lost.append(self._doubtful(path, intent, abandoned=True))

    def _drop(self, keys: Iterable[str]) -> None:
        """Control keys are gone, and with the last of a parallel node's, or a result, its visit without a join."""
        touched = {key.partition("/")[0::2] for key in keys}
        self._clear(keys)
        for node in dict.fromkeys(path.partition("/")[0] for _, path in sorted(touched) if "/" in path):
            group = self._groups.get(node)
            if group is None:
                continue
            lost_result = any(kind == "held" and path.startswith(f"{node}/") for kind, path in touched)
            if lost_result or not group.keys:
                del self._groups[node]
                if group.began is not None:
                    self._lost.append(_visit(node, group, group.began, abandoned=True))

    def _move(self, moves: Mapping[str, str]) -> None:
        """Control keys have new names: what stands under them goes on there."""
        paths = {old.partition("/")[2]: new.partition("/")[2] for old, new in moves.items()}
        nodes = {old.partition("/")[0]: new.partition("/")[0] for old, new in paths.items() if "/" in old}
        groups = {nodes[node]: self._groups.pop(node) for node in nodes if node in self._groups}
        for group in groups.values():
            group.keys = {moves.get(key, key) for key in group.keys}
        self._groups |= groups
        self._intents = {paths.get(path, path): intent for path, intent in self._intents.items()}
        self._retries = {
            paths.get(path, path): msgspec.structs.replace(retry, path=paths.get(path, path))
            for path, retry in self._retries.items()
        }

    def _doubtful(self, path: str, intent: _Intent, *, abandoned: bool) -> Span:
        """An intent without a result."""
        event, place, group = intent
        node, slash, branch = path.partition("/")
        if group is not None:
            group.holds(place.at)
        return Span(
            0,
            node if slash else path,
            place.at,
            place.seq,
            place.seq,
            has_side_effects=True,
            attempt=event.attempt,
            branch=branch or None,
            within=None if group is None else group.seq,
            abandoned=abandoned,
            inherited_from=place.owner,
        )

    def _forked(self, event: TraceForked, place: Place) -> None:
        for path, intent in self._intents.items():  # calls of the parent, not of this run
            if intent.group is not None:
                intent.group.keys.discard(f"intent/{path}")
        self._intents.clear()
        self._retries.clear()
        keys = [key for group in self._groups.values() for key in group.keys if key.startswith(PARENTS_ALONE)]
        self._drop([*keys, *event.clears])
        self.waiting.withdrawn(event, place)
        self.ended = None

    def _started(self, event: _Started, place: Place) -> None:
        self.graph_hash = event.graph_hash

    def _cleared(self, event: _Cleared, place: Place) -> None:
        self.graph_hash = event.graph_hash or self.graph_hash
        moves = _moves(event.clears, event.moved)
        self._drop([key for key in event.clears if key not in moves])
        self._move(moves)

    def _reopened(self, event: _Reopened, place: Place) -> None:
        self.ended = None
        self._cleared(event, place)

    def _over(self, event: TraceEnded, place: Place) -> None:
        self.ended = place.at, event.error

    def _cancel(self, event: CancelRequested, place: Place) -> None:
        self.cancels.append(CancelMark(place.seq, place.at, event.by, event.reason))


def _began(event: _Executed, place: Place, intent: _Intent | None) -> datetime:
    """By the measured duration; where none was, because a human or a rule settled a doubt, by the intent."""
    path = event.path or event.node
    if intent is not None and (not event.duration_ms or f"resolved/{path}" in event.clears):
        return min(intent.place.at, place.at)
    ms = min(event.duration_ms, (place.at - EPOCH) / timedelta(milliseconds=1))  # an import may claim any duration
    return place.at - timedelta(milliseconds=ms)


def _left_by(event: _Executed) -> str:
    """The kind of the control key that a branch's execution leaves."""
    if event.success:
        return "held/"
    return "failed/" if event.retry_at_us is None else "retry/"


def _visit(node: str, group: _Group, began: datetime, *, abandoned: bool) -> Span:
    """A visit of a parallel node without a join."""
    return Span(0, node, began, group.seq, group.seq, is_parallel=True, abandoned=abandoned, inherited_from=group.owner)


def _moves(clears: Iterable[str], puts: Iterable[str]) -> dict[str, str]:
    """Which of the cleared control keys moved, and to where: both are written in the same order, kind by kind.

    What was dropped besides is of other nodes, as a run that goes on elsewhere keeps that node's keys alone.

    >>> _moves(["intent/p/a", "held/p/b"], ["intent/q/a", "held/q/b"])
    {'intent/p/a': 'intent/q/a', 'held/p/b': 'held/q/b'}
    >>> _moves(["held/o/a", "held/p/b", "unrouted"], ["held/p/c", "unrouted"])
    {'held/p/b': 'held/p/c'}
    """
    moves: dict[str, str] = {}
    cleared, put = _by_kind(clears), _by_kind(puts)
    for kind, new in put.items():
        old = cleared.get(kind, [])
        if len(old) != len(new):
            stays = {_node_of(key) for key in new}
            old = [key for key in old if _node_of(key) in stays]
        if len(old) == len(new):
            moves |= zip(old, new, strict=True)
    return moves


def _by_kind(keys: Iterable[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for key in keys:
        kind, slash, _ = key.partition("/")
        if slash:
            found.setdefault(kind, []).append(key)
    return found


def _node_of(key: str) -> str:
    return key.split("/", 2)[1]
