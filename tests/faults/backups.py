"""Backups of a store while two other processes and a thread of this one write to it without end.

Every copy verifies, holds all that was acknowledged before it began, and each of its traces is a beginning of the
original's that ends with a step: its head is the original's digest there. The controls copy the files.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import eventstore as es
from eventstore import log
from eventstore.backup import backup

from .campaign import Campaign, Control, Result

ROOT = Path(__file__).parent.parent.parent
ROUND = 5
"""So many backups, then a new store: this is about writing, not about size."""
TRACES = 4
STEPS = 40
PAUSE_S = 0.001
"""After each append; without it the file grows by 30 MB a second."""
RESET_S = 10


def write(path, name):
    """Write to traces of its own until the process is killed; each acknowledged version is told."""
    with es.open(path, durability="normal") as store:
        write_on(store, name, lambda trace_id, version: print(trace_id, version, flush=True))


def write_on(store, name, tell, stopped=lambda: False):
    """Traces of some dozen steps, several at a time, one after the other."""
    begun = 0
    while not stopped():
        traces = [store.start({"log": []}, id=f"{name}-{begun + number}") for number in range(TRACES)]
        begun += TRACES
        for step in range(STEPS):
            for trace in traces:
                if stopped():
                    return
                trace.append([es.StateDelta.append("log", [f"{step} {'x' * 600}"]), es.StateDelta.put("n", step)])
                tell(trace.id, trace.version)
                time.sleep(PAUSE_S)


class Writers:
    """Two processes and a thread that write to a store. `acknowledged`: each trace's version. A context manager."""

    def __init__(self, store):
        self.store = store
        self.acknowledged = {}
        self.broken = []
        self._stopped = threading.Event()
        order = [sys.executable, "-m", "tests.faults.backups", store.path]
        self._processes = [
            subprocess.Popen([*order, name], cwd=ROOT, stdout=subprocess.PIPE, text=True) for name in ("left", "right")
        ]
        self._threads = [threading.Thread(target=self._listen, args=(process,)) for process in self._processes]
        self._threads.append(threading.Thread(target=self._write))

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        while len({trace_id.partition("-")[0] for trace_id in list(self.acknowledged)}) < 3:
            if any(process.poll() is not None for process in self._processes) or self.broken:
                raise AssertionError(f"a writer ended: {self.broken}")
            time.sleep(0.01)
        return self

    def __exit__(self, *_):
        self._stopped.set()
        for process in self._processes:
            process.kill()
            process.wait()
        for thread in self._threads:
            thread.join()
        for process in self._processes:
            process.stdout.close()

    def _listen(self, process):
        for line in process.stdout:
            if line.endswith("\n") and len(parts := line.split()) == 2:  # the last one may be cut short by its kill
                self.acknowledged[parts[0]] = int(parts[1])

    def _write(self):
        try:
            write_on(self.store, "own", self.acknowledged.__setitem__, self._stopped.is_set)
        except es.EventStoreError as error:
            self.broken.append(f"{type(error).__name__}: {error}")


def lacking(path, acknowledged):
    """What a copy lacks, or how it is broken; None where nothing is missing."""
    try:
        with es.open(path, create=False) as copy:
            found = copy.verify()
            if not found.ok:
                return f"does not verify: {found.problems[0]}"
            for trace_id, version in acknowledged.items():
                there = copy.open_trace(trace_id).version
                if there < version:
                    return f"{trace_id} was acknowledged up to {version}, the copy ends at {there}"
    except es.EventStoreError as error:
        return f"{type(error).__name__}: {error}"
    return None


def copy_file(source, target):
    """A control: the file alone."""
    shutil.copy(source, target)


def copy_both(source, target):
    """A control: the file, and then its write-ahead log, which began anew meanwhile, as during a long copy."""
    wal = Path(f"{source}-wal")
    head = wal.read_bytes()[:24]
    shutil.copy(source, target)
    until = time.monotonic() + RESET_S
    while wal.read_bytes()[:24] == head and time.monotonic() < until:
        time.sleep(0.002)
    shutil.copy(wal, f"{target}-wal")


def one_round(run, number, size, failures, lost):
    """Some backups of one store, and as many copies of each control."""
    path = run.folder / f"store-{number}.db"
    heads = []
    with es.open(path, durability="normal") as store:
        with Writers(store) as writers:
            for index in range(size):
                case = f"seed {run.seed} round {number} backup {index}"
                target = run.folder / "copy.db"
                known = dict(writers.acknowledged)
                steps = []
                report = backup(store, target, on_progress=lambda done, total, steps=steps: steps.append((done, total)))
                if (fault := lacking(target, known)) is not None:
                    failures.append(f"{case}: {fault}")
                if steps != sorted(steps) or len({total for _, total in steps}) != 1:
                    failures.append(f"{case}: the copying began anew: {steps}")

                with es.open(target) as copy:
                    ends = {trace_id: copy.open_trace(trace_id).version for trace_id in report.heads}
                heads += [(case, trace_id, ends[trace_id], digest) for trace_id, digest in report.heads.items()]
                remove(target)
                for control, copy in (("file", copy_file), ("both", copy_both)):
                    known = dict(writers.acknowledged)
                    copy(path, target)
                    lost[control] += lacking(target, known) is not None
                    remove(target)
                run.tick(1)
            failures += [f"seed {run.seed} round {number}: {words}" for words in writers.broken]
        with store._database.reader() as connection:
            for case, trace_id, version, digest in heads:
                stood = log.boundary(connection, log.find_trace(connection, trace_id), version)
                if stood.digest.hex() != digest:
                    failures.append(f"{case}: {trace_id} is another one at {version}")
    remove(path)
    return len(heads)


def remove(path):
    """A store's file and what is beside it."""
    for left in path.parent.glob(f"{path.name}*"):
        left.unlink()


def run(run):
    """The campaign."""
    failures: list[str] = []
    lost = {"file": 0, "both": 0}
    heads = tried = number = 0
    while tried < run.size:
        size = min(ROUND, run.size - tried)
        heads += one_round(run, number, size, failures, lost)
        tried, number = tried + size, number + 1
    controls = [
        Control("the file copied", lost["file"], tried),
        Control("the file copied, then its WAL", lost["both"], tried),
    ]
    notes = f"{heads:,} heads of traces compared"
    return [Result("backups under two processes that write", tried, 0, "acknowledged", failures, controls, notes)]


CAMPAIGNS = [Campaign("backups", "online backups while others write", 100, 5, run)]

if __name__ == "__main__":
    write(*sys.argv[1:])
