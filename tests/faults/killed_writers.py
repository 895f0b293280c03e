"""Writers are killed, and what they were told is in the log, once.

Two processes append to one file, each to a trace of its own and to one that both share, and note down each
acknowledgement. One of them or both are killed (SIGKILL) at any instant, also while they open the file. Then the file
is opened and compared with what was acknowledged, and the dead are replaced: a new process begins with the append that
its predecessor was not told of, under the same `append_id`. That append may be in the log already.
"""

from __future__ import annotations

import os
import shutil
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple
from uuid import uuid4

import eventstore as es

from .campaign import Campaign, Control, Result
from .processes import Worker

NAMES = "ana", "bo"
KILLS_A_FILE = 20
MOST_CONTROL_KILLS = 200
LONGEST_S = 0.02
OPENING_S = 0.008
NAP_S = 0.0002


def write(tell, path, name, durability, noted_path, weakness=None):
    """Append for ever, from where the last process of that name was told that it is.

    It naps between commit and note, as long as a sync takes, so that many a kill comes just then.
    `weakness`: "fresh ids", so that a retry is not known as one; or "early", noted before it is committed.
    """
    turn = count_noted(noted_path)
    noted = os.open(noted_path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    with es.open(path, durability=durability) as store:
        own, shared = store.open_trace(name), store.open_trace("shared")
        tell("open")
        while True:
            append_id = f"{name} {uuid4() if weakness == 'fresh ids' else turn}"
            if weakness == "early":
                os.write(noted, b"%d\n" % turn)
            if turn % 2:
                with own.step("work", append_id=append_id) as step:
                    step.append("log", turn)
                    step.put("last", turn)
            else:
                deltas = [es.StateDelta.append("log", [[name, turn]]), es.StateDelta.put("last", turn)]
                shared.append(deltas, expected_version=es.ANY, append_id=append_id)
            time.sleep(NAP_S)
            if weakness != "early":
                os.write(noted, b"%d\n" % turn)
            turn += 1


def count_noted(path):
    """How many appends a writer was told of; a killed process takes no write back."""
    return Path(path).read_bytes().count(b"\n") if Path(path).exists() else 0


class Found(NamedTuple):
    """A writer's appends: those acknowledged that are missing, those there twice, those there unacknowledged."""

    lost: set[int]
    doubled: set[int]
    ahead: set[int]


def compare(store, name, noted):
    """The log against what a writer was told."""
    own = store.state_at(name)["log"]
    times = Counter([*own, *(turn for who, turn in store.state_at("shared")["log"] if who == name)])
    return Found(
        set(range(noted)) - set(times),
        {turn for turn, found in times.items() if found > 1},
        {turn for turn in times if turn >= noted},
    )


class KilledFile:
    """One file, its two writers, and what their deaths did to it. `kinds`: how they died, without repetition."""

    def __init__(self, folder, rng, weakness=None):
        folder.mkdir()
        self.path = str(folder / "runs.db")
        self.kills = self.unacknowledged = 0
        self.kinds, self.lost, self.doubled, self.wrong = set(), set(), set(), []
        self._folder, self._rng, self._weakness = folder, rng, weakness
        self._durability = {name: rng.choice(("full", "normal")) for name in NAMES}
        self._workers = {}
        with es.open(self.path) as store:
            for trace_id in ("shared", *NAMES):
                store.start({"log": []}, id=trace_id)

    def noted_path(self, name):
        """Where a writer notes what it is told."""
        return self._folder / f"{name}.noted"

    @property
    def noted(self):
        """How many appends were acknowledged."""
        return sum(count_noted(self.noted_path(name)) for name in NAMES)

    def run(self, kills, tick=lambda n: None):
        """Kill so many times, and look after each; then at the whole. The failures in words."""
        try:
            while self.kills < kills:
                self._round(kills - self.kills, tick)
        except (AssertionError, EOFError, es.EventStoreError) as error:
            self.wrong.append(f"{type(error).__name__}: {error}")
        finally:
            for worker in self._workers.values():
                worker.__exit__()
        with es.open(self.path) as store:
            self._look(store, ())
            self.wrong += [str(problem) for problem in store.verify().problems]
            for trace_id in ("shared", *NAMES):
                seqs = [event.seq for event in store.events(trace_id)]
                if seqs != list(range(1, len(seqs) + 1)):
                    self.wrong.append(f"the seqs of {trace_id} are not dense")
        what = {"lost": self.lost, "doubled": self.doubled}
        return self.wrong + [f"{word}: {sorted(which)}" for word, which in what.items() if which]

    def _round(self, most, tick):
        born = [name for name in NAMES if name not in self._workers]
        for name in born:
            order = self.path, name, self._durability[name], self.noted_path(name), self._weakness
            self._workers[name] = Worker(write, *order)
        both_open = len(born) == 0 or self._rng.random() < 0.85
        if both_open:
            for name in born:
                self._workers[name].hear()
        time.sleep(self._rng.uniform(0, LONGEST_S if both_open else OPENING_S))
        victims = (
            NAMES if most > 1 and (not both_open or self._rng.random() < 0.4) else (self._rng.choice(born or NAMES),)
        )
        for name in victims:
            self._workers[name].process.kill()
        for name in victims:
            with self._workers.pop(name) as worker:
                worker.kill()
        self.kills += len(victims)
        tick(len(victims))
        with es.open(self.path) as store:
            self._look(store, victims, both_open)

    def _look(self, store, victims, both_open=True):
        for name in NAMES:
            alive = name in self._workers
            noted = count_noted(self.noted_path(name))  # before the log: a living writer goes on
            found = compare(store, name, noted)
            self.lost |= {f"{name} {turn}" for turn in found.lost}
            self.doubled |= {f"{name} {turn}" for turn in found.doubled}
            if name in victims:
                self.unacknowledged += bool(found.ahead)
                self.kinds.add((victims, both_open, self._durability[name], noted, bool(found.ahead)))
            if not alive and len(found.ahead) > 1 and self._weakness is None:
                self.wrong.append(f"{name} has appends in the log that it did not get to: {sorted(found.ahead)}")


def run(run):
    """Files of so many kills each; then both controls, until each has lost something."""
    kills = unacknowledged = noted = 0
    kinds, failures = set(), []
    for number in range(-(-run.size // KILLS_A_FILE)):
        folder = run.folder / f"file-{number}"
        file = KilledFile(folder, run.rng("file", number))
        wrong = file.run(min(KILLS_A_FILE, run.size - kills), run.tick)
        failures += [f"seed {run.seed}, file {number}: {text}" for text in wrong]
        kills, unacknowledged, noted = kills + file.kills, unacknowledged + file.unacknowledged, noted + file.noted
        kinds |= file.kinds
        shutil.rmtree(folder)
    controls = [
        control(run, "fresh ids", "a fresh append_id at each retry: appends doubled", lambda file: file.doubled),
        control(run, "early", "acknowledged before it is committed: appends lost", lambda file: file.lost),
    ]
    notes = f"{unacknowledged} kills left a commit that its writer was not told of; {noted:,} appends acknowledged"
    return [
        Result(
            "kill -9 of two writers",
            kills,
            len(kinds),
            "acknowledged appends lost or doubled",
            failures,
            controls,
            notes,
        )
    ]


def control(run, weakness, what, counted):
    """The same with writers that are weak."""
    kills = lost = 0
    wanted = max(KILLS_A_FILE, run.size // 20)
    while kills < wanted or (not lost and kills < MOST_CONTROL_KILLS):
        folder = run.folder / f"{weakness}-{kills}"
        file = KilledFile(folder, run.rng(weakness, kills), weakness)
        file.run(KILLS_A_FILE)
        kills, lost = kills + file.kills, lost + len(counted(file))
        shutil.rmtree(folder)
    return Control(what, lost, kills)


CAMPAIGNS = [Campaign("killed-writers", "SIGKILL of two processes that write to one file", 1000, 100, run)]
