"""Who wrote a key: every delta of it on the way to a place, in one pass over the log.

The pass decodes of each event only what it needs; values are built for the writes that are found. A name is
first an exact key, then a JSON Pointer (`/order/total`), then a dotted path (`order.total`). Below a key, its
value is folded alone, and a write counts where the addressed part is not the same after it.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
from msgspec import UNSET

from .codec import json_encode
from .diffing import Path, is_same
from .errors import LogCorrupted, StateError, Trimmed
from .event import JsonRecord, utc
from .fold import MISSING, apply
from .history import owner_of
from .opaque import COMMON_CODEC, Opaque, ext_hook
from .readable import readable

if TYPE_CHECKING:
    from .store import Store

State = dict[str, Any]


class Write(JsonRecord, frozen=True, gc=False):
    """One write of a key.

    `op`, `value`: as the delta has them (UNSET for a delete); `source`: node, hook, human, reducer_merge, import,
    fork, system, `start` (the initial state) or `root` (the state where a trimmed trace begins). `node`: the node
    of the step, or of the barrier, that it was committed with; `branch`: where one branch of a parallel node wrote
    it; `by`: the human; `step`: the step's number; `trace_id`: the trace that wrote it, which may be an ancestor.

    >>> Write("t1", 7, "total", "put", 40, "node", utc(0), node="price", step=2).node
    'price'
    """

    trace_id: str
    seq: int
    key: str
    op: str
    value: Any = UNSET
    source: str = "node"
    at: datetime = utc(0)
    node: str | None = None
    branch: str | None = None
    step: int | None = None
    by: str | None = None


class _Data(msgspec.Struct, gc=False):
    node: str | None = None
    path: str = ""
    success: bool = True
    falls_back: bool = False
    state: msgspec.Raw = msgspec.Raw()
    decision: msgspec.Raw = msgspec.Raw()
    deltas: msgspec.Raw = msgspec.Raw()


class _Event(msgspec.Struct, gc=False):
    kind: str = "delta"
    key: str = ""
    op: str = "put"
    source: str = "node"
    value: msgspec.Raw = msgspec.Raw()
    data: _Data | list[msgspec.Raw] | None = None  # an array: of an adapter's event, which writes no key


class _Named(msgspec.Struct, gc=False):
    key: str = ""


class _Decision(msgspec.Struct, gc=False):
    by: str | None = None


_from_json = msgspec.json.Decoder(list[_Event]).decode
_from_msgpack = msgspec.msgpack.Decoder(list[_Event]).decode
_json_value = msgspec.json.Decoder().decode
_msgpack_value = msgspec.msgpack.Decoder(ext_hook=ext_hook).decode


_EXECUTED = b'{"kind":"node_executed","data":{'


class Target(NamedTuple):
    """A key, and the way to a part of its value."""

    key: str
    path: Path


def targets(name: str) -> list[Target]:
    """What a name may mean, the most exact first.

    >>> [tuple(target) for target in targets("a.b.0")]
    [('a.b.0', []), ('a.b', ['0']), ('a', ['b', '0'])]
    >>> tuple(targets("/a~1b/c")[1])
    ('a/b', ['c'])
    """
    found = [Target(name, [])]
    if name.startswith("/"):
        key, *path = (part.replace("~1", "/").replace("~0", "~") for part in name[1:].split("/"))
        found.append(Target(key, list(path)))
    parts = name.replace("[", ".").replace("]", "").split(".")
    found += [Target(".".join(parts[:end]), list(parts[end:])) for end in range(len(parts) - 1, 0, -1)]
    return found


def blame(store: Store, trace_id: str, name: str, upto: int | None = None, *, last_alone: bool = False) -> list[Write]:
    """See `Trace.blame`. `last_alone`: of an exact key, only the last write."""
    row, head = store._reader.find(trace_id)
    meant = [Target(name, [])] if last_alone else targets(name)
    writes: dict[str, list[Write]] = {target.key: [] for target in meant}
    until = head.version if upto is None else upto
    root = store._reader.root_seq(row)
    if until < root:
        raise Trimmed(trace_id, until, head.version, root)
    try:
        scan = _Scan(trace_id, store._ancestors(row), writes, until, last_alone)
    except UnicodeEncodeError:
        return []  # what no key can be, nobody wrote
    if root:
        scan.begin_at_root(root, *_root(store, trace_id, root))
    for page in store._reader.timed_pages(row, root, until):
        for first_seq, _, at_us, body in page:
            try:
                scan.take(first_seq, at_us, body)
            except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
                raise LogCorrupted(store.path, trace_id, first_seq, str(error)) from error
    for target in meant:
        try:
            found = _below(writes[target.key], target.path)
        except (StateError, TypeError, ValueError) as error:
            raise LogCorrupted(store.path, trace_id, writes[target.key][0].seq, str(error)) from error
        if found:
            return found
    return []


def _root(store: Store, trace_id: str, root: int) -> tuple[State, int, datetime]:
    row, _, restored = store._reader.restore(trace_id, root)
    at = utc(store._reader.root_us(row, root))
    return restored.state, int(restored.control.get("steps", 0)), at


class _Scan:
    """One pass over commits; `writes` gathers by key."""

    def __init__(
        self,
        trace_id: str,
        ancestors: list[tuple[str, int]],
        writes: dict[str, list[Write]],
        until: int,
        last_alone: bool,
    ) -> None:
        self._trace_id = trace_id
        self._ancestors = ancestors
        self._writes = writes
        self._until = until
        self._steps = 0
        self._held: dict[str, list[str]] = {}
        self._own_from = ancestors[0][1] if ancestors else 0
        self._needles = [json_encode(key)[1:-1] for key in writes]
        self._is_hit = False
        self._last_alone = last_alone

    def begin_at_root(self, seq: int, state: State, steps: int, at: datetime) -> None:
        self._steps = steps
        for key, found in self._writes.items():
            if key in state:
                found.append(Write(self._owner(seq), seq, key, "put", state[key], "root", at))

    def _owner(self, seq: int) -> str:
        return self._trace_id if seq > self._own_from else owner_of(self._trace_id, self._ancestors, seq)

    def take(self, first_seq: int, at_us: int, body: bytes) -> None:
        """One commit's writes. A delta belongs to the execution after it; a human's, to the decision before it."""
        if not self._is_hit and not self._may_hit(body) and _is_plain_step(body):
            self._steps += 1
            self._held.clear()
            return
        is_json = body[:1] < b"\x80"
        events = _from_json(body) if is_json else _from_msgpack(body)
        value_of: Any = _json_value if is_json else _msgpack_value
        writes, was_hit = self._writes, False
        hits: list[tuple[int, _Event]] = []
        decided: tuple[str | None, str | None] = None, None
        commit = first_seq, at_us, value_of
        seq = first_seq - 1
        for event in events:
            seq += 1
            data = event.data
            if data is None:
                if event.key in writes:
                    hits.append((seq, event))
            elif isinstance(data, list):
                continue
            elif event.kind == "node_executed":
                step = None
                if data.success or data.falls_back:
                    self._steps += 1
                    step = self._steps
                if hits:
                    was_hit = True
                    self._add(commit, hits, data.node, step, decided)
                    hits = []
                if step is not None:
                    self._held.clear()
            elif event.kind == "barrier_decided":
                if hits:
                    was_hit = True
                    self._add(commit, hits, None, None, decided)
                    hits = []
                decided = data.node, _decode(is_json, data.decision, _Decision).by
            elif event.kind == "branch_executed" and data.success and data.deltas:
                for named in _decode(is_json, data.deltas, list[_Named]):
                    if named.key in writes:
                        self._held.setdefault(named.key, []).append(data.path)
            elif event.kind == "trace_started":
                self._started(seq, at_us, value_of(data.state))
        if hits:
            was_hit = True
            self._add(commit, hits, None, None, decided)
        self._is_hit = was_hit  # then the next commit is likely to be one, and is not searched first

    def _add(
        self,
        commit: tuple[int, int, Any],
        hits: list[tuple[int, _Event]],
        node: str | None,
        step: int | None,
        decided: tuple[str | None, str | None],
    ) -> None:
        first_seq, at_us, value_of = commit
        owner, at = self._owner(first_seq), utc(at_us)
        for seq, event in hits:
            if seq > self._until:
                break
            key, source = event.key, event.source
            value = UNSET if event.op == "delete" else value_of(event.value)
            branch = self._branch(key, node) if self._held else None
            is_decided = source == "human" or node is None
            where, by = decided if is_decided else (node, None)
            write = Write(owner, seq, key, event.op, value, source, at, where or node, branch, step, by)
            if self._last_alone:
                self._writes[key][:] = [write]
            else:
                self._writes[key].append(write)

    def _may_hit(self, body: bytes) -> bool:
        """Whether the body may hold one of the keys, however it is spelled."""
        if body[:1] >= b"\x80":
            return True  # msgpack spells keys in its own way
        for needle in self._needles:
            if needle in body:
                return True
        return b"\\" in body and (b"\\u" in body or b"\\/" in body)

    def _started(self, seq: int, at_us: int, state: State) -> None:
        if seq <= self._until:
            for key, found in self._writes.items():
                if key in state:
                    found.append(Write(self._owner(seq), seq, key, "put", state[key], "start", utc(at_us)))

    def _branch(self, key: str, node: str | None) -> str | None:
        """The branch that wrote a key of this join, where only one did."""
        paths = {path for path in self._held.get(key, ()) if path.partition("/")[0] == node}
        return paths.pop().partition("/")[2] if len(paths) == 1 else None


def _is_plain_step(body: bytes) -> bool:
    """Whether, for sure, the body ends with one successful execution and holds no other: without decoding it.

    A text cannot look like one, since its quotes are escaped; of a value that does, the braces do not match.
    """
    at = body.rfind(_EXECUTED)
    if at < 0 or body.find(b"node_executed", 0, at) >= 0:
        return False
    last = body[at:]
    return (last.count(b"{"), last.count(b"}"), last.count(b"]")) == (2, 2, 1) and b'"success":false' not in last


def _decode(is_json: bool, raw: msgspec.Raw, kind: Any) -> Any:
    return msgspec.json.decode(raw, type=kind) if is_json else msgspec.msgpack.decode(raw, type=kind)


def _below(writes: list[Write], path: Path) -> list[Write]:
    """Those writes that change the addressed part of the key's value."""
    if not path:
        return writes
    return list(_changing(writes, path))


