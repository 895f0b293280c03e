"""Bit rot: one bit of a closed file is another, anywhere, and everything is read again.

The law: an error says so, or `verify` does, or no answer is another than before. An answer that changed while `verify`
has nothing to say is a loss, and so is an exception that is none of this package's. In a WAL that was left behind a
changed bit ends SQLite's recovery there, by SQLite's own checksum of frames, and what was committed after it is gone
without a word: what is left is sound. Only a head that is kept elsewhere can tell, and it does.
"""

from __future__ import annotations

import warnings
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import apsw

import eventstore as es
from eventstore.integrations.langgraph import EventStoreSaver

from . import sample
from .campaign import Campaign, Control, Result

WAL_ROWS = 24
NOW = datetime(2026, 11, 1, tzinfo=UTC)


class Answers(NamedTuple):
    """What a file says. `given`: answers by question; `refused`: errors of this package; `crashed`: other ones."""

    given: dict[str, str]
    refused: dict[str, str]
    crashed: list[str]


class Known(NamedTuple):
    """What is asked of a file: its traces with the boundaries of each, and its checkpoints."""

    boundaries: dict[str, list[int]]
    checkpoints: list[str]
    graphs: list[str]

    @classmethod
    def of(cls, path):
        """What the sound file holds."""
        with es.open(path, read_only=True) as store, store._database.reader() as connection:
            boundaries = {trace.trace_id: [] for trace in store.traces(limit=1000)}
            for trace_id, last_seq in connection.execute(
                "SELECT trace_id, first_seq + n - 1 FROM log JOIN trace ON trace.id = log.trace ORDER BY log.id"
            ):
                boundaries[trace_id].append(last_seq)
            checkpoints = [row[0] for row in connection.execute("SELECT checkpoint_id FROM checkpoint")]
            graphs = [row[0] for row in connection.execute("SELECT graph_hash FROM graph")]
        return cls(boundaries, checkpoints, graphs)


def questions(store, known):
    """Every question that a reader has, as a name and a call."""
    saver = EventStoreSaver(store)
    yield "traces", lambda: store.traces(limit=1000)
    for pending in (True, False, None):
        yield f"barriers {pending}", lambda pending=pending: store.barriers(pending=pending, limit=1000)
    yield "due", lambda: store._ownership.due("work", 100)
    yield "threads", store.threads
    for namespace in ("", "child:1"):
        yield f"thread {namespace}", lambda namespace=namespace: store.thread_checkpoints("thread-1", namespace)
    yield "saver", lambda: list(saver.list(None))
    for graph_hash in known.graphs:
        yield "graph", lambda graph_hash=graph_hash: store._ownership.definition(graph_hash)
    for checkpoint_id in known.checkpoints:
        yield f"checkpoint {checkpoint_id}", lambda checkpoint_id=checkpoint_id: _told(store, checkpoint_id)
    for trace_id, boundaries in known.boundaries.items():
        yield f"head of {trace_id}", lambda trace_id=trace_id: _stands(store, trace_id)
        yield f"events of {trace_id}", lambda trace_id=trace_id: list(store.events(trace_id))
        yield f"entries of {trace_id}", lambda trace_id=trace_id: store.open_trace(trace_id).entries()
        yield f"timeline of {trace_id}", lambda trace_id=trace_id: store.open_trace(trace_id).timeline(now=NOW)
        yield (
            f"checkpoints of {trace_id}",
            lambda trace_id=trace_id: [checkpoint.checkpoint_id for checkpoint in store.checkpoints.list(trace_id)],
        )
        for seq in boundaries:
            yield f"state of {trace_id} at {seq}", lambda place=(trace_id, seq): store.state_at(*place)
    for trace_id in ("gone", "gone-too"):
        yield f"erased {trace_id}", lambda trace_id=trace_id: store.open_trace(trace_id)


def _told(store, checkpoint_id):
    found = store.checkpoints.load(checkpoint_id)
    costs = [trigger.metadata for trigger in found.triggers]
    return *(getattr(found, name) for name in ("parent_trace_id", "graph_hash", "current_node", "created_at", "seq",
                                               "triggers", "state")), costs  # fmt: skip


def _stands(store, trace_id):
    trace = store.open_trace(trace_id)
    return trace.name, trace.version, trace.status, dict(trace.control)


def answers(store, known):
    """All answers."""
    given, refused, crashed = {}, {}, []
    for question, ask in questions(store, known):
        try:
            given[question] = repr(ask())
        except es.EventStoreError as error:
            refused[question] = type(error).__name__
        except Exception as error:
            if question == "saver" and isinstance(error, ValueError):
                refused[question] = "what the serializer raises"  # as the saver promises: it is LangGraph's own
                continue
            crashed.append(f"{question}: {type(error).__name__}: {error}")
    return Answers(given, refused, crashed)


class Verdict(NamedTuple):
    """What came of a change. `kind`: refused, named (by `verify`), unchanged, lost or crashed."""

    kind: str
    detail: str = ""
    spared: bool = False


