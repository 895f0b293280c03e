"""The source audit watched from outside: its worker killed half-way, another one sent after it, and what came of it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from functools import partial
from pathlib import Path

from _tables import make_console, make_progress, print_tables

import eventstore as es

POLL_S = 0.05


def supervise(program: str, graph: es.Graph, folder: Path, database: Path, branches: int) -> None:
    """Run the audit in processes of their own, approve its report, and print it."""
    console, trace_id, started = make_console(), str(uuid.uuid4()), time.perf_counter()
    size_before = database.stat().st_size if database.exists() else 0
    command = [sys.executable, program, str(folder), "--db", str(database), "--work-on", trace_id]
    with es.open(database) as store:
        with make_progress(console) as progress:
            tell = partial(progress.update, progress.add_task("Auditing", total=branches))
            first = work(command, store, trace_id, tell, kill_at=branches / 2)
            settled, middle = len(executions(store, trace_id)), store.open_trace(trace_id).version
            second = work(command, store, trace_id, tell)
        (asked,) = store.barriers(trace_id=trace_id)
        store.decide(trace_id, asked.barrier_id, es.Approve(by="demo"))
        state = es.resume(graph, store, trace_id).state
        ran = executions(store, trace_id)
    for unreadable in state["unreadable"]:
        console.print(unreadable)
    end = "was killed (SIGKILL)" if first.returncode < 0 else "was faster than its killer"
    took_s = time.perf_counter() - started
    console.print(f"{state['found']:,} modules of {folder} in {branches} branches: {took_s:.1f} s")
    console.print(f"Process {first.pid} {end} after {settled} branches; process {second.pid} ran {len(ran) - settled}.")
    twice, lost = len(ran) - len(set(ran)), branches - len(set(ran))
    console.print(f"In the log: {len(ran)} executions of {branches} branches; {twice} ran twice, {lost} were lost.")
    console.print(f"{asked.prompt} Approved by demo.\n")
    print_tables(console, database, trace_id, middle, size_before)
    look = os.path.relpath(Path(sys.executable).with_name("eventstore"))
    console.print(f"\nLook into it: {look} --db {database} log {trace_id[:8]}", soft_wrap=True)


def work(
    command: list[str],
    store: es.Store,
    trace_id: str,
    tell: Callable[..., None],
    kill_at: float = float("inf"),
) -> subprocess.Popen[bytes]:
    """Run the command to its end, or kill it with SIGKILL when that many branches are in the log."""
    worker = subprocess.Popen(command)
    try:
        while worker.poll() is None:
            tell(completed=(count := len(executions(store, trace_id))))
            if count >= kill_at:
                break
            time.sleep(POLL_S)
    finally:
        worker.kill()  # does nothing to one that has ended
    if worker.wait() > 0:
        sys.exit(worker.returncode)
    return worker


def executions(store: es.Store, trace_id: str) -> list[str]:
    """The executions of branches that the log holds: `audit/0 in step 3`."""
    try:
        entries = store.open_trace(trace_id).entries()
    except es.TraceNotFound:
        return []  # the worker has not come that far
    return [f"{entry.node_name}/{entry.branch} in step {entry.step}" for entry in entries if entry.branch is not None]
