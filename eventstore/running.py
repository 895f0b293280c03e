"""What both drivers of a run share: calling nodes, telling listeners, taking mail, and threads with a time limit.

A node's function runs with its hooks around it, in one draft. Threads are daemons: one that outlives its
timeout is left to end by itself, its context closed; the same node is not called again before it has.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from .commands import Call, Outcome
from .context import Context
from .entering import Entry
from .errors import EventStoreError, NodeTimeout
from .owned import Batch, mail_only
from .plan import Plan
from .run_event import ValueRecorded
from .run_stream import CheckpointSaved, Emitted, StreamEvent, Translator

POLL_S = 0.5
MOST_BRANCHES = 32
MOST_SETTLED = 256
Listener = Callable[[StreamEvent], None]
EXITS = (SystemExit, GeneratorExit, asyncio.CancelledError)


def exit_refused(path: str, raised: BaseException) -> EventStoreError:
    """The failure of a node that wanted to end more than itself."""
    error = EventStoreError(f"node {path!r} raised {type(raised).__name__}: {raised}".rstrip(": "))
    error.__cause__ = raised
    return error


class Calling:
    """How a node of a graph is called: its function with the hooks around it, in one draft."""

    plan: Plan

    def check_target(self, target: str) -> None:
        """Raise EventStoreError for a node that the graph does not have."""
        node = self.plan.nodes.get(target)
        if node is None or any(target in other.branches for other in self.plan.nodes.values()):
            raise EventStoreError(f"graph {self.plan.name}: there is no node {target!r} to go to")

    def invoke(self, call: Call) -> Outcome:
        """Call a sync node on this thread, and close its context.

        What is no `Exception` (an interrupt) is no outcome of the node: it ends the work on this run. But to exit
        is not a node's to decide: that is a failure like any other.
        """
        context, node = call.context, call.node
        assert node.function is not None
        started = time.perf_counter_ns()
        error: Exception | None = None
        try:
            self.before(call)
            self.after(call, node.function(context) if node.kind == "node" else node.function(context, context.item))
        except Exception as raised:
            error = raised
        except EXITS as raised:
            error = exit_refused(context.path, raised)
        finally:
            context.close()
        return Outcome(error, round((time.perf_counter_ns() - started) / 1e6, 3))

    def before(self, call: Call) -> None:
        """Run the hooks before a node."""
        self._hook(self.plan.before, call)

    def after(self, call: Call, result: Any) -> None:
        """Put what the node returned, then run the hooks after it. Raises TypeError for no mapping."""
        if result is not None:
            if not isinstance(result, Mapping):
                raise TypeError(
                    f"node {call.context.path!r} returned {type(result).__name__}: a node returns a mapping, or nothing"
                )
            for key, value in result.items():
                call.context.put(key, value)
        self._hook(self.plan.after, call)

    def _hook(self, hooks: list[tuple[Callable[..., Any], frozenset[str] | None]], call: Call) -> None:
        for hook, only in hooks:
            if only is None or call.node.name in only:
                call.draft.source = "hook"
                try:
                    hook(call.context)
                finally:
                    call.draft.source = "node"


class Running(Calling):
    """One run as this process works on it. `stop`: a request to give it back at the next step."""

    most_branches = MOST_BRANCHES

    def __init__(self, plan: Plan, entry: Entry, listener: Listener | None, stop: threading.Event) -> None:
        trace = entry.trace
        self.plan = plan
        self.trace = trace
        self.trace_id = trace.id
        self.epoch = entry.epoch
        self.listener = listener
        self.stop = stop
        self.fatal: BaseException | None = None
        self._translator = Translator(trace.id, is_live=True)
        self._told = entry.told
        known = trace._store.checkpoints.between(trace.id, self._told, self._told) if listener and self._told else []
        self._checkpoints = {checkpoint.checkpoint_id for checkpoint in known}
        self._threads = trace._store._ownership.threads_of(trace.id)
        self._calls: set[Context] = set()
        self._deadlines: dict[str, tuple[Call, float]] = {}
        self._late: set[int] = set()

    # What contexts and the scheduler ask

    def now_us(self) -> int:
        """Microseconds since 1970."""
        return time.time_ns() // 1000

    def is_cancelled(self) -> bool:
        """Whether mail has asked for the end."""
        return "cancel" in self.trace._control

    def looks_cancelled(self, is_async: bool) -> bool:
        """See `Desk.looks_cancelled`; an async node, which must not wait, is told what the last poll found."""
        if not is_async and not self.is_cancelled():
            self.fetch_mail()
        return self.is_cancelled()

    def fetch_mail(self) -> None:
        """Take in mail, from a sync node's thread."""
        raise NotImplementedError

    def is_stopping(self) -> bool:
        """Whether the run is to be given back."""
        return self.stop.is_set()

    def emit(self, context: Context, value: Any) -> None:
        """Tell the listener."""
        if self.listener is not None:
            self.listener(Emitted(self.trace_id, context.path, value))

    # Telling

    def tell_started(self, call: Call) -> None:
        """A call begins."""
        if self.listener is not None:
            for event in self._translator.started(call.context.path, call.context.attempt):
                self.listener(event)

    def tell(self) -> None:
        """Tell the listener what was committed since the last time."""
        listener, trace = self.listener, self.trace
        if listener is None:
            return
        upto = trace.version
        for event in self._translator.translate(trace.events(after=self._told, upto=upto)):
            listener(event)
        for saved in reversed(trace._store.checkpoints.between(trace.id, max(1, self._told), upto)):
            if saved.checkpoint_id not in self._checkpoints:
                self._checkpoints.add(saved.checkpoint_id)
                names = [trigger.name for trigger in saved.triggers]
                listener(CheckpointSaved(trace.id, saved.seq or 0, saved.created_at, saved.checkpoint_id, names))
        self._told = upto

    def take_mail(self) -> bool:
        """Take in what others have sent meanwhile; whether there was any."""
        version = self.trace.version
        return mail_only(self.trace) and self.trace.version != version

    # Calling

    def kept(self, event: ValueRecorded) -> Batch:
        """The commit of a value that is recorded at once."""
        return Batch(after=[event])

    # Threads

    def spawn(self, call: Call, done: Callable[[Call, Outcome], None]) -> None:
        """Run a call on a thread of its own, once an earlier one of its path has ended; `done` is called there."""
        path, node = call.context.path, call.node
        earlier = self._threads.get(path)
        self._calls.add(call.context)
        run_in = contextvars.copy_context().run

        def work() -> None:
            if earlier is not None:
                earlier.join()
            if node.timeout_s is not None:
                self._deadlines[path] = (call, time.monotonic() + node.timeout_s)
            try:
                outcome = run_in(self.invoke, call)
            except BaseException as interrupt:
                self.fatal = interrupt
                outcome = Outcome(interrupt, 0.0)
            self._calls.discard(call.context)
            done(call, outcome)

        thread = threading.Thread(target=work, name=f"eventstore-{path}", daemon=True)
        self._threads[path] = thread
        thread.start()

    def is_still_called(self, path: str) -> bool:
        """Whether a thread of an earlier call, perhaps of an earlier run of this process, has not ended."""
        thread = self._threads.get(path)
        return thread is not None and thread.is_alive()

    def abandon(self) -> None:
        """Close the contexts of calls that go on without this run."""
        for context in list(self._calls):
            context.close()

    def in_time(self, done: tuple[Call, Outcome]) -> list[tuple[Call, Outcome]]:
        """A call that has ended; nothing where it was given up at its deadline before."""
        call, _ = done
        if id(call.context) in self._late:
            self._late.discard(id(call.context))
            return []
        self._deadlines.pop(call.context.path, None)
        return [done]

    def overdue(self) -> list[tuple[Call, Outcome]]:
        """Calls whose deadline has passed: their contexts are closed, and they have failed."""
        now = time.monotonic()
        found: list[tuple[Call, Outcome]] = []
        for path, (call, deadline) in list(self._deadlines.items()):
            if now >= deadline:
                del self._deadlines[path]
                self._late.add(id(call.context))
                assert call.node.timeout_s is not None
                late = NodeTimeout(path, call.node.timeout_s)
                call.context.close(late)
                found.append((call, Outcome(late, call.node.timeout_s * 1000)))
        return found

    def wait_s(self, until_us: int | None) -> float:
        """How long to wait for what may come first: a poll, a deadline, or that time."""
        waits = [POLL_S]
        waits += [deadline - time.monotonic() for _, deadline in list(self._deadlines.values())]
        if until_us is not None:
            waits.append((until_us - self.now_us()) / 1e6)
        return max(0.0, min(waits))
