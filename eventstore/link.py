"""Links of a base chain: the net effect of a stretch of the log over the state before it.

A put drops what came before it for its key, appends run together, and what cannot be folded without
the value below (a float sum, a splice into an older list) is kept as a short list of ops: so applying
a link gives bit for bit what applying its deltas gives, the order of the keys included. The net
effect is never longer than the deltas. Encoded: `[deleted keys, {key: [op, value, op, value, …]}]`
for control and for state; a whole state is `[control, state]`.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import Any

from msgspec import UNSET

from .codec import Row, decode_derived, encode_derived
from .control import PARENTS_ALONE, control_deltas
from .errors import DeltaApply
from .fold import MISSING, apply, apply_control, combine
from .opaque import Opaque

OPS = ("put", "append", "splice", "merge", "sum", "max", "min")
CODE = {op: code for code, op in enumerate(OPS)}
_PUT, _APPEND, _MERGE, _SUM, _MAX, _MIN = (CODE[op] for op in ("put", "append", "merge", "sum", "max", "min"))

State = dict[str, Any]


class NetEffect:
    """What a run of deltas does, with what later deltas made irrelevant left out.

    >>> net = NetEffect()
    >>> for value in (1, 2): net.add("n", "put", value)
    >>> for value in (1, 2): net.add("log", "append", [value])
    >>> net.entries
    {'n': [0, 2], 'log': [1, [1, 2]]}
    """

    __slots__ = ("deleted", "entries")

    def __init__(self, deleted: Iterable[str] = (), entries: dict[str, list[Any]] | None = None) -> None:
        self.deleted = dict.fromkeys(deleted)
        self.entries = {} if entries is None else entries

    def add(self, key: str, op: str, value: Any) -> None:
        """Take one delta; owns `value`. Raises DeltaApply."""
        if op == "put" and value is not UNSET:
            self.entries[key] = [_PUT, value]
            return
        if op == "delete":
            self.entries.pop(key, None)
            self.deleted[key] = None
            return
        if value is UNSET or op not in CODE:
            raise DeltaApply(key, op, "unknown op" if value is not UNSET else "it has no value")
        entry = self.entries.get(key)
        if entry is None:
            if key in self.deleted:
                self.entries[key] = [_PUT, combine(MISSING, key, op, value)]
            else:
                self.entries[key] = [CODE[op], [value] if op == "sum" else value]
            return
        last, code = entry[-2], CODE[op]
        if last == code == _SUM:
            entry[-1].append(value)
        elif last == _PUT or (last == code and last in (_APPEND, _MERGE, _MAX, _MIN) and _same_type(entry[-1], value)):
            entry[-1] = combine(entry[-1], key, op, value)
        else:
            entry += [code, [value] if op == "sum" else value]

    def keys(self) -> set[str]:
        """What it touches."""
        return self.deleted.keys() | self.entries.keys()

    def apply(self, state: State) -> None:
        """Do to `state` what the deltas would have done; the values go into it. Raises DeltaApply."""
        for key in self.deleted:
            state.pop(key, None)
        for key, entry in self.entries.items():
            for code, value in zip(entry[::2], entry[1::2], strict=True):
                if code == _SUM:
                    _apply_sums(state, key, value)
                elif code == _PUT:
                    state[key] = value
                else:
                    apply(state, key, OPS[code], value)


class ControlEffect(NetEffect):
    """What events do to control. A cleared prefix stands among the deleted keys; no key is one.

    >>> net = ControlEffect()
    >>> net.add("intent/pay", "put", {}); net.add("intent/", "clear", None)
    >>> net.entries, list(net.deleted)
    ({}, ['intent/'])
    """

    __slots__ = ()

    def add(self, key: str, op: str, value: Any) -> None:
        """Take one delta; owns `value`. Raises DeltaApply."""
        if op == "clear":
            self.deleted[key] = None
            for name in [name for name in self.entries if name.startswith(key)]:
                del self.entries[name]
            return
        if self.deleted and key[: key.find("/") + 1] in self.deleted and key not in self.entries:
            self.deleted[key] = None
        NetEffect.add(self, key, op, value)  # as super() would: it is most of what a fold calls

    def apply(self, state: State) -> None:
        """Do to control what the events would have done. Raises DeltaApply."""
        for prefix in PARENTS_ALONE:
            if prefix in self.deleted:
                apply_control(state, prefix, "clear", None)
        super().apply(state)


def _apply_sums(state: State, key: str, numbers: list[Any]) -> None:
    """Add one by one, as the log did; whole numbers, where order cannot matter, at once."""
    if type(state.get(key, 0)) is int and set(map(type, numbers)) == {int}:
        apply(state, key, "sum", sum(numbers))
        return
    for number in numbers:
        apply(state, key, "sum", number)


def _same_type(one: Any, other: Any) -> bool:
    """Appends join only within one representation, as they would one by one."""
    return isinstance(one, Opaque) == isinstance(other, Opaque)


class Link:
    """The net effect of a stretch of rows on control and state.

    >>> link = Link()
    >>> link.add_rows([Row(key="n", value=1), Row(kind="node_executed", data={"node": "ask"})])
    >>> control, state = {}, {}
    >>> decode_link(link.encode(1000)).apply(control, state)
    >>> control, state
    ({'steps': 1, 'visits/ask': 1, 'next': None}, {'n': 1})
    """

    __slots__ = ("control", "state")

    def __init__(self, control: ControlEffect | None = None, state: NetEffect | None = None) -> None:
        self.control = control or ControlEffect()
        self.state = state or NetEffect()

    def add_rows(self, rows: Iterable[Row]) -> None:
        """Take the events of one body, in order. Raises DeltaApply."""
        entries, control = self.state.entries, self.control
        for row in rows:
            if row.kind == "delta":
                if row.op == "put" and row.value is not UNSET:
                    entries[row.key] = [_PUT, row.value]
                else:
                    self.state.add(row.key, row.op, row.value)
            else:
                if row.kind == "trace_started":
                    for key, value in row.data["state"].items():
                        self.state.add(key, "put", value)
                for key, op, value in control_deltas(row.kind, row.data):
                    control.add(key, op, value)

    def apply(self, control: State | None, state: State) -> None:
        """Apply to both halves, or with `control` None to the state alone. Raises DeltaApply."""
        if control is not None:
            self.control.apply(control)
        self.state.apply(state)

    @property
    def steps(self) -> int:
        """How many steps its stretch holds."""
        entry = self.control.entries.get("steps", ())
        return sum(sum(ones) for code, ones in zip(entry[::2], entry[1::2], strict=True) if code == _SUM)

    def encode(self, json_bytes: int) -> bytes:
        """The link's body; `json_bytes`, the size of the log it covers."""
        nets = (self.control, self.state)
        return encode_derived([[list(net.deleted), net.entries] for net in nets], json_bytes)


