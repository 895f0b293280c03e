"""The threads behind an async store, and the pump that gathers commits.

A commit goes into a queue on the event loop; the pump hands all that has gathered to one worker thread as
a single batch with a single sync, and then wakes the tasks.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from .errors import StoreClosed
from .pending import Appended, Pending
from .store import Store
from .trace import Trace

T = TypeVar("T")
P = ParamSpec("P")


class Workers:
    """The threads behind an async store: one that commits batches of steps, and a few for all else."""

    def __init__(self, store: Store) -> None:
        self._writer = store._writer
        self._path = store.path
        self._closed = False
        self._committer = ThreadPoolExecutor(1, "eventstore-commit")
        self._others = ThreadPoolExecutor(8, "eventstore-call")
        self._queue: list[tuple[Trace, Pending, asyncio.Future[Appended]]] = []
        self._pump: asyncio.Task[None] | None = None

    async def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        self._check_open()
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._others, lambda: function(*args, **kwargs))

    async def commit(self, trace: Trace, pending: Pending) -> Appended:
        """Commit with whatever else has gathered by the next turn. Raises the append's error, StoreClosed."""
        return await self.submit(trace, pending)

    def submit(self, trace: Trace, pending: Pending) -> asyncio.Future[Appended]:
        """Queue an append; the future is done when it is committed, whoever waits for it."""
        self._check_open()
        loop = asyncio.get_running_loop()
        done: asyncio.Future[Appended] = loop.create_future()
        self._queue.append((trace, pending, done))
        if self._pump is None:
            self._pump = loop.create_task(self._run())
        return done

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while self._queue:
                batch, self._queue = self._queue, []
                appends = [pending for _, pending, _ in batch if pending.duplicate is None]
                failure: Exception | None = None
                try:
                    await loop.run_in_executor(self._committer, self._writer.commit_batch, appends)
                except Exception as error:
                    failure = error
                for trace, pending, done in batch:
                    _finish(trace, pending, done, failure)
        finally:
            self._pump = None

    def _check_open(self) -> None:
        if self._closed:
            raise StoreClosed(self._path, "the store is closed")

    async def close(self) -> None:
        self._closed = True
        while self._pump is not None:
            await asyncio.wait([self._pump])
        await asyncio.get_running_loop().run_in_executor(None, self._others.shutdown)
        self._committer.shutdown()


def _finish(trace: Trace, pending: Pending, done: asyncio.Future[Appended], failure: Exception | None) -> None:
    """Take a commit into the live state, whether or not its task still waits."""
    error = failure or pending.error
    result = None
    if error is None:
        try:
            result = trace._acknowledge(pending)
        except Exception as unforeseen:  # goes to this task alone: the others wait for theirs
            error = unforeseen
    if done.cancelled():
        return
    if error is not None:
        done.set_exception(error)
    else:
        assert result is not None
        done.set_result(result)
