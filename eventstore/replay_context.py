"""What a node is given when it runs again: everything that it was told the first time, and nothing new.

The time, UUIDs and the results of calls come from the log, in the order of each name: first what an earlier
attempt had committed, which answered any call; then a call that commits at once takes what was committed at once,
any other one what was recorded with the node. What the log does not hold is not made: the node ends there, whatever
it would have caught, and the context remembers what was asked for.
"""

from __future__ import annotations

import uuid
from collections import deque
from collections.abc import Iterable
from datetime import datetime
from typing import Any

from .context import Context, Desk
from .fold import copy_value
from .plan import Node
from .step import Draft

Values = dict[str, deque[Any]]


class Unrecorded(BaseException):
    """A node asked for a value that the log does not hold. No `Exception`: nothing a node catches goes on after it."""


class ReplayContext(Context):
    """A context whose values come from the log: `[name, value]` each.

    `earlier`: held when the attempt began; `held`: committed at once by it; `recorded`: with the node.
    `unrecorded`: what was asked for and is not there; `why` it does not serve.
    """

    __slots__ = ("_earlier", "_given", "_held", "unrecorded", "why")

    def __init__(
        self,
        desk: Desk,
        node: Node,
        path: str,
        draft: Draft,
        occurrence: int,
        attempt: int,
        key: str | None,
        earlier: Iterable[list[Any]],
        held: Iterable[list[Any]],
        recorded: Iterable[list[Any]],
        item: Any = None,
        index: int | None = None,
    ) -> None:
        super().__init__(desk, node, path, draft, occurrence, attempt, key, [], item, index)
        self._earlier = _by_name(earlier)
        self._held = _by_name(held)
        self._given = _by_name(recorded)
        self.unrecorded: str | None = None
        self.why = ""

    def now(self) -> datetime:
        """The time that was recorded. Raises Unrecorded."""
        found = self._next("now")
        try:
            return datetime.fromisoformat(found)
        except (TypeError, ValueError):
            raise self._missing("now", f"the log holds {found!r:.60}, which is no time") from None

    def uuid(self) -> uuid.UUID:
        """The UUID that was recorded. Raises Unrecorded."""
        self.random.getrandbits(128)  # later draws are to be those of the first time
        found = self._next("uuid")
        try:
            return uuid.UUID(found)
        except (TypeError, ValueError, AttributeError):
            raise self._missing("uuid", f"the log holds {found!r:.60}, which is no UUID") from None

    def _from_log(self, name: str, durable: bool) -> Any:
        return self._next(f"call:{name}", durable)

    def _next(self, name: str, durable: bool = False) -> Any:
        self._open()
        own = (self._held, self._given) if durable else (self._given, self._held)
        for values in (self._earlier, *own):
            if values.get(name):
                return copy_value(values[name].popleft())
        raise self._missing(name, "")

    def _missing(self, name: str, why: str) -> Unrecorded:
        if self.unrecorded is None:
            self.unrecorded, self.why = name, why
        return Unrecorded(name)


def _by_name(values: Iterable[list[Any]]) -> Values:
    found: Values = {}
    for name, value in values:
        found.setdefault(name, deque()).append(value)
    return found
