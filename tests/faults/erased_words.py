"""What is erased is gone: a trace of words that nobody else has is erased, and the files are searched for them.

The words stand in keys, values, names of nodes, notes, prompts, append ids, in the ids and metadata of a thread of
LangGraph and in bases; what is searched is the file and all that SQLite and the store keep beside it, free pages
included, once the trace is erased and says that nothing is left, and again at the end. A reader that holds a snapshot
keeps the words in the file, and the erasure says so; when it lets go, the next prune has to rewrite what is due. What
stays in any case is the tombstone: the trace's id, and who erased it.

Beside it, what is derived is derived: all bases are dropped after a trim, and every state is read again.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import apsw

import eventstore as es
from eventstore.integrations.langgraph import EventStoreSaver

from .campaign import Campaign, Control, Result
from .sample import checkpoint_of, metadata_of

WORD_CHARS = 20
HALF = WORD_CHARS // 2
_hex_runs = re.compile(rb"[0-9a-f]{%d,}" % HALF).findall
_is_hex = re.compile(rb"[0-9a-f]{%d}" % HALF).fullmatch


class Folds:
    """Bases of both kinds, often."""

    def __init__(self, rng):
        self.rng = rng

    def decide(self, now):
        return es.FoldDecision(self.rng.choice(["link", "whole"]), "chance") if self.rng.random() < 0.3 else None


class Words:
    """Words that are told apart from all others; both halves are looked for, since a page may end within a word."""

    def __init__(self, rng):
        self.rng = rng
        self.made = []

    def __call__(self, count=1):
        found = [self.rng.randbytes(WORD_CHARS // 2).hex() for _ in range(count)]
        self.made += found
        return " ".join(found)

    def uuid(self):
        """As an id of LangGraph's, which stands in bodies as 16 bytes."""
        text = self.rng.randbytes(16).hex()
        name = f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
        self.made.append(name)
        return name

    def needles(self):
        """What to search for."""
        found = {part.encode() for word in self.made for part in (word[:HALF], word[-HALF:])}
        return found | {bytes.fromhex(word.replace("-", ""))[:8] for word in self.made if "-" in word}


def found_in(path, needles):
    """How many of them stand in the file or beside it."""
    found = set()
    for beside in Path(path).parent.glob(f"{Path(path).name}*"):
        # By another process: where a file is open in this one, closing it here would drop SQLite's locks.
        content = subprocess.run(["cat", beside], check=True, capture_output=True).stdout
        for run in _hex_runs(content):
            found.update(run[at : at + HALF] for at in range(len(run) - HALF + 1) if run[at : at + HALF] in needles)
        found.update(needle for needle in needles if not _is_hex(needle) and needle in content)
    return len(found)


def fill(trace, words, rng, steps):
    """Steps, notes, barriers and checkpoints made of these words."""
    for number in range(steps):
        trace.refresh()
        act = rng.randrange(6)
        if act == 0:
            trace.note(words(), {words(): words(rng.randrange(1, 200))})
        elif act == 1:
            trace.decide(trace.raise_barrier(words(), prompt=words(3)), es.Modify({words(): words()}, by=words()))
        elif act == 2:
            trace.append([es.StateDelta.put(words(), words(rng.randrange(1, 60)))], append_id=words())
            trace.checkpoint(words())
        else:
            with trace.step(words()) as step:
                step.append("log", words(rng.randrange(1, 30)))
                step.replace(f"key {number % 3}", {words(): [words(), number]})


def thread(saver, words, rng, thread_id):
    """A thread of LangGraph made of these words."""
    under = None
    for number in range(rng.randrange(2, 6)):
        name = words.uuid()
        place = {"thread_id": thread_id, "checkpoint_ns": ""}
        config = {"configurable": place | ({} if under is None else {"checkpoint_id": under})}
        values = {"messages": [words(4)] * (number + 1), words(): words(rng.randrange(1, 40))}
        metadata = metadata_of(number, words) | {"run_id": words()}
        saver.put(config, checkpoint_of(name, values, number), metadata, dict.fromkeys(values, number))
        saver.put_writes({"configurable": place | {"checkpoint_id": name}}, [("messages", words(2))], words())
        under = name


