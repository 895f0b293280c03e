"""Where a replay stands in the log, and how it calls a node there.

The position is the fold of the log, kept along as the rows go by; to the rules of runs (`scheduler.py`) it looks
like an open trace. A call is what a run makes of it, hooks included, but for its context, which is fed from the log.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, cast

from .codec import Row
from .commands import Call, Options, Outcome
from .context import Context
from .errors import EventStoreError, LogCorrupted, StateError
from .link import fold_rows
from .log import TraceRow
from .plan import Node, Plan
from .reduce import ReducerRegistry
from .replay_context import ReplayContext
from .run_event import ValueRecorded
from .running import EXITS, Calling, exit_refused
from .scheduler import Scheduler
from .step import Draft

if TYPE_CHECKING:
    from .redaction import Redactor
    from .store import Store
    from .trace import Trace

Recorded = dict[str, list[list[Any]]]
"""By path, `[name, value]` of each value that a row records."""


class Position:
    """The state and control that the log gives so far. `folded`: how many deltas were taken in."""

    def __init__(self, path: str, row: TraceRow, reducers: ReducerRegistry, redact: Redactor | None) -> None:
        self.id = row.trace_id
        self.path = path
        self.folded = 0
        self.state: dict[str, Any] = {}
        self._control: dict[str, Any] = {}
        self._registry = reducers
        self._redact = redact

    @property
    def control(self) -> dict[str, Any]:
        """Where the run stood."""
        return self._control

    def stand(self, state: dict[str, Any], control: dict[str, Any]) -> None:
        """Stand somewhere else."""
        self.state, self._control = state, control

    def draft(self, *, redact: bool = False) -> Draft:
        """A draft over the state."""
        return self._draft(redact)

    def _draft(self, redact: bool) -> Draft:
        return Draft(self.state, self._registry, self._redact if redact else None)

    def fold(self, deltas: list[Row], seq: int) -> None:
        """Take deltas into the state, and out of the list; their row begins at `seq`. Raises LogCorrupted."""
        self._fold(deltas, seq)
        self.folded += len(deltas)
        deltas.clear()

    def fold_control(self, row: Row, seq: int) -> None:
        """Take in an event that is no delta. Raises LogCorrupted."""
        self._fold([row], seq)

    def _fold(self, rows: list[Row], seq: int) -> None:
        try:
            fold_rows(self._control, self.state, rows)
        except (ValueError, TypeError, KeyError, StateError) as error:
            raise self.corrupted(seq, error) from error

    def corrupted(self, seq: int, error: Exception) -> LogCorrupted:
        """The error of a log that does not fold at `seq`."""
        return LogCorrupted(self.path, self.id, seq, str(error))


class Recaller(Calling):
    """Calls nodes again. `trace_id`: of the trace that called them the first time; `rules`: those of runs."""

    def __init__(self, plan: Plan, store: Store, row: TraceRow) -> None:
        self.plan = plan
        self.trace_id = row.trace_id
        self.position = Position(store.path, row, ReducerRegistry(plan.reducers), store.redact)
        self.rules = Scheduler(plan, cast("Trace", self.position), self, Options(), [], {})
        self._runner = asyncio.Runner()

    def close(self) -> None:
        """End the event loop of async nodes."""
        self._runner.close()

    # What contexts ask

    def emit(self, context: Context, value: Any) -> None:
        """Nobody listens."""

    def keep(self, event: ValueRecorded) -> None:
        """Never called: what the log does not hold is not made. Raises EventStoreError."""
        raise EventStoreError(f"a replay records nothing, so {event.name!r} of {event.path!r} neither")

    async def keep_async(self, event: ValueRecorded) -> None:
        """See `keep`."""
        self.keep(event)

    def looks_cancelled(self, is_async: bool) -> bool:
        """No."""
        return False

    # Calling

    def held(self, path: str) -> list[list[Any]]:
        """What the visit of that path committed at once, `[name, value]` each, in all of its attempts."""
        found: list[list[Any]] = self.position.control.get(f"calls/{path}", [])
        return found

    def call(
        self,
        node: Node,
        path: str,
        occurrence: int,
        attempt: int,
        recorded: Recorded,
        earlier: int,
        item: Any = None,
        index: int | None = None,
    ) -> tuple[ReplayContext, Draft, BaseException | None]:
        """Call a node (or a branch) on the state as it stands; its context, what it wrote, and how it failed.

        `earlier`: how many of the values that the visit committed at once were there before this attempt.
        """
        control, draft = self.position.control, self.position.draft(redact=True)
        if path != node.name:
            draft.updates = {}
        intent = control.get(f"intent/{path}")
        key = None if intent is None else intent["key"]
        held = self.held(path)
        values = (held[:earlier], held[earlier:], recorded.get(path, ()))
        context = ReplayContext(self, node, path, draft, occurrence, attempt, key, *values, item, index)
        call = Call(node, context, draft, 0)
        try:
            outcome = self._runner.run(self._invoke_async(call)) if node.is_async else self.invoke(call)
        except BaseException as ended:
            if context.unrecorded is None:
                raise
            return context, draft, ended
        return context, draft, outcome.error

    async def _invoke_async(self, call: Call) -> Outcome:
        context, node = call.context, call.node
        assert node.function is not None
        error: BaseException | None = None
        try:
            self.before(call)
            made = node.function(context) if node.kind == "node" else node.function(context, context.item)
            self.after(call, await made)
        except Exception as raised:
            error = raised
        except EXITS as raised:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise  # Ctrl-C
            error = exit_refused(context.path, raised)
        finally:
            context.close()
        return Outcome(error, 0.0)
