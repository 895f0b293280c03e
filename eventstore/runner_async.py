"""The async driver: a run as a task, its async nodes as tasks beside it, its sync nodes on threads.

Commits go through the store's pump, so that runs which end steps together share a sync. Cancelling the task
never interrupts a commit: it is finished first.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any

from .commands import Abort, Call, Command, Commit, Execute, Idle, Launch, Options, Outcome, Release, Settle
from .context import Context
from .entering import Again, Entry, again, result_of, start_or_again
from .errors import Fenced, NodeTimeout, RunFailed, StorageError, ValueRefused, WrongExpectedVersion
from .owned import Batch, mail_only, prepare
from .plan import Plan
from .pump import Workers
from .record import GraphResult
from .run_event import ValueRecorded
from .running import MOST_SETTLED, Listener, Running, exit_refused
from .scheduler import Scheduler
from .store import Store, uuid7
from .trace import Trace


class AsyncRun(Running):
    """A run driven by the task that awaits `drive`."""

    most_branches = 10_000

    def __init__(
        self,
        plan: Plan,
        entry: Entry,
        listener: Listener | None,
        stop: threading.Event,
        workers: Workers,
    ) -> None:
        super().__init__(plan, entry, listener, stop)
        self._workers = workers
        self._loop = asyncio.get_running_loop()
        self._lock = asyncio.Lock()
        self._done: asyncio.Queue[tuple[Call, Outcome]] = asyncio.Queue()
        self._tasks: dict[asyncio.Task[None], Call] = {}
        self._aborted: set[Context] = set()

    async def drive(self, scheduler: Scheduler, at_once: bool) -> str:
        """Run to the end, a wait, or a stop; gives the status. Raises RunFailed, Fenced, storage errors."""
        steps = scheduler.run(at_once)
        answer: Any = None
        refused: ValueRefused | None = None
        try:
            while True:
                try:
                    command = steps.send(answer) if refused is None else steps.throw(refused)
                except StopIteration as finished:
                    return str(finished.value)
                answer = refused = None
                try:
                    answer = await self._perform(command)
                except ValueRefused as error:
                    refused = error
                if self.fatal is not None:
                    raise self.fatal
        finally:
            self.abandon()
            for task, call in list(self._tasks.items()):
                call.context.close()
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _perform(self, command: Command) -> Any:
        if type(command) is Commit:
            return await self.commit(command.batch)
        if type(command) is Execute:
            return await self._execute(command.call)
        if type(command) is Launch:
            self._launch(command.call)
        elif type(command) is Settle:
            return await self._settle(command.until_us)
        elif type(command) is Idle:
            await self._idle(command.until_us)
        elif type(command) is Abort:
            self._abort()
        elif type(command) is Release:
            release = self.trace._store._ownership.release
            await self._workers.call(release, self.trace, self.epoch, command.due_us)
        return None

    async def commit(self, batch: Batch) -> bool:
        """Append a batch after whatever mail came; False where it was not to follow mail."""
        trace = self.trace
        async with self._lock:
            while True:
                landing = self._workers.submit(trace, prepare(trace, batch, self.epoch))
                try:
                    await asyncio.shield(landing)
                    break
                except asyncio.CancelledError:
                    await asyncio.wait([landing])
                    raise
                except WrongExpectedVersion:
                    if not await self._workers.call(mail_only, trace):
                        raise
                    if not batch.follows_mail:
                        return False
            if self.listener is not None:
                await self._workers.call(self.tell)
        return True

    def keep(self, event: ValueRecorded) -> None:
        """See `Desk.keep`; called on a sync node's thread."""
        asyncio.run_coroutine_threadsafe(self.keep_async(event), self._loop).result()

    def fetch_mail(self) -> None:
        """See `Running.fetch_mail`."""
        asyncio.run_coroutine_threadsafe(self._poll(), self._loop).result()

    async def keep_async(self, event: ValueRecorded) -> None:
        """See `Desk.keep_async`."""
        try:
            await self.commit(self.kept(event))
        except (Fenced, StorageError, WrongExpectedVersion) as error:
            self.fatal = error
            raise

    async def _execute(self, call: Call) -> Outcome:
        self._launch(call)
        while True:
            for _, outcome in await self._settle(None):
                return outcome
            if self.is_cancelled():
                self._abort()

    def _launch(self, call: Call) -> None:
        self.tell_started(call)
        if call.node.is_async:
            task = self._loop.create_task(self._invoke(call))
            self._tasks[task] = call
            task.add_done_callback(lambda ended: self._tasks.pop(ended, None))
        else:
            self.spawn(call, self._put_from_thread)

    def _put_from_thread(self, call: Call, outcome: Outcome) -> None:
        try:
            self._loop.call_soon_threadsafe(self._done.put_nowait, (call, outcome))
        except RuntimeError:
            return  # the loop is closed: nobody waits for a thread that outlived its run

    async def _invoke(self, call: Call) -> None:
        context, node = call.context, call.node
        assert node.function is not None
        started = time.perf_counter_ns()
        error: BaseException | None = None
        try:
            self.before(call)
            made = node.function(context) if node.kind == "node" else node.function(context, context.item)
            self.after(call, await (made if node.timeout_s is None else _within(made, context.path, node.timeout_s)))
        except asyncio.CancelledError as stopped:
            error = stopped if self.is_cancelled() or context in self._aborted else exit_refused(context.path, stopped)
        except Exception as raised:
            error = raised
        except (SystemExit, GeneratorExit) as raised:
            error = exit_refused(context.path, raised)
        except BaseException as interrupt:
            self.fatal = error = interrupt
        finally:
            context.close()
        self._done.put_nowait((call, Outcome(error, round((time.perf_counter_ns() - started) / 1e6, 3))))

    def _abort(self) -> None:
        for task, call in self._tasks.items():
            if not call.node.side_effects:
                self._aborted.add(call.context)
                task.cancel()

    async def _settle(self, until_us: int | None) -> list[tuple[Call, Outcome]]:
        while True:
            settled = self.overdue()
            if not settled and self._done.empty():
                try:
                    async with asyncio.timeout(self.wait_s(until_us)):
                        settled = self.in_time(await self._done.get())
                except TimeoutError:
                    if until_us is not None and self.now_us() >= until_us:
                        return []
                    if await self._poll() or self.is_stopping():
                        return []
            while len(settled) < MOST_SETTLED and not self._done.empty():
                settled += self.in_time(self._done.get_nowait())
            if settled:
                return settled

    async def _poll(self) -> bool:
        async with self._lock:
            return await self._workers.call(self.take_mail)

    async def _idle(self, until_us: int) -> None:
        end = time.monotonic() + (until_us - self.now_us()) / 1e6  # a clock that is set back does not make it longer
        while self.now_us() < until_us and time.monotonic() < end and not self.is_stopping():
            await asyncio.sleep(self.wait_s(until_us))
            if await self._poll() and self.is_cancelled():
                return