def judge(path, known, expected, *, read_only=True, heads=None):
    """Open the file, ask everything, verify; against the answers of the sound file."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", es.BaseCorrupted)
        try:
            with es.open(path, read_only=read_only, durability="normal") as store:
                found = answers(store, known)
                try:
                    report = store.verify() if heads is None else store.verify(heads=heads)
                except es.EventStoreError as error:
                    report = None
                    verdict = Verdict("refused", str(error))
        except es.EventStoreError as error:
            return Verdict("refused", str(error))
        except Exception as error:
            return Verdict("crashed", f"{type(error).__name__}: {error}")
    changed = [question for question, answer in found.given.items() if answer != expected.given.get(question)]
    if found.crashed:
        return Verdict("crashed", "; ".join(found.crashed[:3]))
    if report is None:
        return verdict
    if not report.ok:
        whole = len(found.given) >= len(expected.given) / 2
        return Verdict("named", "; ".join(map(str, report.problems[:3])), whole)
    if found.refused != expected.refused:
        return Verdict("refused", str(sorted(found.refused.items() - expected.refused.items())[:3]))
    if changed:
        return Verdict("lost", f"{changed[:3]}: {found.given[changed[0]][:300]}")
    return Verdict("unchanged")


def integrity_check(path):
    """Whether SQLite alone finds nothing."""
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    try:
        return connection.execute("PRAGMA integrity_check(1)").get == "ok"
    except apsw.Error:
        return False
    finally:
        connection.close()


def flipped(content, bit):
    """The bytes with that bit the other way round."""
    changed = bytearray(content)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


class Scene:
    """A sound file in a folder, what it says, and a place for its damaged copies."""

    def __init__(self, folder, seed, **options):
        self.sound = Path(folder) / "sound.db"
        self.path = Path(folder) / "damaged.db"
        sample.make(self.sound, seed, **options)
        self.content = {side: self.side(side).read_bytes() for side in ("", "-wal") if self.side(side).exists()}
        self.place()
        self.known = Known.of(self.path)
        self.place()
        with es.open(self.path, read_only=True) as store:
            self.expected = answers(store, self.known)
            report = store.verify()
        assert report.ok, report.problems
        assert not self.expected.crashed and set(self.expected.refused.values()) == {"TraceErased"}, self.expected[1:]
        self.heads = report.heads

    def side(self, side):
        """The sound file or one beside it."""
        return Path(f"{self.sound}{side}")

    def place(self, **changed):
        """Put a copy in place; `main`, `wal`: with that content."""
        for left in self.path.parent.glob(f"{self.path.name}*"):
            left.unlink(missing_ok=True)
        for side, content in self.content.items():
            Path(f"{self.path}{side}").write_bytes(changed.get("wal" if side else "main", content))


def flip_the_file(run, size):
    """Bits of the file itself; opened for reading and for writing in turn."""
    folder = run.folder / "file"
    folder.mkdir()
    scene, rng = Scene(folder, run.seed), run.rng("file")
    bits = [rng.randrange(len(scene.content[""]) * 8) for _ in range(size)]
    kinds, failures, mattered, seen = Counter(), [], 0, 0
    for number, bit in enumerate(bits):
        scene.place(main=flipped(scene.content[""], bit))
        sound_to_sqlite = integrity_check(scene.path)
        verdict = judge(scene.path, scene.known, scene.expected, read_only=number % 2 == 0)
        kinds[verdict.kind] += 1
        kinds["spared"] += verdict.spared
        if verdict.kind in ("lost", "crashed"):
            failures.append(f"seed {run.seed}, bit {bit} ({number}): {verdict.kind}: {verdict.detail}")
        if verdict.kind != "unchanged":
            mattered += 1
            seen += not sound_to_sqlite
        run.tick(1)
    notes = (
        f"{kinds['named']} named by verify (in {kinds['spared']} most answers stayed), {kinds['refused']} refused,"
        f" {kinds['unchanged']} change nothing"
    )
    control = Control("PRAGMA integrity_check alone, of flips that matter", mattered - seen, mattered)
    return Result(
        "one bit of the file",
        size,
        len(set(bits)),
        "answers changed without a word, or crashes",
        failures,
        [control],
        notes,
    )


def flip_the_wal(run, size):
    """Bits of a WAL that was left behind; heads are kept elsewhere."""
    folder = run.folder / "wal"
    folder.mkdir()
    scene, rng = Scene(folder, run.seed, wal_rows=WAL_ROWS), run.rng("wal")
    bits = [rng.randrange(len(scene.content["-wal"]) * 8) for _ in range(size)]
    kinds, failures, unseen = Counter(), [], 0
    for number, bit in enumerate(bits):
        changed = flipped(scene.content["-wal"], bit)
        scene.place(wal=changed)
        verdict = judge(scene.path, scene.known, scene.expected, heads=scene.heads)
        kinds[verdict.kind] += 1
        if verdict.kind in ("lost", "crashed"):
            failures.append(f"seed {run.seed}, bit {bit} of the WAL ({number}): {verdict.kind}: {verdict.detail}")
        scene.place(wal=changed)
        with es.open(scene.path, read_only=True) as store:
            report = store.verify()
            unseen += report.ok and report.heads != scene.heads
        run.tick(1)
    notes = f"{kinds['named']} named by verify, {kinds['refused']} refused, {kinds['unchanged']} change nothing"
    control = Control("the same without heads kept elsewhere", unseen, size)
    what = "one bit of a WAL left behind, heads kept elsewhere"
    return Result(what, size, len(set(bits)), "answers changed without a word, or crashes", failures, [control], notes)


def run(run):
    """Both; a sixth of the flips strike a WAL."""
    in_wal = max(4, run.size // 6)
    return [flip_the_file(run, run.size - in_wal), flip_the_wal(run, in_wal)]


CAMPAIGNS = [Campaign("bit-rot", "one bit of the file or its WAL is another", 1200, 48, run)]
