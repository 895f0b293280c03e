"""Tampering: rows changed through plain SQL, the guards taken off before and put back after.

Each edit is one that a person could make with any SQLite tool: bodies, times, ids, swaps, replays, forks hung
elsewhere, roots, tombstones, checkpoints, bases with their checksums put right. `verify` has to name the trace and,
where the edit has a place, the first seq that does not hold. Two edits leave a log that is as sound as one that was
written so: its end cut off, and everything after an edit computed again. A head that is kept elsewhere tells of both;
of the second, a key that the editor does not have, too.
"""

from __future__ import annotations

import warnings
from collections import Counter
from hashlib import blake2b

import apsw

import eventstore as es

from . import sample
from .campaign import Campaign, Control, Result
from .edits import EDITS, Bench, cut_tail, recompute
from .rot import integrity_check

KEY = "a key that the editor of the file does not have"
EDITS_A_FILE, LIES_A_FILE = 100, 20
FEWEST_LIES = 20  # of each: the file alone tells of every third all the same


def verified(path, *, heads=None, **options):
    """The problems of a file."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", es.BaseCorrupted)
        with es.open(path, read_only=True, **options) as store:
            return store.verify(heads=heads).problems if heads else store.verify().problems


def names(problems, traces, seq):
    """Whether the problems name that trace, and that seq as its first."""
    traces = (traces,) if isinstance(traces, str) else traces
    found = [problem for problem in problems if problem.trace_id in traces]
    return bool(found) and (seq is None or min(problem.seq for problem in found if problem.seq or seq == 0) == seq)


def contents(path):
    """All that the tables hold, to tell whether an edit changed anything."""
    connection = apsw.Connection(str(path))
    tables = [row[0] for row in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY 1")]
    told = repr([connection.execute(f'SELECT * FROM "{table}"').fetchall() for table in tables])
    connection.close()
    return blake2b(told.encode(), digest_size=16).digest()


def edits(run, size):
    """Edits that the file itself tells of."""
    sound, path = run.folder / "sound.db", run.folder / "edited.db"
    failures, kinds, distinct, unseen = [], Counter(), set(), 0
    for number in range(size):
        if number % EDITS_A_FILE == 0:
            sample.make(sound, f"{run.seed}, {number // EDITS_A_FILE}")
        edit = EDITS[number % len(EDITS)]
        with Bench(sound, path) as bench:
            traces, seq = edit(bench, run.rng("edit", number))
        distinct.add(contents(path))
        unseen += integrity_check(path)
        problems = verified(path)
        if not names(problems, traces, seq):
            told = "; ".join(map(str, problems[:3])) or "nothing"
            failures.append(f"seed {run.seed}, edit {number} ({edit.__name__}): not {traces} at {seq} but {told}")
        kinds[edit.__name__] += 1
        run.tick(1)
    control = Control("PRAGMA integrity_check alone", unseen, size)
    what = "edits by SQL, named by trace and first bad seq"
    return Result(what, size, len(distinct), "edits not named", failures, [control], f"{len(kinds)} kinds")


def lies(run, size, what, lie, *, keyed):
    """Edits after which the log is as sound as before: told by heads kept elsewhere or, `keyed`, by a key."""
    folder = run.folder / "lies"
    folder.mkdir(exist_ok=True)
    sound, path = folder / "sound.db", folder / "edited.db"
    failures, unseen, distinct = [], 0, set()
    for number in range(size):
        if number % LIES_A_FILE == 0:
            sample.make(sound, f"{run.seed}, {number // LIES_A_FILE}")
            with es.open(sound, read_only=True) as store:
                heads = store.verify().heads
            if keyed:
                sample.make(folder / "keyed.db", f"{run.seed}, {number // LIES_A_FILE}", chain_key=KEY)
        with Bench(sound, path) as bench:
            victim = lie(bench, run.rng(what, number))
        distinct.add(contents(path))
        unseen += not verified(path)
        if keyed:
            with Bench(folder / "keyed.db", path) as bench:
                victim = lie(bench, run.rng(what, number))
        problems = verified(path, chain_key=KEY) if keyed else verified(path, heads=heads)
        if not names(problems, victim, None):
            told = "; ".join(map(str, problems[:3])) or "nothing"
            failures.append(f"seed {run.seed}, {what}, {number}: not {victim} but {told}")
        run.tick(1)
    with_, without = ("in a chain with a key", "no key") if keyed else ("a head kept elsewhere", "no head kept")
    control = Control(f"{what}, {without}", unseen, size)
    return Result(f"{what}, {with_}", size, len(distinct), "edits not named", failures, [control])


def run(run):
    """All of them; a fifth of the whole campaign are lies that the file alone cannot tell."""
    few = max(FEWEST_LIES, run.size // 15)
    return [
        edits(run, max(len(EDITS), run.size - 3 * few)),
        lies(run, few, "the end of a log cut off", cut_tail, keyed=False),
        lies(run, few, "digests computed again", recompute, keyed=False),
        lies(run, few, "digests computed again", recompute, keyed=True),
    ]


CAMPAIGNS = [Campaign("tampering", "rows edited by SQL, guards off", 2000, 130, run)]
