"""The race of SQLite 3.7.0 to 3.51.2: a checkpoint has read the WAL's header, and a commit begins the WAL anew.

The checkpoint then marks frames as copied that came after its look, and the next reset loses them. The moment is a
fraction of a microsecond long, so this stops the time: one process checkpoints without a pause; another fills the WAL,
waits until all of it is copied, stops the first one (SIGSTOP) wherever it is, commits, which begins the WAL anew, and
lets it go on. Every hundredth time or so it was at that very place. Neither does what a program may not do.

Two plain connections, without the engine, take turns in writing, and both checkpoint. The control is the standard
library's SQLite, on files of its own; where that is too new to have the race there is no control, and so no line in the
table.
"""

from __future__ import annotations

import os
import signal
import sqlite3
import time
from contextlib import closing, suppress

import apsw

from .campaign import Campaign, Control, Result
from .processes import Worker

VERSIONS = {"apsw": apsw.sqlite_lib_version(), "the standard library": sqlite3.sqlite_version}
RACE = (3, 7, 0), (3, 51, 3)
REPAIRED_BRANCHES = (3, 44, 6), (3, 50, 7)
ROUNDS_A_FILE = 50
MOST_CONTROL_ROUNDS = 20_000
LONGEST_COPY_S = 10
ROWS = 60
TEXT = "x" * 3000
COUNT = "SELECT count(*) FROM log NOT INDEXED"


class Uncopied(Exception):
    """A WAL that is never copied whole. `corrupt`: more of it counts as copied than there is."""

    def __init__(self, frames, copied, busy):
        super().__init__(f"the WAL is never copied whole: frames {frames}, copied {copied}, busy {busy}")
        self.corrupt = copied > frames


def has_the_race(version):
    """Whether an SQLite of that version has it."""
    found = tuple(map(int, version.split(".")))
    return RACE[0] <= found < RACE[1] and not any(
        found[:2] == repaired[:2] and found >= repaired for repaired in REPAIRED_BRANCHES
    )


def connect(library, path):
    """A connection that checkpoints when it is told to."""
    if library == "apsw":
        connection = apsw.Connection(path)
        connection.set_busy_timeout(10_000)
    else:
        connection = sqlite3.connect(path, timeout=10, isolation_level=None)
    for pragma in ("journal_mode = WAL", "synchronous = OFF", "wal_autocheckpoint = 0"):
        connection.execute(f"PRAGMA {pragma}").fetchall()
    return closing(connection)


def checkpoint(connection):
    """Copy what can be copied: whether another one was in the way, how many frames there are, how many are copied."""
    return connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()


def play(tell, library, path, rounds, rng):
    """Rounds on a new file; tells how many were played, what is wrong with the file, and why it was given up."""
    with connect(library, path) as connection:
        connection.execute("CREATE TABLE log (number, text)")
        connection.execute("CREATE INDEX log_number ON log (number)")
    other = os.fork()
    if other == 0:
        checkpoint_for_ever(library, path, os.getppid())
    played = rows = 0
    wrong = given_up = None
    try:
        with connect(library, path) as one, connect(library, path) as two:
            for played in range(1, rounds + 1):  # noqa: B007
                rows += play_round(one, two, other, rows, rng)
                one, two = two, one
            found = one.execute(COUNT).fetchone()[0]
            problem = one.execute("PRAGMA integrity_check(1)").fetchone()[0]
        if found != rows or problem != "ok":
            wrong = f"{rows - found} of {rows} rows are gone" if found != rows else problem
    except Uncopied as uncopied:
        wrong, given_up = (str(uncopied), None) if uncopied.corrupt else (None, str(uncopied))
    except (apsw.CorruptError, sqlite3.DatabaseError) as error:
        wrong = str(error)
    finally:
        os.kill(other, signal.SIGKILL)
        os.waitpid(other, 0)
    tell((played, wrong, given_up))


def checkpoint_for_ever(library, path, parent):
    """The one who is stopped."""
    with suppress(sqlite3.DatabaseError, apsw.CorruptError), connect(library, path) as connection:
        connection.execute(COUNT).fetchall()
        while os.getppid() == parent:
            checkpoint(connection)
    os._exit(0)


def play_round(one, two, other, number, rng):
    """Fill the WAL, wait until it is copied, begin it anew in the midst of a checkpoint, go on; how many rows."""

    def commit(connection, rows):
        connection.execute("BEGIN IMMEDIATE")
        for row in range(rows):
            connection.execute("INSERT INTO log VALUES (?, ?)", (number + row, TEXT))
        connection.execute("COMMIT")

    commit(one, ROWS)
    copy_all(one)
    until = time.perf_counter() + rng.uniform(0, 0.00005)
    while time.perf_counter() < until:
        pass
    os.kill(other, signal.SIGSTOP)
    os.waitpid(other, os.WUNTRACED)
    commit(two, 1)
    os.kill(other, signal.SIGCONT)
    time.sleep(0.00005)
    for _ in range(ROWS):
        commit(two, 1)
    copy_all(two)
    commit(one, 1)
    return 2 * ROWS + 2


def copy_all(connection):
    """Checkpoint until nothing is left to copy; the other one is in the way now and then. Raises Uncopied."""
    until = time.monotonic() + LONGEST_COPY_S
    while True:
        busy, frames, copied = checkpoint(connection)
        if not busy and frames == copied:
            return
        if time.monotonic() > until:
            raise Uncopied(frames, copied, busy)


def play_files(run, library, rounds, tick, is_control=False):
    """Files one after the other; rounds played, files that are wrong in words.

    A control plays until a file is wrong, and a file that it gives up counts for nothing.
    """
    played, wrong = 0, []
    while played < rounds and not (is_control and wrong):
        path = run.folder / f"{played}.db"
        wanted = min(ROUNDS_A_FILE, rounds - played)
        with Worker(play, library, str(path), wanted, run.rng(library, played)) as worker:
            done, problem, given_up = worker.hear()
        problem = problem or (None if is_control else given_up)
        if problem is not None:
            wrong.append(f"{library} {VERSIONS[library]}, seed {run.seed}, file after {played} rounds: {problem}")
        done = done if problem is None else wanted
        played += done
        tick(done)
        for file in run.folder.glob(f"{path.name}*"):
            file.unlink()
    return played, wrong


def run(run):
    """This SQLite; then the old one, until it fails. No line where it does not: a race may not come about at all."""
    if not has_the_race(sqlite3.sqlite_version):
        return []
    played, wrong = play_files(run, "apsw", run.size, run.tick)
    tried, lost = play_files(run, "the standard library", MOST_CONTROL_ROUNDS, lambda n: None, is_control=True)
    if not (lost or wrong):
        return []
    control = Control(f"SQLite {sqlite3.sqlite_version}: corrupt files", len(lost), -(-tried // ROUNDS_A_FILE))
    files = -(-played // ROUNDS_A_FILE)
    notes = f"{files} files; the old one was corrupt within {tried} rounds"
    what = f"WAL reset in a checkpoint: plain connections of SQLite {VERSIONS['apsw']}, not the engine"
    return [Result(what, played, played, "corrupt files", wrong, [control], notes)]


CAMPAIGNS = [Campaign("wal-reset", "two writers and two checkpointers race for the WAL", 1000, 0, run)]
