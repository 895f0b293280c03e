"""A store's files are taken away behind its back: `detached` says so, where SQLite's own check finds nothing wrong.

Each trial is a process that fills a store, and then does one thing that it should not: opens the live file through the
standard library, reads it by hand, removes, moves, replaces or cuts the WAL, its index or the file. Some go on
appending. Then `detached` and PRAGMA integrity_check are asked, the process is killed, and the file is opened to see
what is left of what was acknowledged. Things that are well done (checkpoints, other processes, a second store) must
not be taken for damage.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import apsw

import eventstore as es
from eventstore.attached import detached

from .campaign import Campaign, Control, Result
from .processes import SAFETY_S, SERVER, Worker

WELL_DONE = 3  # of so many trials, one


def read_through_the_standard_library(path):
    """What the documentation warns of."""
    connection = sqlite3.connect(path)
    connection.execute("SELECT count(*) FROM log").fetchone()
    connection.close()


def read_by_hand(path):
    """A copy is as good as a look."""
    Path(path).read_bytes()


def replace(path):
    """By a copy, as tools do that write a new file and rename it."""
    copy = Path(f"{path}.new")
    shutil.copy(path, copy)
    copy.replace(path)


def move_the_folder(path):
    """All at once, and a new one is made in its place."""
    folder = Path(path).parent
    folder.rename(f"{folder}-moved")
    folder.mkdir()


ILL_DONE = {
    "the standard library's sqlite3": read_through_the_standard_library,
    "WAL removed": lambda path: Path(f"{path}-wal").unlink(),
    "WAL moved": lambda path: Path(f"{path}-wal").rename(f"{path}-old"),
    "WAL replaced": lambda path: replace(f"{path}-wal"),
    "WAL cut": lambda path: os.truncate(f"{path}-wal", 5000),
    "index removed": lambda path: Path(f"{path}-shm").unlink(),
    "file removed": lambda path: Path(path).unlink(),
    "file moved": lambda path: Path(path).rename(f"{path}.old"),
    "file replaced": replace,
    "folder moved": move_the_folder,
}
if sys.platform == "linux":
    ILL_DONE |= {
        "file read by hand": read_by_hand,
        "index read by hand": lambda path: read_by_hand(f"{path}-shm"),
    }


def empty_the_wal(path):
    """As erasing a trace does."""
    connection = apsw.Connection(path)
    connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
    connection.close()


def back_up(path):
    """A copy made by SQLite."""
    connection, copy = apsw.Connection(path), apsw.Connection(f"{path}.copy")
    with copy.backup("main", connection, "main") as backup:
        while not backup.done:
            backup.step(100)
    connection.close()
    copy.close()


FINE = {
    "nothing": lambda path: None,
    "a second store": lambda path: es.open(path).close(),
    "a connection of the same library": lambda path: apsw.Connection(path).close(),
    "a checkpoint that empties the WAL": empty_the_wal,
    "its lock file read by hand": lambda path: read_by_hand(f"{path}-lock"),
    "a backup through the store's own library": back_up,
}


class Trial(NamedTuple):
    """`what`: a key of ILL_DONE or FINE. `before`, `after`: appends; `company`: another process has it open, too."""

    what: str
    durability: str
    before: int
    after: int
    company: bool
    reads: bool

    @classmethod
    def of(cls, rng, what):
        """One of many."""
        after = rng.choice((0, 0, 3, 20))
        return cls(
            what, rng.choice(("full", "normal")), rng.randint(5, 60), after, rng.random() < 0.4, rng.random() < 0.5
        )


class Told(NamedTuple):
    """What a process found. `accused`: what `detached` said before anything was done."""

    accused: str | None
    named: str | None
    integrity: str
    acknowledged: int


def act(tell, path, trial, go):
    """One process of a trial."""
    store = es.open(path, durability=trial.durability)
    trace = store.start({"n": 0}, id="t1")
    for number in range(trial.before):
        trace.append([es.StateDelta.put("n", number)])
    tell("filled")
    go.wait()
    if trial.reads:
        store.state_at("t1")
    writer = store._database.writer
    accused = detached(path, writer)
    {**ILL_DONE, **FINE}[trial.what](path)
    with suppress(es.StoreHalted):
        for number in range(trial.after):
            trace.append([es.StateDelta.put("n", number)])
    named = detached(path, writer)
    try:
        integrity = writer.pragma("integrity_check")
    except apsw.Error as error:
        integrity = str(error)
    tell(Told(accused, named, integrity, trace.version))


def stay(tell, path):
    """Another process that has the file open, until its end."""
    store = es.open(path)
    tell(store.state_at("t1"))
    time.sleep(SAFETY_S)


def left_over(path):
    """The version that the file is at after all that; 0 where there is none."""
    try:
        with es.open(path, create=False) as store:
            return store.open_trace("t1").version
    except es.EventStoreError:
        return 0


def attempt(folder, trial):
    """Carry out a trial: what was told, and how many acknowledged appends are gone."""
    folder.mkdir()
    path, go = str(folder / "runs.db"), SERVER.Event()
    with Worker(act, path, trial, go) as worker:
        assert worker.hear() == "filled"
        if trial.company:
            with Worker(stay, path) as company:
                company.hear()
                go.set()
                told = worker.hear()
        else:
            go.set()
            told = worker.hear()
    gone = told.acknowledged - left_over(path)
    for left in folder.parent.glob(f"{folder.name}*"):
        shutil.rmtree(left)
    return told, gone


def run(run):
    """Each thing in turn; every third trial is of something that is fine."""
    tried = seen = costly = fine = false_alarms = 0
    failures, kinds = [], set()
    for number in range(run.size):
        rng = run.rng("trial", number)
        is_fine = number % WELL_DONE == WELL_DONE - 1
        trials = list(FINE if is_fine else ILL_DONE)
        trial = Trial.of(rng, trials[(number // WELL_DONE if is_fine else number - number // WELL_DONE) % len(trials)])
        told, gone = attempt(run.folder / f"trial-{number}", trial)
        where = f"seed {run.seed}, trial {number}, {trial}"
        if told.accused or (is_fine and told.named):
            false_alarms += 1
            failures.append(f"{where}: a false alarm: {told.accused or told.named}")
        if is_fine:
            fine += 1
            if gone:
                failures.append(f"{where}: {gone} appends are gone")
        else:
            tried += 1
            kinds.add((trial.what, trial.durability, trial.after > 0, trial.company, trial.reads))
            costly += gone > 0
            seen += told.integrity != "ok"
            if told.named is None:
                failures.append(f"{where}: not noticed")
        run.tick(1)
    notes = f"{costly} of them cost acknowledged appends; {fine} sound ones, {false_alarms} false alarms"
    control = Control("PRAGMA integrity_check alone: not noticed", tried - seen, tried)
    return [
        Result(
            "files taken from an open store",
            tried,
            len(kinds),
            "not noticed, or named where all was well",
            failures,
            [control],
            notes,
        )
    ]


CAMPAIGNS = [Campaign("detached", "the files of an open store are taken away behind its back", 150, 36, run)]