def _changing(writes: list[Write], path: Path) -> Iterator[Write]:
    state: State = {}
    before: Any = MISSING
    for write in writes:
        value = write.value.copy() if type(write.value) in (list, dict) else write.value
        apply(state, write.key, write.op, value)
        after = value_at(state.get(write.key, MISSING), path)
        if (before is MISSING) != (after is MISSING) or not is_same(before, after):
            yield write
        before = after


def value_at(value: Any, path: Path) -> Any:
    """The part of a value at a path, of an opaque one in its readable form; MISSING where there is none.

    >>> value_at({"items": [{"total": 3}]}, ["items", "0", "total"])
    3
    """
    if path and isinstance(value, Opaque):
        value, path = _item(value, path)
    for part in path:
        if type(value) is dict:
            value = value.get(str(part), MISSING)
        elif type(value) is list and str(part).isdecimal() and int(part) < len(value):
            value = value[int(part)]
        else:
            return MISSING
    return value


def _item(value: Opaque, path: Path) -> tuple[Any, Path]:
    """What to look into in an opaque value: of a list only the item that is meant is decoded."""
    index = str(path[0])
    if value.codec != COMMON_CODEC or value.count is None or not index.isdecimal() or int(index) >= value.count:
        return readable(value), path
    return readable(Opaque(value.codec, value.items()[int(index)])), path[1:]
