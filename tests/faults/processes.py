"""Processes that start within milliseconds: forked from a server that has imported the engine and opened nothing."""

from __future__ import annotations

import multiprocessing
import signal
from contextlib import ExitStack, suppress
from multiprocessing.connection import wait

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["eventstore", "sqlite3", "rich.progress", "tests.faults.child", __name__])
SAFETY_S = 60


class Failed(Exception):
    """What ended a worker's work."""


class Worker:
    """A process that calls `work(tell, *arguments)`; what it tells through `connection` is heard. A context manager."""

    def __init__(self, work, *arguments):
        self.connection, told = SERVER.Pipe(duplex=False)
        self.process = SERVER.Process(target=_work, args=(told, work, arguments), daemon=True)
        self.process.start()
        told.close()

    def hear(self):
        """What it says next. Raises AssertionError where that is an error or nothing, EOFError after its end."""
        if not self.connection.poll(SAFETY_S):
            raise AssertionError(f"{self.process.name} said nothing for {SAFETY_S} s")
        found = self.connection.recv()
        if isinstance(found, Failed):
            raise AssertionError(f"{self.process.name}: {found}")
        return found

    def kill(self):
        """SIGKILL, and wait for the end. Raises AssertionError where it had ended by itself, with an error."""
        self.process.kill()
        self.process.join()
        with suppress(EOFError):
            while self.process.exitcode != -signal.SIGKILL:
                self.hear()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.join()
        self.connection.close()
        self.process.close()


def hear_all(works, on_progress=lambda n: None):
    """Start `(work, *arguments)` together; what each told last, in order.

    Each tells "ready" and waits for the event that it gets as its last argument. Then numbers are progress, and what is
    no number is the last word.
    """
    go = SERVER.Event()
    with ExitStack() as stack:
        workers = [stack.enter_context(Worker(*work, go)) for work in works]
        for worker in workers:
            assert worker.hear() == "ready"
        go.set()
        results = {}
        while len(results) < len(workers):
            talking = {worker.connection: worker for worker in workers if worker not in results}
            ready = wait(talking, SAFETY_S)
            if not ready:
                raise AssertionError(f"{len(talking)} processes said nothing for {SAFETY_S} s")
            for connection in ready:
                found = talking[connection].hear()
                if isinstance(found, int):
                    on_progress(found)
                else:
                    results[talking[connection]] = found
        return [results[worker] for worker in workers]


def _work(told, work, arguments):
    try:
        work(told.send, *arguments)
    except Exception as error:
        told.send(Failed(f"{type(error).__name__}: {error}"))