class Case:
    """A store in which one trace, its forks and one thread are made of secret words."""

    def __init__(self, path, rng):
        self.path, self.rng, self.secret, self.plain = path, rng, Words(rng), Words(rng)
        self.store = es.open(path, durability="normal", fold_policy=Folds(rng), busy_timeout_ms=100)
        store = self.store
        for trace_id, words in (("kept", self.plain), ("secret", self.secret), ("other", self.plain)):
            trace = store.start({"log": [], words(): words(3)}, id=trace_id, name=words())
            fill(trace, words, rng, rng.randrange(3, 25))
        if rng.random() < 0.5:
            fork = store.fork("secret", put={self.secret(): self.secret()}, name=self.secret(), id="secret-fork")
            fill(fork, self.secret, rng, 3)
        self.traces_needles = self.secret.needles()
        self.secret = Words(rng)
        self.saver = EventStoreSaver(store)
        self.thread_id = self.secret()
        thread(self.saver, self.secret, rng, self.thread_id)
        thread(self.saver, self.plain, rng, "public")
        fill(store.open_trace("kept"), self.plain, rng, 4)
        self.needles = self.secret.needles() | self.traces_needles

    def erase(self):
        """By the verbs; whether they say that nothing is left, and how many words of the trace are there all the same.

        Looked for before the thread is deleted, which finishes what another erasure did not.
        """
        is_finished = self.store.erase("secret", cascade=True, by="the campaign")[-1].wal_truncated
        left = found_in(self.path, self.traces_needles) if is_finished else 0
        self.saver.delete_thread(self.thread_id)
        return is_finished, left

    def prune(self):
        """The next one, which does what is still due."""
        self.store.apply(self.store.plan_retention(trace_ids=["kept"], drop_bases=True))

    def close(self):
        """The end."""
        self.saver.close()
        self.store.close()


def erase_and_search(run, size):
    """Traces and threads erased, and their words looked for."""
    failures, weak, held_back, words = [], 0, 0, 0
    for number in range(size):
        rng, folder = run.rng("words", number), run.folder / "words"
        folder.mkdir()
        case = Case(folder / "store.db", rng)
        words += len(case.needles)
        there = found_in(case.path, case.needles)
        assert there > 0.95 * len(case.needles), f"{there} of {len(case.needles)} words are there before"
        case.store._writer.quiet(
            lambda case=case: case.store._database.writer.execute("PRAGMA wal_checkpoint").fetchall()
        )
        shutil.copy(case.path, folder / "weak")
        weak += found_in(deleted_plainly(folder / "weak"), case.needles) > 0
        told, kept = "", 0
        if number % 3 == 0:
            with es.open(case.path, read_only=True) as other, other._database.reader() as snapshot:
                snapshot.execute("SELECT count(*) FROM log").fetchall()
                _, kept = case.erase()
                left = found_in(case.path, case.needles)
                held_back += left > 0
                if left and not due(case.store):
                    told = "words are left, and no rewrite is due"
            case.prune()
        else:
            is_finished, kept = case.erase()
            told = "" if is_finished else "nobody reads, and the erasure was not finished"
            case.prune()
        if kept:
            told = f"{kept} words are there after an erasure that says it is finished"
        found = found_in(case.path, case.needles)
        case.close()
        found += found_in(case.path, case.needles)
        if found or told:
            failures.append(f"seed {run.seed}, case {number}: {told or f'{found} words are found'}")
        with es.open(case.path) as store:
            if not store.verify().ok or store.open_trace("kept").name not in case.plain.made:
                failures.append(f"seed {run.seed}, case {number}: what was kept does not hold")
        shutil.rmtree(folder)
        run.tick(1)
    control = Control("DELETE of the same rows by SQL leaves words", weak, size)
    notes = f"{words} words; in {held_back} cases a reader held them for a while, and a rewrite was due"
    what = "erase, then search the file, WAL, -shm and free pages"
    return Result(what, size, size, "files in which words were found", failures, [control], notes)


