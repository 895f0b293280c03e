"""What a replay found: where the functions of today first do something else than the log tells.

Two ways to write a key are the same when they are the same deltas, or when they leave the same value; 1, 1.0 and
true are three values, and a key that is missing is not one that holds null.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from hashlib import blake2b
from typing import Any, Literal

import msgspec
from msgspec import UNSET

from .codec import same
from .event import JsonRecord
from .fold import MISSING, apply, copy_value
from .opaque import Opaque
from .readable import readable

DivergenceKind = Literal["value", "route", "call", "error", "graph"]
Write = tuple[str, str, Any]
"""One delta as it is compared: key, op, value."""
SHOWN_CHARACTERS = 60
HIDDEN = "(hidden)"
ONE_MORE = "the log has one call more"
NOT_RECORDED = "a call that failed is not recorded"
MAYBE_REDACTED = "the log holds redacted values, and so this visit may have been given one"
NO_FALLBACK = "it failed"
SAID = frozenset({ONE_MORE, NOT_RECORDED, MAYBE_REDACTED, NO_FALLBACK})
"""Reasons without a word of what a run worked on."""


class Divergence(JsonRecord, frozen=True):
    """The first place where a replay differs from the log.

    `seq`: of the event that the log has there; `step`: its step; `node`: the node, or the path of a branch.
    `kind` says what `recorded` and `produced` are (each unset where there is none):

    - `value`: what `key` holds after the step;
    - `route`: the node that is next, None for the end of the run;
    - `call`: nothing where the log does not hold `key` (`call:NAME`, `now`, `uuid`), so nothing was called; where it
      holds more calls of that name than were asked for, how many of each;
    - `error`: nothing; the function raised where the log has a success, its writes cannot be joined, or it would
      never end;
    - `graph`: the kind of the node; the graph has none of that name, or one of another kind.

    `reason`: more in words, where there is more to say.

    >>> found = Divergence(12, 3, "price", "value", "total", 40, 45)
    >>> print(found)
    seq 12, step 3, price: 'total' was 40, now it is 45
    >>> Divergence.from_json(found.to_json()) == found
    True
    """

    seq: int
    step: int
    node: str
    kind: DivergenceKind
    key: str | None = None
    recorded: Any = UNSET
    produced: Any = UNSET
    reason: str = ""

    def without_values(self) -> Divergence:
        """The same, with nothing of what the run worked on: no value, no message of an exception.

        >>> print(Divergence(12, 3, "price", "value", "total", 40, 45).without_values())
        seq 12, step 3, price: 'total' was "(hidden)", now it is "(hidden)"
        """
        if self.kind == "value":
            was, now = (found if found is UNSET else HIDDEN for found in (self.recorded, self.produced))
            return msgspec.structs.replace(self, recorded=was, produced=now)
        is_count = self.kind == "call" and self.recorded is not UNSET
        if self.kind != "graph" and not is_count and self.reason and self.reason not in SAID:
            return msgspec.structs.replace(self, reason=HIDDEN)
        return self

    def __str__(self) -> str:
        return f"seq {self.seq}, step {self.step}, {self.node}: {self._what()}"

    def _what(self) -> str:
        more = f" ({self.reason})" if self.reason else ""
        if self.kind == "value":
            path, was, now = _narrowed(self.recorded, self.produced)
            return f"{self.key!r}{path and f' at {path}'} was {shown(was)}, now it is {shown(now)}{more}"
        if self.kind == "route":
            was, now = _way(self.recorded), _way(self.produced)
            return f"the way on was to {was}, now it is to {now}{more}"
        if self.kind == "call":
            missed = "is not in the log, so it was not made" if self.recorded is UNSET else "was not asked for"
            return f"{self.key} {missed}" + (f": {self.reason}" if self.reason else "")
        return self.reason


class Replay(JsonRecord, frozen=True):
    """What a replay came to.

    `checked`: functions that ran again (of nodes and branches) and joins that were computed again; `reused`: nodes
    and branches with side effects, taken from the log; `failed_attempts`: passed over; `upto`: the last seq that
    was looked at; `graph_changes`: how the graph differs from the recorded one, in words.

    >>> done = Replay("t1", "refund", checked=3, reused=1, upto=14)
    >>> done.ok, Replay.from_json(done.to_json()) == done
    (True, True)
    """

    trace_id: str
    name: str
    checked: int = 0
    reused: int = 0
    failed_attempts: int = 0
    upto: int = 0
    graph_changes: list[str] = []
    divergence: Divergence | None = None

    @property
    def ok(self) -> bool:
        """Whether the functions did what the log tells."""
        return self.divergence is None


def difference(
    state: Mapping[str, Any], recorded: Iterable[Write], produced: Iterable[Write]
) -> tuple[str, Any, Any] | None:
    """The first key that the two leave with another value over `state`: key, recorded, produced; UNSET for missing.

    >>> difference({"n": 1}, [("n", "sum", 2)], [("n", "put", 3)])
    >>> difference({"n": 1}, [("n", "sum", 2)], [("n", "put", 3.0)])
    ('n', 3, 3.0)
    """
    was, now = _by_key(recorded), _by_key(produced)
    for key in {**was, **now}:
        if same(was.get(key), now.get(key)):
            continue
        left, made = _left(state, key, was.get(key, ())), _left(state, key, now.get(key, ()))
        if left is not made and not same(left, made):
            return key, *_told(left, made)
    return None


def same_writes(recorded: Iterable[Write], produced: Iterable[Write]) -> bool:
    """Whether the two do the same to each key, write by write.

    >>> same_writes([("n", "put", 1), ("m", "put", 2)], [("m", "put", 2), ("n", "put", 1)])
    True
    """
    return same(_by_key(recorded), _by_key(produced))


def shown(value: Any) -> str:
    """A value as JSON, cut to a part of a line.

    >>> shown({"a": 1}), shown(UNSET), shown("x" * 80)[-4:]
    ('{"a": 1}', 'missing', 'xxx…')
    """
    if value is UNSET:
        return "missing"
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= SHOWN_CHARACTERS else text[: SHOWN_CHARACTERS - 1] + "…"


def _by_key(writes: Iterable[Write]) -> dict[str, list[list[Any]]]:
    found: dict[str, list[list[Any]]] = {}
    for key, op, value in writes:
        found.setdefault(key, []).append([op, None if op == "delete" else value])
    return found


def _left(state: Mapping[str, Any], key: str, changes: Iterable[list[Any]]) -> Any:
    before = state.get(key, MISSING)
    own = {} if before is MISSING else {key: copy_value(before)}
    for op, value in changes:
        apply(own, key, op, copy_value(value))
    return own.get(key, MISSING)


def _narrowed(was: Any, now: Any) -> tuple[str, Any, Any]:
    """Where the two first differ, as a JSON Pointer, and what stands there; the whole where that is short enough."""
    path = ""
    while max(len(shown(was)), len(shown(now))) >= SHOWN_CHARACTERS:
        if isinstance(was, dict) and isinstance(now, dict):
            steps: list[Any] = list({**was, **now})
            one, other = was, now
        elif isinstance(was, list) and isinstance(now, list):
            steps = list(range(max(len(was), len(now))))
            one, other = dict(enumerate(was)), dict(enumerate(now))
        else:
            break
        step = next(name for name in steps if not same(one.get(name, UNSET), other.get(name, UNSET)))
        path += "/" + str(step).replace("~", "~0").replace("/", "~1")
        was, now = one.get(step, UNSET), other.get(step, UNSET)
    return path, was, now


def _told(left: Any, made: Any) -> tuple[Any, Any]:
    """Two values as a record in JSON can hold them; opaque ones that read alike by their bytes' digests."""
    was, now = (UNSET if value is MISSING else readable(value) for value in (left, made))
    return (_digest(left, was), _digest(made, now)) if same(was, now) else (was, now)


def _digest(value: Any, shown: Any) -> Any:
    if isinstance(value, Opaque):
        return f"{value!r}, {blake2b(value.data, digest_size=8).hexdigest()}"
    return shown


def _way(target: Any) -> str:
    if target is None:
        return "the end"
    return "nowhere" if target is UNSET else repr(target)
