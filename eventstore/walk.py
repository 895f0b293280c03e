"""Every state of a trace, one after the other, in one pass of the fold.

Each commit gives a `Past`. States share what did not change between them: the fold goes on in a copy of
whatever it would extend in place, so a state that was given away never changes. Backwards, the pass is made in
windows of commits, each folded forward from its beginning, and within a window in stretches from states that
were kept on the way: so few of them are held at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from .codec import decode_rows
from .control import control_deltas
from .errors import LogCorrupted, StateError, Trimmed
from .fold import apply, apply_control
from .log import LogRow, TraceRow
from .past import Past

if TYPE_CHECKING:
    from .store import Store

State = dict[str, Any]
WINDOW_SEQS = 1024
STRETCH = 16


def walk(store: Store, trace_id: str, after: int | None, upto: int | None, reverse: bool) -> Iterator[Past]:
    """The trace after each commit that ends at `after < seq <= upto`. Raises as `Trace.history`."""
    row, head = store._reader.find(trace_id)
    until = head.version if upto is None else min(upto, head.version)
    root_seq = store._reader.root_seq(row)
    begin = root_seq if after is None else max(after, 0)
    if min(begin, until) < root_seq:
        raise Trimmed(trace_id, min(begin, until), head.version, root_seq)
    root = [Past(store, row, begin, *_restored(store, row, begin))] if after is None and begin > 0 else []
    if not reverse:
        yield from root
    if begin < until:
        yield from (_backward if reverse else _forward)(store, row, begin, until)
    if reverse:
        yield from root


def _restored(store: Store, row: TraceRow, seq: int) -> tuple[State, State]:
    if seq == 0:
        return {}, {}
    restored = store._reader.restore(row.trace_id, seq)[2]
    return restored.state, restored.control


def _boundary(store: Store, row: TraceRow, seq: int) -> int:
    """The last step boundary at or before `seq`. Raises Trimmed where it went meanwhile."""
    found = store._reader.boundary_before(row, seq)
    if found > seq:
        raise Trimmed(row.trace_id, seq, store._reader.find(row.trace_id)[1].version, found)
    return found


def _forward(store: Store, row: TraceRow, after: int, upto: int) -> Iterator[Past]:
    start = _boundary(store, row, after)
    state, control = _restored(store, row, start)
    for commit in _commits(store, row, start, upto):
        _fold(store, row, state, control, commit)
        if commit.last_seq > after:
            yield Past(store, row, commit.last_seq, dict(state), dict(control), commit)


def _backward(store: Store, row: TraceRow, after: int, upto: int) -> Iterator[Past]:
    while upto > after:
        start = _boundary(store, row, max(after, upto - WINDOW_SEQS))
        kept = []
        state, control = _restored(store, row, start)
        for index, commit in enumerate(_commits(store, row, start, upto)):
            if index % STRETCH == 0:
                kept.append((dict(state), dict(control), list[LogRow]()))
            kept[-1][2].append(commit)
            _fold(store, row, state, control, commit)
        while kept:
            state, control, commits = kept.pop()
            pasts = []
            for commit in commits:
                _fold(store, row, state, control, commit)
                pasts.append(Past(store, row, commit.last_seq, dict(state), dict(control), commit))
            yield from (past for past in reversed(pasts) if past.seq > after)
        upto = start


def _commits(store: Store, row: TraceRow, after: int, upto: int) -> Iterator[LogRow]:
    """The commits that end at `after < seq <= upto`; `after` is a boundary."""
    for page in store._reader.pages(row, after, upto):
        for commit in page:
            if commit.last_seq > upto:
                return
            yield commit


def _fold(store: Store, row: TraceRow, state: State, control: State, commit: LogRow) -> None:
    try:
        take_in(state, control, commit.body)
    except (ValueError, TypeError, KeyError, StateError) as error:
        raise LogCorrupted(store.path, row.trace_id, commit.first_seq, str(error)) from error


def take_in(state: State, control: State, body: bytes) -> None:
    """Take in one commit; what it extends in place, it copies first, once."""
    own: set[str] = set()
    own_control: set[str] = set()
    for event in decode_rows(body):
        if event.kind == "delta":
            if event.op == "put":
                state[event.key] = event.value
            else:
                _extend(state, own, event.key, event.op, event.value)
            continue
        if event.kind == "trace_started":
            state.update(event.data["state"])
        for key, op, value in control_deltas(event.kind, event.data):
            if op == "put":
                control[key] = value
            elif op == "clear":
                apply_control(control, key, op, value)
            else:
                _extend(control, own_control, key, op, value)


def _extend(state: State, own: set[str], key: str, op: str, value: Any) -> None:
    if key not in own:
        held = state.get(key)
        if type(held) is list or type(held) is dict:
            state[key] = held.copy()
        own.add(key)
    apply(state, key, op, value)
