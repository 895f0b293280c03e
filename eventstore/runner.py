"""The sync driver: a run on the calling thread, its branches on threads of their own.

A plain node runs inline, so an empty one costs little more than its commit. A node with a time limit runs on
a thread that can be left behind.
"""

from __future__ import annotations

import threading
import time
from queue import Empty, SimpleQueue
from typing import Any

from .commands import Call, Command, Commit, Execute, Idle, Launch, Outcome, Release, Settle, Steps
from .entering import Entry
from .errors import Fenced, StorageError, ValueRefused, WrongExpectedVersion
from .owned import Batch, mail_only, prepare
from .plan import Plan
from .run_event import ValueRecorded
from .running import MOST_SETTLED, POLL_S, Listener, Running
from .scheduler import Scheduler


class SyncRun(Running):
    """A run driven by the thread that calls `drive`."""

    def __init__(self, plan: Plan, entry: Entry, listener: Listener | None, stop: threading.Event) -> None:
        super().__init__(plan, entry, listener, stop)
        self._lock = threading.Lock()
        self._done: SimpleQueue[tuple[Call, Outcome]] = SimpleQueue()

    def drive(self, scheduler: Scheduler, at_once: bool) -> str:
        """Run to the end, a wait, or a stop; gives the status. Raises RunFailed, Fenced, storage errors."""
        try:
            return self._drive(scheduler.run(at_once))
        finally:
            self.abandon()

    def _drive(self, steps: Steps) -> str:
        answer: Any = None
        refused: ValueRefused | None = None
        while True:
            try:
                command = steps.send(answer) if refused is None else steps.throw(refused)
            except StopIteration as finished:
                return str(finished.value)
            answer = refused = None
            try:
                answer = self._perform(command)
            except ValueRefused as error:
                refused = error
            if self.fatal is not None:
                raise self.fatal

    def _perform(self, command: Command) -> Any:
        if type(command) is Commit:
            return self.commit(command.batch)
        if type(command) is Execute:
            return self._execute(command.call)
        if type(command) is Launch:
            self.tell_started(command.call)
            self.spawn(command.call, lambda call, outcome: self._done.put((call, outcome)))
        elif type(command) is Settle:
            return self._settle(command.until_us)
        elif type(command) is Idle:
            self._idle(command.until_us)
        elif type(command) is Release:
            self.trace._store._ownership.release(self.trace, self.epoch, command.due_us)
        return None

    def commit(self, batch: Batch) -> bool:
        """Append a batch after whatever mail came; False where it was not to follow mail."""
        trace = self.trace
        with self._lock:
            while True:
                try:
                    trace._commit(prepare(trace, batch, self.epoch))
                    break
                except WrongExpectedVersion:
                    if not mail_only(trace):
                        raise
                    if not batch.follows_mail:
                        return False
            if self.listener is not None:
                self.tell()
        return True

    def keep(self, event: ValueRecorded) -> None:
        """See `Desk.keep`."""
        try:
            self.commit(self.kept(event))
        except (Fenced, StorageError, WrongExpectedVersion) as error:
            self.fatal = error
            raise

    def fetch_mail(self) -> None:
        """See `Running.fetch_mail`."""
        with self._lock:
            self.take_mail()

    async def keep_async(self, event: ValueRecorded) -> None:
        """See `Desk.keep_async`; a sync run has no async nodes."""
        self.keep(event)

    def _execute(self, call: Call) -> Outcome:
        self.tell_started(call)
        if call.node.timeout_s is None and not self.is_still_called(call.context.path):
            return self.invoke(call)
        self.spawn(call, lambda late, outcome: self._done.put((late, outcome)))
        while True:
            for _, outcome in self._settle(None):
                return outcome

    def _settle(self, until_us: int | None) -> list[tuple[Call, Outcome]]:
        while True:
            settled = self.overdue()
            try:
                if not settled:
                    settled = self.in_time(self._done.get(timeout=self.wait_s(until_us)))
                while len(settled) < MOST_SETTLED:
                    settled += self.in_time(self._done.get_nowait())
            except Empty:
                if settled or (until_us is not None and self.now_us() >= until_us):
                    return settled
                with self._lock:
                    if self.take_mail() or self.is_stopping():
                        return []
            else:
                return settled

    def _idle(self, until_us: int) -> None:
        polled = time.monotonic()
        end = polled + (until_us - self.now_us()) / 1e6  # a clock that is set back does not make it longer
        while self.now_us() < until_us and time.monotonic() < end and not self.is_stopping():
            self.stop.wait(self.wait_s(until_us))
            if time.monotonic() - polled >= POLL_S:
                polled = time.monotonic()
                with self._lock:
                    if self.take_mail() and self.is_cancelled():
                        return
