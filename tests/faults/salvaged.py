"""Damage a file at random, salvage it, and compare: what was sound is in the new file, as it was, and that verifies.

What has to be there is reckoned on the sound file: of each trace its rows up to the first one that stands on a damaged
page, or that was changed; of a fork only if its parent is kept up to the fork. The control copies row by row what
SQLite still reads, until it refuses.
"""

from __future__ import annotations

import shutil
from contextlib import suppress
from typing import Any, NamedTuple

import apsw

import eventstore as es
from eventstore.database import schema_scripts
from eventstore.salvage_pages import Pages
from eventstore.salvage_rows import ROOTS
from eventstore.salvage_trees import Trees, records
from eventstore.salvaging import salvage

from . import sample
from .campaign import Campaign, Control, Result

PAGE = 4096
HOW = ("a page", "a page", "pages", "zeros", "flips", "rows", "rows beside", "a page of the log")
ROWS = (
    "SELECT t.trace_id, l.first_seq, l.n, l.append_id, l.at_us, l.digest, CAST(l.body AS BLOB)"
    " FROM log l JOIN trace t ON t.id = l.trace ORDER BY l.trace, l.first_seq"
)
TRACES = "SELECT id, trace_id, name, parent, fork_seq, created_us, status FROM trace"
CHECKPOINTS = (
    "SELECT t.trace_id, c.seq, c.checkpoint_id, c.node, c.graph_hash, c.triggers, c.metadata, c.created_us"
    " FROM checkpoint c JOIN trace t ON t.id = c.trace"
)
BEGINNINGS = "SELECT t.trace_id, r.seq FROM root r JOIN trace t ON t.id = r.trace"
CHANGES = (
    "UPDATE log SET at_us = at_us + 1 WHERE id = ?",
    "UPDATE log SET body = CAST(body AS TEXT) || ' ' WHERE id = ?",
    "UPDATE log SET digest = randomblob(16) WHERE id = ?",
    "UPDATE log SET append_id = 'another' WHERE id = ?",
    "DELETE FROM log WHERE id = ?",
)
BESIDE = ("checkpoint", "lease", "graph", "tombstone", "scope", "scope_trace", "scope_checkpoint", "trace")
PROVEN = ("name", "parent", "fork_seq", "created_us", "status")
"""Of a trace's row, what its first event says too."""
ODD = (None, 0, -1, 1, 2**62, "", "x", "[]", "[[1, 2]]", "{}", b"", b"x" * 16)
COPIED = ("trace", "log", "root", "tombstone", "checkpoint", "lease", "graph")


class Trace(NamedTuple):
    """A trace of the sound file. `rows`: each as it is stored; `at`: the pages that each stands on."""

    trace_id: str
    parent: str | None
    fork_seq: int
    told: tuple[Any, ...]
    rows: list[tuple[Any, ...]]
    at: list[set[int]]
    begins_at: set[int]
    checkpoints: set[tuple[Any, ...]]


class Watched(Pages):
    """Pages that remember which of them were looked at."""

    looked: set[int]

    def page(self, number):
        """One, remembered."""
        if hasattr(self, "looked"):
            self.looked.add(number)
        return super().page(number)


def reckoned(path):
    """Every trace of a sound file, and where its rows stand; and the pages of the log."""
    with es.open(path):
        pass  # the newest format, nothing in the write-ahead log
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    roots = dict(connection.execute(ROOTS))
    names = {row[0]: row for row in connection.execute(TRACES)}
    marks = list(connection.execute(CHECKPOINTS))
    stored: dict[str, list[Any]] = {row[1]: [] for row in names.values()}
    for trace_id, *row in connection.execute(ROWS):
        stored[trace_id].append(tuple(row))
    connection.close()
    at: dict[tuple[int, int], set[int]] = {}
    begins: dict[int, set[int]] = {}
    with Watched(str(path)) as pages:
        trees = Trees(pages)
        trees.claim(sorted(set(roots.values())))
        for table, column in (("log", 1), ("root", 0)):
            for number in trees.of[roots[table]]:
                pages.looked = {number}
                for record in records(pages, number):
                    values = record[1]
                    place = at if table == "log" else begins
                    key = (values[column], values[2]) if table == "log" else values[column]
                    place[key] = pages.looked | {number}
                    pages.looked = {number}
        log_pages = trees.of[roots["log"]]
    traces = {}
    for number, trace_id, name, parent, fork_seq, created_us, status in names.values():
        rows = stored[trace_id]
        traces[trace_id] = Trace(
            trace_id,
            None if parent is None else names[parent][1],
            fork_seq,
            (name, fork_seq, created_us, status),
            rows,
            [at[number, row[0]] for row in rows],
            begins.get(number, set()),
            {mark for mark in marks if mark[0] == trace_id},
        )
    return traces, log_pages