def due(store):
    """Whether the store knows that words may be left."""
    with store._database.reader() as connection:
        return connection.execute("SELECT count(*) FROM rewrite_due").get > 0


def deleted_plainly(path):
    """What a person does who knows SQL: the rows of the trace and of its thread are deleted, guards off."""
    connection = apsw.Connection(str(path))
    for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'trigger'").fetchall():
        connection.execute(f"DROP TRIGGER {name}")
    ids = [row[0] for row in connection.execute("SELECT id FROM trace WHERE trace_id LIKE 'secret%'").fetchall()]
    for table in ("log", "base", "checkpoint", "barrier"):
        connection.executemany(f"DELETE FROM {table} WHERE trace = ?", [(row,) for row in ids])
    connection.executemany("DELETE FROM trace WHERE id = ?", [(row,) for row in reversed(ids)])
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    connection.close()
    return path


def drop_and_read_again(run, size):
    """All bases dropped after a trim: no state is another."""
    failures, weak, states = [], 0, 0
    for number in range(size):
        rng, path = run.rng("bases", number), run.folder / f"bases-{number}.db"
        with es.open(path, durability="normal", fold_policy=Folds(rng)) as store:
            words = Words(rng)
            trace = store.start({"log": []}, id="t1")
            fill(trace, words, rng, rng.randrange(8, 30))
            fork = store.fork("t1", id="fork")
            fill(fork, words, rng, 6)
            ends = boundaries(store, "t1")
            store.checkpoints.prune("t1", 0)
            before = trim_somewhere(store, rng, ends[1:-2])
            places = [("t1", seq) for seq in ends if seq >= before] + [
                ("fork", seq) for seq in boundaries(store, "fork")
            ]
            told = [repr(store.state_at(*place)) for place in places]
            store.drop_bases()
            again = [repr(store.state_at(*place)) for place in places]
        states += len(told)
        if told != again:
            failures.append(f"seed {run.seed}, bases {number}: a state is another without bases")
        connection = apsw.Connection(str(path))
        connection.execute("DROP TRIGGER root_no_delete; DELETE FROM root")
        connection.close()
        with es.open(path) as store:
            weak += repr(_state(store, "t1")) != told[places.index(("t1", ends[-1]))]
        for left in run.folder.glob(f"bases-{number}.db*"):
            left.unlink()
        run.tick(1)
    control = Control("the root deleted as well", weak, size)
    what = "drop all bases after a trim, read every state again"
    return Result(what, size, size, "files whose states differ", failures, [control], f"{states} states")


def trim_somewhere(store, rng, ends):
    """Trim t1 at one of these boundaries at which no barrier is open; gives it."""
    for before in rng.sample(ends, len(ends)):
        try:
            store.trim("t1", before=before, retry_window_s=0)
        except es.RetentionBlocked:
            continue
        return before
    raise AssertionError("there is no place to trim at")


def boundaries(store, trace_id):
    """Where commits end that can be read."""
    with store._database.reader() as connection:
        rows = connection.execute(
            "SELECT first_seq + n - 1 FROM log WHERE trace = (SELECT id FROM trace WHERE trace_id = ?) ORDER BY 1",
            (trace_id,),
        )
        return [row[0] for row in rows]


def _state(store, trace_id):
    try:
        return store.state_at(trace_id)
    except es.EventStoreError as error:
        return error


def run(run):
    """Four in five erase, one in five drops bases."""
    drops = max(2, run.size // 5)
    return [erase_and_search(run, run.size - drops), drop_and_read_again(run, drops)]


CAMPAIGNS = [Campaign("erased-words", "what was erased is looked for in the files", 100, 25, run)]
