"""Campaigns: runs in processes of their own, killed again and again, and checked against the laws."""

from __future__ import annotations

import json
import os
import random
import select
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import eventstore as es

from . import child as orderly
from .laws import Reading, check_run
from .processes import SERVER, Worker
from .world import INPUT, Outside, did, gate, make_graph

ROOT = Path(__file__).parent.parent.parent
AIMS = ("any instant", "effect", "intent", "branch end", "join", "node end", "value", "owner", "barrier", "any seq")
SAFETY_S = 60


class Child:
    """A process that has imported everything and carries out orders, one after the other. A context manager."""

    def __init__(self):
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.child"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
        )
        self._told = b""
        self._is_ready = False

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.communicate()

    def begin(self, order):
        """Give an order, and wait until the process works on it."""
        if not self._is_ready:
            self.expect("ready")
            self._is_ready = True
        self.process.stdin.write(json.dumps(order).encode() + b"\n")
        self.expect("began")

    def expect(self, word):
        """Wait for that word."""
        found = self.end()
        if found != word:
            raise AssertionError(f"no {word!r} but {found!r}")

    def has_told(self, timeout_s):
        """Wait so long for it to say something, or to end; whether it did."""
        return b"\n" in self._told or bool(select.select([self.process.stdout], [], [], timeout_s)[0])

    def wait_until_stopped(self):
        """Until a signal has stopped it."""
        until = time.monotonic() + SAFETY_S
        while not os.waitid(os.P_PID, self.process.pid, os.WSTOPPED | os.WNOHANG):
            if self.has_told(0.005) or time.monotonic() > until:
                raise AssertionError(f"the child was not stopped; it says {self._told or self.end()}")

    def end(self):
        """What it says next; None when it was killed first."""
        while b"\n" not in self._told:
            if not self.has_told(SAFETY_S):
                raise AssertionError(f"the child said nothing for {SAFETY_S} s")
            more = os.read(self.process.stdout.fileno(), 65536)
            if not more:
                errors = self.process.stderr.read().decode()
                if self.process.wait(SAFETY_S) != -9:
                    raise AssertionError(f"the child ended with {self.process.returncode}: {errors}")
                return None
            self._told += more
        line, self._told = self._told.split(b"\n", 1)
        return json.loads(line)


class ForkedChild(Worker):
    """A Child in its campaign's use, that starts within milliseconds; its parent is the server that forked it."""

    def __init__(self):
        orders, self._orders = SERVER.Pipe(duplex=False)
        super().__init__(carry_out, orders)
        orders.close()

    def begin(self, order):
        """Give an order, and wait until the process works on it."""
        self._orders.send(order)
        if (found := self.hear()) != "began":
            raise AssertionError(f"not begun but {found!r}")

    def has_told(self, timeout_s):
        """Wait so long for it to say something, or to end; whether it did."""
        return self.connection.poll(timeout_s)

    def end(self):
        """What it says next; None when it was killed first."""
        try:
            return self.hear()
        except EOFError:
            self.process.join()
            if self.process.exitcode != -signal.SIGKILL:
                raise AssertionError(f"the child ended with {self.process.exitcode}") from None
            return None

    def __exit__(self, *_):
        super().__exit__()
        self._orders.close()


def carry_out(tell, orders):
    """One order after the other, as a Child does."""
    orderly.tell = tell
    while True:
        tell(orderly.work(orders.recv()))


class Nursery:
    """Children are started ahead of their orders, so that a campaign does not wait for imports."""

    def __init__(self, ahead=2, make=Child):
        self._ahead = ahead
        self._make = make
        self._ready = []
        self._all = []
        self._top_up()

    def _top_up(self):
        while len(self._ready) < self._ahead:
            self._ready.append(self._make())
            self._all.append(self._ready[-1])

    def take(self):
        """A child; another one is started, should it die."""
        child = self._ready.pop(0)
        self._top_up()
        return child

    def give_back(self, child):
        """One that was not killed can take the next order."""
        self._ready.insert(0, child)

    def bury(self, child):
        """One that was killed."""
        self._all.remove(child)
        child.__exit__()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for child in self._all:
            child.__exit__()


def begin(graph, store, trace_id="t1", seed=0):
    """A run that has begun, that nobody works on, and whose gates are decided."""
    stop = threading.Event()
    stop.set()
    assert es.run(graph, store, INPUT, id=trace_id, stop=stop).status == "running"
    assert submit_early(store, trace_id, seed)