def sound_to(traces, trace_id, damaged, changed):
    """The last seq of the trace that no damage reaches; 0 where there is none."""
    trace = traces[trace_id]
    if trace.begins_at & damaged:
        return 0
    if trace.parent is not None and sound_to(traces, trace.parent, damaged, changed) < trace.fork_seq:
        return 0
    last = trace.rows[0][0] - 1 if trace.begins_at and trace.rows else 0
    for row, pages in zip(trace.rows, trace.at, strict=True):
        if pages & damaged or (trace_id, row[0]) in changed:
            break
        last = row[0] + row[1] - 1
    return last


def damage(rng, how, source, target, traces, log_pages):
    """Make a damaged copy; the pages that are, and the rows that were changed as (trace, first seq)."""
    shutil.copy(source, target)
    if how.startswith("rows"):
        return set(), change_rows(rng, target) if how == "rows" else change_beside(rng, target)
    data = bytearray(source.read_bytes())
    count = len(data) // PAGE
    if how == "flips":
        places = [rng.randrange(len(data)) for _ in range(rng.randrange(1, 8))]
        for place in places:
            data[place] ^= 1 << rng.randrange(8)
        damaged = {place // PAGE + 1 for place in places}
    else:
        some = rng.randrange(2, 7) if how == "pages" else 1
        damaged = {rng.choice(log_pages) if "log" in how else rng.randrange(1, count + 1) for _ in range(some)}
        for number in damaged:
            data[(number - 1) * PAGE : number * PAGE] = bytes(PAGE) if how == "zeros" else rng.randbytes(PAGE)
    target.write_bytes(data)
    return damaged, set()


def change_rows(rng, path):
    """Change one to three rows of the log behind its guards."""
    connection = apsw.Connection(str(path))
    for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'trigger'").fetchall():
        connection.execute(f"DROP TRIGGER {name}")
    connection.pragma("ignore_check_constraints", True)
    rows = connection.execute(
        "SELECT t.trace_id, l.first_seq, l.id FROM log l JOIN trace t ON t.id = l.trace"
    ).fetchall()
    changed = rng.sample(rows, rng.randrange(1, 4))
    for _, _, number in changed:
        connection.execute(rng.choice(CHANGES), (number,))
    connection.close()
    return {(trace_id, first_seq) for trace_id, first_seq, _ in changed}


def change_beside(rng, path):
    """Change some values beside the log behind its guards, as the types of their columns allow; no row of the log."""
    connection = apsw.Connection(str(path))
    for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'trigger'").fetchall():
        connection.execute(f"DROP TRIGGER {name}")
    connection.pragma("ignore_check_constraints", True)
    for _ in range(rng.randrange(1, 6)):
        table = rng.choice(BESIDE)
        columns = [row[1] for row in connection.execute(f"PRAGMA table_info({table})") if row[1] != "seal"]
        column = rng.choice(PROVEN if table == "trace" else columns)
        others = [value for (value,) in connection.execute(f"SELECT {column} FROM {table}")]
        count = len(others)
        value = rng.choice([*others, *ODD])
        where = "AND id NOT IN (SELECT trace FROM root)" if table == "trace" else ""
        key = ", ".join(row[1] for row in connection.execute(f"PRAGMA table_info({table})") if row[5])
        row = f"SELECT {key} FROM {table} ORDER BY {key} LIMIT 1 OFFSET {rng.randrange(count)}"
        with suppress(apsw.ConstraintError, apsw.MismatchError):
            connection.execute(f"UPDATE {table} SET {column} = ? WHERE ({key}) IN ({row}) {where}", (value,))
    connection.close()
    return set()


def faults(traces, wanted, changed, path, report):
    """What the new file lacks, or has too much: a list of words."""
    found: list[str] = [f"it does not verify: {problem}" for problem in report.problems]
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    kept: dict[str, list[Any]] = {}
    for trace_id, *row in connection.execute(ROWS):
        kept.setdefault(trace_id, []).append(tuple(row))
    told = {row[1]: row[2:3] + row[4:] for row in connection.execute(TRACES)}
    marks = list(connection.execute(CHECKPOINTS))
    roots = dict(connection.execute(BEGINNINGS))
    connection.close()
    for trace_id, rows in kept.items():
        if trace_id not in traces or rows != traces[trace_id].rows[: len(rows)]:
            found.append(f"{trace_id} holds rows that were never written")
    cut = {trace.trace_id for trace in report.cut}
    for trace_id, last in wanted.items():
        rows = kept.get(trace_id, [])
        is_there = rows[-1][0] + rows[-1][1] - 1 if rows else roots.get(trace_id, 0)
        trace = traces[trace_id]
        if is_there < last:
            found.append(f"{trace_id} was sound up to {last} and is kept up to {is_there}")
        is_whole = rows == trace.rows
        is_alike = told.get(trace_id, trace.told) == trace.told
        if not is_alike and trace.begins_at and report.beside:  # when a trimmed trace was made, its row alone says
            is_alike = told[trace_id][:2] == trace.told[:2]
        if is_whole and not is_alike:
            found.append(f"{trace_id} is listed as {told[trace_id]}, and was {trace.told}")
        is_told = trace_id in cut or report.damaged_pages or (trace_id, trace.rows[-1][0]) in changed
        if not is_whole and not is_told:  # of a last row that was deleted with all that points to it nothing is left
            found.append(f"{trace_id} is not whole, and the report does not say so")
        if not report.beside and {mark for mark in marks if mark[0] == trace_id} != {
            mark for mark in trace.checkpoints if not cut or mark[1] <= is_there
        }:
            found.append(f"{trace_id} has other checkpoints, and the report does not say so")
    return found


def copied(source, target):
    """The control: table by table, row by row, until SQLite refuses; the traces that are whole then, by head."""
    new = apsw.Connection(str(target))
    for script in schema_scripts():
        new.execute(script)
    for (name,) in new.execute("SELECT name FROM sqlite_schema WHERE type = 'trigger'").fetchall():
        new.execute(f"DROP TRIGGER {name}")
    try:
        old = apsw.Connection(str(source), flags=apsw.SQLITE_OPEN_READONLY)
        for table in COPIED:
            for row in old.execute(f"SELECT * FROM {table}"):
                new.execute(f"INSERT INTO {table} VALUES ({', '.join('?' * len(row))})", row)
    except (apsw.Error, UnicodeDecodeError):
        pass  # so far it came
    found = {}
    for trace_id, *row in new.execute(ROWS):
        found[trace_id] = row[0] + row[1] - 1
    new.close()
    return found


def run(run):
    """The campaign."""
    rng = run.rng("sample")
    source, damaged_file, new = (run.folder / f"{name}.db" for name in ("sound", "damaged", "new"))
    sample.make(source, run.seed)
    traces, log_pages = reckoned(source)
    failures: list[str] = []
    seen, tried, sound, kept_cut, lost_by_copy = set(), 0, 0, 0, 0
    for number in range(run.size):
        how = HOW[number % len(HOW)]
        rng = run.rng("case", number)
        damaged, changed = damage(rng, how, source, damaged_file, traces, log_pages)
        wanted = {trace_id: sound_to(traces, trace_id, damaged, changed) for trace_id in traces}
        before = damaged_file.read_bytes()
        seen.add(hash(before))
        case = f"seed {run.seed} case {number} ({how} {sorted(damaged) or sorted(changed)})"
        try:
            report = salvage(damaged_file, new)
        except es.EventStoreError as error:
            failures.append(f"{case}: {type(error).__name__}: {error}")
            report = None
        if report is not None:
            failures += [f"{case}: {words}" for words in faults(traces, wanted, changed, new, report)]
            kept_cut += sum(not trace.is_lost for trace in report.cut)
            new.unlink()
        if damaged_file.read_bytes() != before:
            failures.append(f"{case}: the damaged file was changed")
        by_copy = copied(damaged_file, new)
        lost_by_copy += sum(by_copy.get(trace_id, 0) < last for trace_id, last in wanted.items())
        sound += sum(last > 0 for last in wanted.values())
        tried += 1
        for left in run.folder.glob("new.db*"):
            left.unlink()
        run.tick(1)
    for left in run.folder.glob("*.db*"):
        left.unlink()
    control = Control("copied row by row until SQLite refuses: sound beginnings of traces", lost_by_copy, sound)
    notes = f"{sound} sound beginnings of traces, {kept_cut} traces cut"
    return [Result("salvage of damaged files", tried, len(seen), "sound beginnings", failures, [control], notes)]


CAMPAIGNS = [Campaign("salvaged", "damaged files, and what salvage keeps of them", 200, 8, run)]
