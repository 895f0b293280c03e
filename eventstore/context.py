"""What a node's function is given: the state to read, the keys to write, and values worth recording.

Writes gather in a draft and are committed with the node, or not at all. A context ends with its node: where
a thread outlived its timeout, its late writes raise. What `now`, `uuid` and `call` gave is recorded, so that
a replay can feed it back; a durable call is recorded at once, and a resume does not call again.
"""

from __future__ import annotations

import inspect
import random
import uuid
from bisect import bisect
from collections.abc import Awaitable, Callable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, Protocol, TypeVar

from .codec import check_cost, normalise
from .errors import EventStoreError, MissingKey
from .fold import MISSING, copy_value
from .idempotency import idempotency_key
from .plan import Node, Scope
from .run_event import ValueRecorded
from .step import Draft, Writes, converted

T = TypeVar("T")


class Desk(Protocol):
    """What a context needs of the run that it belongs to."""

    trace_id: str

    def emit(self, context: Context, value: Any) -> None:
        """Tell whoever listens."""

    def keep(self, event: ValueRecorded) -> None:
        """Commit a value at once, from a node's own thread."""

    async def keep_async(self, event: ValueRecorded) -> None:
        """The same, from an async node."""

    def looks_cancelled(self, is_async: bool) -> bool:
        """Whether the run was asked to end, as a node finds it that looks for itself."""

    def check_target(self, target: str) -> None:
        """Raise EventStoreError for a node that the graph does not have."""


class StateView(Mapping[str, Any]):
    """A state with a draft's writes over it, read-only; values are shared, not copied.

    >>> from .reduce import ReducerRegistry
    >>> draft = Draft({"n": 1, "old": True}, ReducerRegistry())
    >>> draft.put("n", 2); draft.write("old", "delete", None)
    >>> dict(StateView(draft))
    {'n': 2}
    """

    __slots__ = ("_cache", "_draft", "_scope", "_writes")

    def __init__(self, draft: Draft, scope: Scope | None = None) -> None:
        self._draft = draft
        self._scope = scope
        self._cache: dict[str, Any] = {}
        self._writes = 0

    def __getitem__(self, key: str) -> Any:
        draft = self._draft
        if self._scope is not None:
            key = outer_key(self._scope, key, draft)
        if not draft.wrote(key):
            try:
                return draft.state[key]
            except KeyError:
                raise MissingKey(key) from None
        if self._writes != len(draft.live):
            self._cache.clear()
            self._writes = len(draft.live)
        if key not in self._cache:
            self._cache[key] = draft.get(key)
        return self._cache[key]

    def __iter__(self) -> Iterator[str]:
        draft = self._draft
        yield from (key for key in draft.state if not draft.deleted(key))
        yield from draft.added()

    def __len__(self) -> int:
        return sum(1 for _ in self)


def outer_key(scope: Scope, key: str, draft: Draft) -> str:
    """A key that a node of an included graph reads: its own nodes' marks stand under the prefix."""
    head, dot, _ = key.rpartition(".")
    if dot and head in scope.names:
        prefixed = scope.prefix + key
        if draft.wrote(prefixed) or prefixed in draft.state:
            return prefixed
    return key