class Honest:
    """In the place of a random generator: whoever is asked about a doubt looks outside, and says what is so."""

    def random(self):
        """Neither a rejection nor a blind approval."""
        return 0.99


def finish(graph, store, trace_id, outside, seed, tally=None, **how):
    """Resume a run in this process, with all decisions, until it is over."""
    tally = Counter() if tally is None else tally
    result = es.resume(graph, store, trace_id, **how)
    while result.status == "waiting":
        decide_all(store, trace_id, outside, seed, Honest(), tally)
        result = es.resume(graph, store, trace_id)
    assert result.status == "completed"
    return result


class Aim:
    """When to kill: at an instant, or right after something is to be seen."""

    def __init__(self, rng, duration_s):
        self.kind = rng.choice(("any instant",) * 5 + AIMS)
        self.was_taken = False
        self._at_s = rng.uniform(0, duration_s)
        self._left = rng.randint(1, 6 if self.kind in ("effect", "intent", "node end") else 3)
        if self.kind == "any seq":
            self._left = rng.randint(1, 60)

    def start(self, store, trace_id, outside):
        """From now on."""
        self._store, self._trace_id, self._outside = store, trace_id, outside
        self._began = time.monotonic()
        self._lines = len(outside.lines("effect"))
        self._seq = store.open_trace(trace_id).version if exists(store, trace_id) else 0

    def is_due(self):
        """Whether it is time."""
        if self.kind == "any instant":
            return time.monotonic() - self._began >= self._at_s
        if self.kind == "effect":
            return len(self._outside.lines("effect")) >= self._lines + self._left
        if exists(self._store, self._trace_id):
            for recorded in self._store.events(self._trace_id, after=self._seq):
                self._seq = recorded.seq
                self._left -= self._matches(recorded)
        return self._left <= 0

    def _matches(self, recorded):
        kind, event = recorded.kind, recorded.event
        return {
            "intent": kind == "node_intended",
            "branch end": kind == "branch_executed",
            "join": kind == "node_executed" and event.node in ("gather", "each"),
            "node end": kind == "node_executed",
            "value": kind == "value_recorded" and event.held,
            "owner": kind == "owner_changed",
            "barrier": kind.startswith("barrier_"),
            "any seq": True,
        }[self.kind]


def exists(store, trace_id):
    """Whether the run has begun."""
    try:
        store.open_trace(trace_id)
    except es.TraceNotFound:
        return False
    return True


def answer_doubt(store, trace_id, barrier_id, outside, rng):
    """Decide a barrier about a node in doubt: after a look outside, or not. What was decided."""
    path = barrier_id.rpartition("#")[0]
    control = store.open_trace(trace_id).control
    key = control[f"intent/{path}"]["key"]
    occurrence = control.get(f"visits/{path.partition('/')[0]}", 0) + 1
    happened = any(line.key == key for line in outside.lines("effect"))
    chance = rng.random()
    if chance < 0.2:
        decision, told = es.Reject("nobody knows"), "rejected"
    elif chance < 0.4 and happened:
        decision, told = es.Approve(), "approved though it had happened"
    elif happened:
        decision, told = es.Modify(did(path, occurrence, key)), "modified: it had happened"
    else:
        decision, told = es.Approve(), "approved: it had not happened"
    store.decide(trace_id, barrier_id, decision)
    return told


def decide_all(store, trace_id, outside, seed, rng, tally):
    """Decide whatever the run waits for."""
    for info in store.barriers(trace_id=trace_id):
        if info.reason == "in_doubt":
            tally["in doubt: " + answer_doubt(store, trace_id, info.barrier_id, outside, rng)] += 1
        else:
            store.decide(trace_id, info.barrier_id, gate(seed, int(info.barrier_id.rpartition("#")[2])))
            tally["gates decided by the parent"] += 1


def submit_early(store, trace_id, seed):
    """Decide both visits of the gate before they are asked; False where the run has not begun."""
    if not exists(store, trace_id):
        return False
    for visit in (1, 2):
        try:
            store.decide(trace_id, f"approve#{visit}", gate(seed, visit))
        except es.BarrierError as error:
            if "already" not in str(error):
                raise
        except es.TraceEndedError:
            pass
    return True


