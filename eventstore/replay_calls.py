"""Where a replay stands in the log, and how it calls a node there.

The position is the fold of the log, kept along as the rows go by; to the rules of runs (`scheduler.py`) it looks
like an open trace. A call is what a run makes of it, hooks included, but for its context, which is fed from the log.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from .codec import Row
from .commands import Call, Options, Outcome
from .context import Context
from .control import with_prefix
from .errors import EventStoreError, LogCorrupted, StateError
from .link import fold_rows
from .log import TraceRow
from .plan import Node, Plan
from .reduce import ReducerRegistry
from .replay_context import ReplayContext, Unrecorded
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
MOST_LOOKS = 100_000
"""How often a call may find that the run is not cancelled; one that waits for that would never end."""
LAST_WORDS_S = 1.0


class Endless(BaseException):
    """A node waits for a request to cancel that the log does not hold. No `Exception`: nothing goes on after it."""


class Watched(ReplayContext):
    """A context that counts what is asked for, and tells `alarm` when it is not in the log."""

    __slots__ = ("alarm", "asked", "looks")

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.alarm: Callable[[], object] = _nobody
        self.asked: Counter[str] = Counter()
        self.looks = 0

    @property
    def cancelled(self) -> bool:
        """Whether the log holds a request to cancel before this visit ended. Raises Endless."""
        if super().cancelled:
            return True
        self.looks += 1
        if self.looks >= MOST_LOOKS:
            self.alarm()
            raise Endless
        return False

    def _from_log(self, name: str, *more: Any, **named: Any) -> Any:
        self.asked[f"call:{name}"] += 1
        return super()._from_log(name, *more, **named)

    def _missing(self, name: str, why: str) -> Unrecorded:
        missing = super()._missing(name, why)
        self.alarm()
        return missing


def _nobody() -> None: ...


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
        self._resumed: dict[str, int] = {}

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
        """Whether the log holds a request to cancel before the event that tells of the visit."""
        return "cancel" in self.position.control

    # Calling

    def held(self, path: str) -> list[list[Any]]:
        """What the visit of that path committed at once, `[name, value]` each, in all of its attempts."""
        found: list[list[Any]] = self.position.control.get(f"calls/{path}", [])
        return found

    def begin_attempts(self) -> None:
        """What was committed at once so far, earlier attempts may have made."""
        calls = with_prefix(self.position.control, "calls/")
        self._resumed = {path: len(values) for path, values in calls.items()}

    def own_calls(self, path: str, recorded: Recorded) -> Counter[str]:
        """How many calls of each name the attempt that succeeded made for certain."""
        values = [*self.held(path)[self._resumed.get(path, 0) :], *recorded.get(path, ())]
        return Counter(name for name, _ in values if name.startswith("call:"))

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
    ) -> tuple[Watched, Draft, BaseException | None]:
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
        context = Watched(self, node, path, draft, occurrence, attempt, key, *values, item, index)
        call = Call(node, context, draft, 0)
        try:
            outcome = self._runner.run(self._race(call, context)) if node.is_async else self.invoke(call)
        except BaseException as ended:
            if context.unrecorded is None and context.looks < MOST_LOOKS:
                raise
            return context, draft, _endless(context) or ended
        return context, draft, _endless(context) or outcome.error

    async def _race(self, call: Call, context: Watched) -> Outcome:
        """Call an async node, and end it as soon as anything of it asks for what the log does not hold."""
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(_tell_unless_unrecorded)
        alarm = asyncio.Event()
        context.alarm = partial(loop.call_soon_threadsafe, alarm.set)
        task = loop.create_task(self._invoke_async(call))
        waiter = loop.create_task(alarm.wait())
        try:
            await asyncio.wait((task, waiter), return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                task.cancel()
                await asyncio.wait((task,), timeout=LAST_WORDS_S)
            if not task.done():
                raise Unrecorded(call.context.path)
            return task.result()
        finally:
            waiter.cancel()
            task.cancel()
            context.close()
            context.alarm = _nobody

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


def _endless(context: Watched) -> EventStoreError | None:
    if context.looks < MOST_LOOKS:
        return None
    return EventStoreError(
        f"{context.path!r} looked {MOST_LOOKS:,} times if the run was cancelled, and the log holds no request before it"
    )


def _tell_unless_unrecorded(loop: asyncio.AbstractEventLoop, told: dict[str, Any]) -> None:
    """What a task of a node that nobody awaits asked for is the divergence already."""
    if not isinstance(told.get("exception"), Unrecorded | Endless):
        loop.default_exception_handler(told)
