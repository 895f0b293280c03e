"""A trace as it stood: the state after one event, and where it stands in the log.

The log never changes, so what is rarely asked for (the time, the checkpoint before it, the base and the deltas
that the state is made of) is read when it is asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

from .checkpoint import Checkpoint, StateSnapshot
from .codec import decode_some
from .control import pending_barriers, status_of
from .errors import LogCorrupted, MissingKey
from .event import NodeExecuted, StateDelta, utc
from .fold import MISSING
from .history import EXECUTIONS, owner_of
from .log import LogRow, TraceRow
from .step import converted

if TYPE_CHECKING:
    from .store import Store

T = TypeVar("T")


class Past:
    """A trace as it stood after event `seq`. Made by `trace.at` and `trace.history`.

    `trace_id`, `name`; `seq`, also called `version`; `state` (dict, yours for `at`; of a history, values are shared
    with its neighbours and not to be changed); `control`: where the run stood.

    >>> from .store import open
    >>> with open(":memory:") as store:
    ...     trace = store.start({"n": 0}, name="count")
    ...     with trace.step("add", next="done") as step:
    ...         step.put("n", 1)
    ...     past = trace.at(step=1)
    ...     past.state, past.seq, past.step, past.node, past.next_node
    ({'n': 1}, 3, 1, 'add', 'done')
    """

    def __init__(
        self, store: Store, row: TraceRow, seq: int, state: dict[str, Any], control: dict[str, Any],
        commit: LogRow | None = None,
    ) -> None:  # fmt: skip
        self._store = store
        self._row = row
        self.seq = seq
        self.state = state
        self.control: Mapping[str, Any] = control
        if commit is not None:
            self._commit = commit

    @property
    def trace_id(self) -> str:
        """The trace's id."""
        return self._row.trace_id

    @property
    def name(self) -> str:
        """The trace's name."""
        return self._row.name

    @property
    def version(self) -> int:
        """The seq of the last event that the state holds."""
        return self.seq

    @property
    def step(self) -> int:
        """How many steps lie behind it."""
        return int(self.control.get("steps", 0))

    @property
    def next_node(self) -> str | None:
        """The node to be entered next, where one was recorded."""
        return self.control.get("next")

    @property
    def status(self) -> str:
        """running, waiting, completed, failed or cancelled."""
        return status_of(self.control)

    @property
    def pending_barriers(self) -> list[str]:
        """The ids of the barriers that waited."""
        return pending_barriers(self.control)

    def get(self, key: str, default: Any = MISSING, *, type: type[T] | None = None) -> Any:
        """The value of `key`, converted by msgspec to `type`. Raises MissingKey, Deserialize."""
        value = self.state.get(key, default)
        if value is MISSING:
            raise MissingKey(key)
        return converted(key, value, type)

    @cached_property
    def _commit(self) -> LogRow | None:
        return self._store._reader.row_at(self._row, self.seq)

    @cached_property
    def at(self) -> datetime:
        """When its commit was made, UTC; of a trimmed trace's root, when the last commit behind it was."""
        row = self._commit
        return utc(self._store._reader.root_us(self._row, self.seq) if row is None else row.at_us)

    @cached_property
    def node(self) -> str | None:
        """The node whose execution was committed with it; None for a start, a barrier, a note, a trimmed one."""
        if self._commit is None:
            return None
        try:
            executed = [event for _, event in decode_some(self._commit.body, EXECUTIONS)]
        except ValueError as error:
            raise LogCorrupted(self._store.path, self.trace_id, self._commit.first_seq, str(error)) from error
        return next((event.node for event in executed if isinstance(event, NodeExecuted)), None)

    @property
    def is_boundary(self) -> bool:
        """Whether a commit ends here: whether one can fork from it."""
        return self._commit is None or self._commit.last_seq == self.seq

    @property
    def owner_id(self) -> str:
        """The trace that wrote the event: this one, or the one that it was forked from."""
        return owner_of(self.trace_id, self._store._ancestors(self._row), self.seq)

    @cached_property
    def checkpoint(self) -> Checkpoint | None:
        """The newest checkpoint here or before, of this trace or of the history that it shares."""
        return self._store.checkpoints._newest_before(self.trace_id, self.seq)

    @cached_property
    def snapshot(self) -> StateSnapshot:
        """The state as the nearest base before it and the deltas since."""
        return self._store.snapshot_at(self.trace_id, self.seq)

    @property
    def tail(self) -> list[StateDelta]:
        """The deltas after the nearest base."""
        return self.snapshot.recent_deltas

    def __repr__(self) -> str:
        return f"Past({self.trace_id!r}, seq={self.seq}, step={self.step})"