class Campaign:
    """Runs that are killed, one after the other. `tally` counts what happened; `kills` so far.

    `places`: what was aimed at and how far the log was, kill by kill.
    """

    def __init__(self, folder, seed, *, durability="full", is_async=False):
        self.folder = Path(folder)
        self.seed = seed
        self.durability = durability
        self.is_async = is_async
        self.rng = random.Random(seed)
        self.tally = Counter()
        self.places = set()
        self.kills = 0
        self.runs = 0
        self.duration_s = self._measure()

    def _measure(self):
        """How long an uninterrupted run takes, opening the store included."""
        outside = Outside(self.folder / "measure.txt")
        graph = make_graph(outside, is_async=self.is_async)
        began = time.monotonic()
        with es.open(self.folder / "measure.db", durability=self.durability) as store:
            es.run(graph, store, INPUT, id="measure", stop=None)
            submit_early(store, "measure", 0)
            es.resume(graph, store, "measure")
        return time.monotonic() - began

    def run(self, kills, progress=lambda: None):
        """Runs until there were so many kills; every one is finished and checked."""
        with Nursery(make=ForkedChild) as nursery:
            while self.kills < kills:
                number = self.runs
                self.runs += 1
                try:
                    self._one_run(nursery, number, kills, progress)
                except BaseException as error:
                    error.add_note(f"seed {self.seed}, run {number}, durability {self.durability}")
                    raise
        return self.tally

    def _one_run(self, nursery, number, kills, progress):
        trace_id, rng = f"run-{self.seed}-{number}", self.rng
        folder = self.folder / trace_id
        folder.mkdir()
        outside = Outside(folder / "outside.txt")
        seed = rng.randrange(1000)
        early = rng.random() < 0.5
        most = rng.randint(1, 8)
        deaths, force, processes, here, child = [], False, 0, 0, None
        with es.open(folder / "runs.db", durability=self.durability) as store:
            while True:
                processes += 1
                assert processes < 200, "the run makes no progress"
                aim = Aim(rng, self.duration_s) if here < most and self.kills < kills else None
                order = {
                    "path": store.path,
                    "outside": outside.path,
                    "process": processes,
                    "durability": self.durability,
                    "trace_id": trace_id,
                    "force": force,
                    "is_async": self.is_async,
                }
                force = False
                child = child or nursery.take()
                early = self._watch(child, order, aim, store, trace_id, outside, seed, early)
                found = child.end()
                deaths.append((processes, Reading.of(store, trace_id).known))
                if aim is not None and aim.was_taken:
                    nursery.bury(child)
                    child = None
                if found is None:
                    self.kills += 1
                    here += 1
                    self.tally[f"killed: {aim.kind}"] += 1
                    self.places.add((aim.kind, store.open_trace(trace_id).version if exists(store, trace_id) else 0))
                    progress()
                elif found.get("error") == "CrashLoop":
                    force = True
                    self.tally["crash loops, resumed by force"] += 1
                elif found.get("status") == "waiting":
                    decide_all(store, trace_id, outside, seed, rng, self.tally)
                elif found.get("status") == "completed":
                    break
                else:
                    raise AssertionError(f"the child ended with {found}")
            if child is not None:
                nursery.give_back(child)
            reading, repeated = check_run(store, trace_id, outside, seed, deaths, folder)
        self.tally["processes"] += processes
        self.tally["runs finished"] += 1
        self.tally["effects"] += len(outside.lines("effect"))
        self.tally["effects repeated under a declared doubt"] += repeated
        self.tally["intents without a result, met by another owner"] += sum(reading.doubts.values())
        self.tally["doubts that failed by rule"] += sum(
            path in ("bill", "gather/report") for path, _ in reading.given_up
        )

    def _watch(self, child, order, aim, store, trace_id, outside, seed, early):
        """Let the child work until it ends or the aim is due; whether early decisions are still to be sent."""
        child.begin(order)
        if aim is not None:
            aim.start(store, trace_id, outside)
        while not child.has_told(0.0005 if aim is not None or early else SAFETY_S):
            if early:
                early = not submit_early(store, trace_id, seed)
            if aim is not None and aim.is_due():
                aim.was_taken = True  # it may have told its result a moment ago
                child.process.kill()
                break
        return early
