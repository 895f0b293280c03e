"""A process that goes on with runs: decided ones, retries that are due, deadlines that passed, dead owners' runs.

A worker asks the file again and again what there is to do for its graph, and tries each run that it finds. To
try is to claim: a run of a live owner refuses, without a word, and is tried again the next time, since it
is by trying that a stuck owner is noticed. A run that cannot go on as things stand (another graph, a crash loop)
is told of once and left alone until its log has changed.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import NamedTuple

from .control import ENDED
from .errors import (
    Fenced,
    RunFailed,
    RunOwned,
    StorageError,
    StoreClosed,
    StoreHalted,
    TraceEndedError,
    TraceErased,
    TraceNotFound,
)
from .graph import Graph
from .record import GraphResult
from .runs import resume
from .store import Store

PAGE_RUNS = 200
SLOT_POLL_S = 0.1


class Worked(NamedTuple):
    """What came of a run that was tried: its `result`, or the `error` that it stopped with.

    >>> Worked("t1", GraphResult("t1", {}, [], 0.0)).error is None
    True
    """

    trace_id: str
    result: GraphResult | None = None
    error: Exception | None = None


class Worker:
    """Goes on with the runs of one graph, up to `concurrency` at a time, each on a thread of its own.

    `poll_s`: seconds between two looks into the file; `on_result`: called with each `Worked`, one at a time;
    `stop`: set it to have every run given back at its next step, and `run` return. A fork is a worker's once it was
    resumed or decided: until then it is somebody's to look at or to change. Raises GraphInvalid, ValueError.

    >>> from .event import Approve
    >>> from .runs import run
    >>> from .store import open
    >>> graph = Graph("ask").barrier("approve", prompt="Go on?").start("approve").end("approve")
    >>> with open(":memory:") as store:
    ...     waiting = run(graph, store)
    ...     store.decide(waiting.trace_id, "approve", Approve(by="ana"))
    ...     Worker(graph, store, on_result=lambda worked: print(worked.result.status)).run(once=True)
    'approve#1'
    completed
    """

    def __init__(
        self,
        graph: Graph,
        store: Store,
        *,
        concurrency: int = 4,
        poll_s: float = 1.0,
        on_result: Callable[[Worked], None] | None = None,
        stop: threading.Event | None = None,
    ) -> None:
        if concurrency < 1 or not poll_s > 0:
            raise ValueError(f"concurrency is 1 or more and poll_s more than 0, not {concurrency} and {poll_s}")
        self._graph = graph
        self._name = graph.plan().name
        self._store = store
        self._poll_s = poll_s
        self._on_result = on_result
        self.stop = stop or threading.Event()
        self._slots = threading.Semaphore(concurrency)
        self._lock = threading.Lock()
        self._telling = threading.Lock()
        self._threads: dict[str, threading.Thread] = {}
        self._refused: dict[str, int] = {}  # by run, the version at which it could not go on
        self._has_worked = False
        self._fatal: BaseException | None = None

    def run(self, once: bool = False) -> None:
        """Work until `stop` is set; with `once`, until nothing is due any more.

        Raises StoreHalted, StoreClosed, other storage errors of a look into the file, what `on_result` raises.
        """
        try:
            self._loop(once)
        except Exception:
            self.stop.set()
            self._join()
            raise
        self._join()
        if self._fatal is not None:
            raise self._fatal

    def _loop(self, once: bool) -> None:
        while not self.stop.is_set():
            self._has_worked = False
            self._look()
            if not once:
                self.stop.wait(self._poll_s)
                continue
            self._join()
            if not self._has_worked:
                return

    def _look(self) -> None:
        """Try every run that is due now, page after page: those of live owners may fill the first ones."""
        after: int | None = 0
        not_due = set(self._refused)
        while after is not None:
            found, after = self._store._ownership.due(self._name, PAGE_RUNS, after)
            not_due -= set(found)
            for trace_id in found:
                if not self._take_slot():
                    return
                if not self._begin(trace_id):
                    self._slots.release()
        with self._lock:
            for trace_id in not_due:
                self._refused.pop(trace_id, None)

    def _take_slot(self) -> bool:
        while not self.stop.is_set():
            if self._slots.acquire(timeout=SLOT_POLL_S):
                return True
        return False

    def _begin(self, trace_id: str) -> bool:
        """Try a run on a thread, unless it is tried already, is over, or cannot go on as it stands."""
        try:
            row, head = self._store._reader.find(trace_id)
        except (TraceNotFound, TraceErased):
            return False
        with self._lock:
            if trace_id in self._threads or row.status in ENDED or self._refused.get(trace_id) == head.version:
                return False
            thread = threading.Thread(target=self._work, args=(trace_id,), name=f"eventstore-{trace_id}", daemon=True)
            self._threads[trace_id] = thread
        thread.start()
        return True

    def _work(self, trace_id: str) -> None:
        try:
            self._try(trace_id)
        except BaseException as error:
            self._fatal = self._fatal or error
            self.stop.set()
        finally:
            with self._lock:
                del self._threads[trace_id]
            self._slots.release()

    def _try(self, trace_id: str) -> None:
        try:
            worked = Worked(trace_id, resume(self._graph, self._store, trace_id, waits=False, stop=self.stop))
        except (RunOwned, TraceNotFound, TraceErased, TraceEndedError):
            return  # another one has it, or it is over
        except (StoreHalted, StoreClosed):
            raise
        except (RunFailed, Fenced, StorageError) as error:
            worked = Worked(trace_id, error=error)
        except Exception as error:
            worked = Worked(trace_id, error=error)
            self._refuse(trace_id)
        with self._lock:
            self._has_worked = self._has_worked or worked.result is not None or isinstance(worked.error, RunFailed)
        self._tell(worked)

    def _refuse(self, trace_id: str) -> None:
        try:
            version = self._store.open_trace(trace_id).version
        except (TraceNotFound, TraceErased):
            return
        with self._lock:
            self._refused[trace_id] = version

    def _tell(self, worked: Worked) -> None:
        if self._on_result is not None:
            with self._telling:
                self._on_result(worked)

    def _join(self) -> None:
        """Wait for what is being worked on."""
        for thread in list(self._threads.values()):
            thread.join()