def between(before: tuple[State, State], after: tuple[State, State]) -> Link | None:
    """The link from one `(state, control)` to a later one, whose values were replaced and never changed in place.

    None where it would leave the keys in another order than the deltas did: a key went and came back.

    >>> link = between(({"n": 1}, {}), ({"n": 2}, {"steps": 1}))
    >>> link.state.entries, link.control.entries
    ({'n': [0, 2]}, {'steps': [0, 1]})
    """
    nets = []
    for was, now in zip(before, after, strict=True):
        kept = [key for key in was if key in now]
        if kept != list(now)[: len(kept)]:
            return None
        net = NetEffect(key for key in was if key not in now)
        for key, value in now.items():
            old = was.get(key, MISSING)
            if old is value and type(value) is Opaque:
                continue
            if type(value) is Opaque and type(old) is Opaque and old.begins(value):
                net.entries[key] = [_APPEND, value.since(old)]
            else:
                net.entries[key] = [_PUT, value]
        nets.append(net)
    return Link(ControlEffect(nets[1].deleted, nets[1].entries), nets[0])


def decode_link(body: bytes) -> Link:
    """The inverse of `Link.encode`. Raises ValueError."""
    try:
        (control_deleted, control), (deleted, entries) = decode_derived(body)
        return Link(ControlEffect(control_deleted, control), NetEffect(deleted, entries))
    except (TypeError, ValueError) as error:
        raise ValueError(f"not a link: {error}") from None


def encode_whole(control: State, state: State, json_bytes: int | None = None) -> bytes:
    """A whole state's body; `json_bytes`, about the state's JSON size. Without it, what decodes fastest."""
    return encode_derived([control, state], json_bytes)


def decode_whole(body: bytes) -> tuple[State, State]:
    """`(control, state)` of a whole state. Raises ValueError."""
    try:
        control, state = decode_derived(body)
    except (TypeError, ValueError) as error:
        raise ValueError(f"not a whole state: {error}") from None
    if not isinstance(control, dict) or not isinstance(state, dict):
        raise ValueError("not a whole state: it holds no two objects")
    return control, state


def fold_rows(control: State | None, state: State, rows: Iterable[Row], limit: int | None = None) -> None:
    """Apply a body's events (only the first `limit`) in place; `control` None folds the state alone.

    Raises DeltaApply on a delta that does not fit.
    """
    for row in rows if limit is None else islice(rows, limit):
        if row.kind == "delta":
            if row.op == "put" and row.value is not UNSET:
                state[row.key] = row.value
            else:
                apply(state, row.key, row.op, row.value)
            continue
        if row.kind == "trace_started":
            state.update(row.data["state"])
        if control is not None:
            for key, op, value in control_deltas(row.kind, row.data):
                if op == "put":
                    control[key] = value
                else:
                    apply_control(control, key, op, value)