class Context(Writes):
    """One attempt of a node or a branch.

    `node`: the node's name; `path`: with the branch (`gather/search`); `trace_id`; `occurrence`: 1 for the first
    visit of the node; `attempt`: 1 for the first try of this visit; `idempotency_key`: the same for every
    attempt of this visit, in any process; `state`: read-only, own writes included; `item`, `index`: of a map's
    branch. Made by runs, never directly.

    >>> graph_node = lambda ctx: ctx.put("total", ctx.state["price"] * 2)
    """

    __slots__ = ("_by_name", "_desk", "_draft", "_explicit", "_goto", "_is_async", "_key", "_late", "_made", "_random",
                 "_replayed", "_taken", "_tickets", "attempt", "index", "item", "node", "occurrence", "path",
                 "recorded", "scope", "spent", "state")  # fmt: skip

    def __init__(
        self,
        desk: Desk,
        node: Node,
        path: str,
        draft: Draft,
        occurrence: int,
        attempt: int,
        key: str | None,
        replayed: list[list[Any]],
        item: Any = None,
        index: int | None = None,
    ) -> None:
        self._desk = desk
        self._draft: Draft | None = draft
        self._late: EventStoreError | None = None
        self._goto: Any = MISSING
        self._explicit = False
        self._is_async = node.is_async
        self._random: random.Random | None = None
        self._replayed = replayed
        self._by_name: dict[str, list[Any]] | None = None
        self._taken: dict[str, int] = {}
        self._tickets: list[int] = []
        self._made = 0
        self.node = node.name
        self.path = path
        self.scope = node.scope
        self.occurrence = occurrence
        self.attempt = attempt
        self._key = key
        self.item = item
        self.index = index
        self.state = StateView(draft, node.scope)
        self.recorded: list[ValueRecorded] = []
        self.spent: dict[str, Any] = {}

    @property
    def trace_id(self) -> str:
        """The run's id."""
        return self._desk.trace_id

    @property
    def idempotency_key(self) -> str:
        """The same for every attempt of this visit, in any process; no other visit has it."""
        if self._key is None:
            self._key = idempotency_key(self.trace_id, self.path.partition("/")[0], self.occurrence, self.path)
        return self._key

    @property
    def cancelled(self) -> bool:
        """Whether the run was asked to end; a long node may look and return early."""
        return self._desk.looks_cancelled(self._is_async)

    # Where to go

    def goto(self, target: str) -> None:
        """After this node go to `target`, whatever its edges say. Raises EventStoreError for an unknown node."""
        if self.scope is not None and target in self.scope.names:
            target = self.scope.prefix + target
        if self.path != self.node:
            raise EventStoreError(f"branch {self.path!r}: only the node after the join has a way to choose")
        self._desk.check_target(target)
        self._goto = target

    def end(self) -> None:
        """After this node the run is complete."""
        if self.path != self.node:
            raise EventStoreError(f"branch {self.path!r}: a branch cannot end the run")
        self._goto = None

    def checkpoint(self) -> None:
        """Mark a checkpoint after this node. Raises EventStoreError in a branch."""
        if self.path != self.node:
            raise EventStoreError(f"branch {self.path!r}: a checkpoint stands after the join")
        self._explicit = True

    def get(self, key: str, default: Any = MISSING, *, type: type[T] | None = None) -> Any:
        """A copy of the value of `key`, own writes included; converted by msgspec to `type`.

        Raises MissingKey without a default, Deserialize when the value does not fit `type`.
        """
        draft = self._open()
        if self.scope is not None:
            key = outer_key(self.scope, key, draft)
        return converted(key, draft.get(key, default), type)

    # What it cost

    def record(
        self, *, token_cost: float = 0.0, duration_ms: float = 0.0, has_side_effects: bool | None = None
    ) -> None:
        """Add to what this execution cost; a duration given here stands for the measured one. Raises ValueRefused."""
        self._open()
        total_cost = self.spent.get("token_cost", 0) + token_cost
        total_ms = self.spent.get("duration_ms", 0) + duration_ms
        check_cost(duration_ms, token_cost)
        check_cost(total_ms, total_cost)
        self.spent["token_cost"] = total_cost
        if total_ms:
            self.spent["duration_ms"] = total_ms
        if has_side_effects is not None:
            self.spent["has_side_effects"] = has_side_effects or self.spent.get("has_side_effects", False)

    def emit(self, value: Any) -> None:
        """Tell whoever streams this run, now; nothing is recorded."""
        self._open()
        self._desk.emit(self, value)

    # Values that a replay needs

    def now(self) -> datetime:
        """The time, recorded."""
        now = datetime.now(UTC)
        self._record("now", now.isoformat())
        return now

    def uuid(self) -> uuid.UUID:
        """A random UUID (version 4), recorded."""
        made = uuid.UUID(int=self.random.getrandbits(128), version=4)
        self._record("uuid", str(made))
        return made

    @property
    def random(self) -> random.Random:
        """A generator seeded with the idempotency key: the same numbers in every attempt and every replay."""
        if self._random is None:
            self._random = random.Random(self.idempotency_key)
        return self._random

    def call(
        self, name: str, function: Callable[[], Any], *, durable: bool = False, type: type[T] | None = None
    ) -> Any:
        """Call `function()` and record what it gave; in an async node, await this.

        `durable`: commit the value at once; after a crash the node runs again from its beginning, and this call
        is answered from the log (matched by `name`, in order). The value comes back as its JSON form, converted
        by msgspec to `type`. Raises what the function does, ValueRefused, Deserialize.
        """
        self._open()
        if self._is_async:
            return self._call_async(name, function, durable, type)
        found = self._from_log(name, durable)
        if found is MISSING:
            ticket = self._ticket()
            value = function()
            if inspect.isawaitable(value):
                raise TypeError(f"ctx.call({name!r}): {self.path!r} is no async node, and the function is async")
            found = self._called(name, value, durable, ticket)
            if durable:
                self._desk.keep(ValueRecorded(self.path, f"call:{name}", found, held=True))
        return converted(name, found, type)

    async def _call_async(self, name: str, function: Callable[[], Any], durable: bool, kind: type[T] | None) -> Any:
        found = self._from_log(name, durable)
        if found is MISSING:
            ticket = self._ticket()
            value = function()
            if isinstance(value, Awaitable):
                value = await value
            found = self._called(name, value, durable, ticket)
            if durable:
                await self._desk.keep_async(ValueRecorded(self.path, f"call:{name}", found, held=True))
        return converted(name, found, kind)

    def _from_log(self, name: str, durable: bool) -> Any:
        if self._by_name is None:
            self._by_name = {}
            for called, value in self._replayed:
                self._by_name.setdefault(called, []).append(value)
        named = self._by_name.get(f"call:{name}", ())
        index = self._taken.get(name, 0)
        if index < len(named):
            self._taken[name] = index + 1
            return copy_value(named[index])
        return MISSING

    def _called(self, name: str, value: Any, durable: bool, ticket: int) -> Any:
        self._open()
        _, live, _ = normalise(name, value)
        if not durable:
            self._record(f"call:{name}", copy_value(live), ticket)  # what is given may be changed in place
        return live

    def _ticket(self) -> int:
        """The place of a call among all: those made at the same time are recorded in the order they were made."""
        self._made += 1
        return self._made

    def _record(self, name: str, value: Any, ticket: int = 0) -> None:
        self._open()
        ticket = ticket or self._ticket()
        place = bisect(self._tickets, ticket)
        self._tickets.insert(place, ticket)
        self.recorded.insert(place, ValueRecorded(self.path, name, value))

    # Its end

    def _open(self) -> Draft:
        if self._draft is None:
            raise self._late or EventStoreError(f"node {self.path!r} has ended; its context takes no more writes")
        return self._draft

    def close(self, late: EventStoreError | None = None) -> None:
        """Take no more writes; `late` is what they raise. The first one to close says it."""
        if self._draft is not None:
            self._late = late
            self._draft = None