async def _within(made: Awaitable[Any], path: str, timeout_s: float) -> Any:
    """What is awaited, stopped at its time limit. Raises NodeTimeout."""
    try:
        async with asyncio.timeout(timeout_s) as limit:
            return await made
    except TimeoutError:
        if limit.expired():
            raise NodeTimeout(path, timeout_s) from None
        raise


async def start_and_drive(
    workers: Workers,
    plan: Plan,
    store: Store,
    state: Mapping[str, Any] | None,
    trace_id: str | None,
    listener: Listener | None,
    stop: threading.Event | None,
) -> GraphResult:
    """Start a run, or enter the one of that id, and drive it."""
    giving_up = threading.Event()
    enter = partial(start_or_again, plan, store, state, trace_id, uuid7())
    trace, entry = await _enter(workers, enter, giving_up)
    return await _drive(plan, trace, entry, Options(), listener, stop, workers)


async def resume_and_drive(
    workers: Workers,
    plan: Plan,
    store: Store,
    trace_id: str,
    how: Again,
    options: Options,
    listener: Listener | None,
    stop: threading.Event | None,
) -> GraphResult:
    """Enter a run that exists, and drive it."""
    giving_up = threading.Event()
    enter = partial(again, plan, store, trace_id, how._replace(giving_up=giving_up))
    trace, entry = await _enter(workers, enter, giving_up)
    return await _drive(plan, trace, entry, options, listener, stop, workers)


async def _enter(
    workers: Workers, enter: Callable[[], tuple[Trace, Entry | None]], giving_up: threading.Event
) -> tuple[Trace, Entry | None]:
    """Enter on a thread. A task that is cancelled meanwhile gives back what the thread came to own."""
    work = asyncio.ensure_future(workers.call(enter))
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        giving_up.set()
        await asyncio.wait([work])
        if work.exception() is None and (entry := work.result()[1]) is not None:
            ownership = entry.trace._store._ownership
            ownership.left(entry.trace.id)
            await asyncio.shield(workers.call(ownership.give_back, entry.trace, entry.epoch))
        raise


async def _drive(
    plan: Plan,
    trace: Trace,
    entry: Entry | None,
    options: Options,
    listener: Listener | None,
    stop: threading.Event | None,
    workers: Workers,
) -> GraphResult:
    if entry is None:
        return await workers.call(result_of, trace)
    ownership = trace._store._ownership
    try:
        await workers.call(trace._live)
        running = AsyncRun(plan, entry, listener, stop or threading.Event(), workers)
        scheduler = Scheduler(plan, trace, running, options, entry.carry, entry.effects)
        scheduler.fresh |= entry.fresh
        await workers.call(running.tell)
        await running.drive(scheduler, entry.at_once)
    except BaseException as error:
        if not isinstance(error, Fenced | RunFailed):
            await asyncio.shield(workers.call(ownership.give_back, trace, entry.epoch))
        raise
    finally:
        ownership.left(trace.id)
    return await workers.call(result_of, trace)
