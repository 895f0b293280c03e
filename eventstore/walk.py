"""Every state of a trace, one after the other, in one pass of the fold.

Each commit gives a `Past`. States share what did not change between them: the fold goes on in a copy of
whatever it would extend in place, so a state that was given away never changes. Backwards, the pass is made in
windows, each restored at its beginning and folded forward.
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


def walk(store: Store, trace_id: str, after: int | None, upto: int | None, reverse: bool) -> Iterator[Past]:
    """The trace after each commit that ends at `after < seq <= upto`. Raises as `Trace.history`."""
    row, head = store._reader.find(trace_id)
    until = head.version if upto is None else min(upto, head.version)
    root_seq = store._reader.root_seq(row)
    begin = root_seq if after is None else max(after, 0)
    if begin < root_seq:
        raise Trimmed(trace_id, begin + 1, head.version, root_seq)
    root = [Past(store, row, begin, *_restored(store, row, begin))] if after is None and 0 < begin <= until else []
    if not reverse:
        yield from root
        yield from _forward(store, row, begin, until)
        return
    while until > begin:
        start = store._reader.boundary_before(row, max(begin, until - WINDOW_SEQS))
        window = list(_forward(store, row, start, until))
        yield from (past for past in reversed(window) if past.seq > begin)
        until = start
    yield from root


def _restored(store: Store, row: TraceRow, seq: int) -> tuple[State, State]:
    if seq == 0:
        return {}, {}
    restored = store._reader.restore(row.trace_id, seq)[2]
    return restored.state, restored.control


def _forward(store: Store, row: TraceRow, after: int, upto: int) -> Iterator[Past]:
    start = store._reader.boundary_before(row, after)
    state, control = _restored(store, row, start)
    for page in store._reader.pages(row, start, upto):
        for commit in page:
            if commit.last_seq > upto:
                return
            try:
                _fold(state, control, commit)
            except (ValueError, TypeError, KeyError, StateError) as error:
                raise LogCorrupted(store.path, row.trace_id, commit.first_seq, str(error)) from error
            if commit.last_seq > after:
                yield Past(store, row, commit.last_seq, dict(state), dict(control), commit)


def _fold(state: State, control: State, commit: LogRow) -> None:
    """Take in one commit; what it extends in place, it copies first, once."""
    own: set[str] = set()
    own_control: set[str] = set()
    for event in decode_rows(commit.body):
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
