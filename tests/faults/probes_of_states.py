"""Probes of states: the same by every way, and the same when bases, history or a whole trace have gone."""

from __future__ import annotations

import io
from pathlib import Path

import apsw
import msgspec

import eventstore as es
from eventstore.bases import Place
from eventstore.link import decode_whole, encode_whole

from .laws import expect
from .probes import NOW, PUT, TINY, chat, equal, every_state, probe, raw, refuses, sound

# States and bases


@probe
def states_are_what_was_written(folder):
    """The live state, the log's, and what another process reads are the deltas', op by op."""
    for name, policy in (("never", es.NeverFold()), ("tiny", TINY), ("every", es.FoldEvery(2))):
        with es.open(folder / f"{name}.db", durability="normal", fold_policy=policy) as store:
            trace, states = chat(store)
            equal(dict(trace.state), states[-1], "another live state")
            every_state(store, "t1", states)
            with es.open(store.path, durability="normal") as other:
                equal(dict(other.open_trace("t1").state), states[-1], "another state in another process")
            sound(store)


class Links:
    """A link at every other row, whatever they cost."""

    def decide(self, now):
        return es.FoldDecision("link", "probe") if now.tail_rows >= 2 else None


@probe
def bases_change_no_answer(folder):
    """With links and whole states, in a fork and beside it, and when all of them are dropped."""
    for policy in (Links(), es.FoldEvery(2)):
        path = folder / f"{type(policy).__name__}.db"
        with es.open(path, durability="normal", fold_policy=policy) as store, es.open(path) as other:
            trace, states = chat(store)
            at = next(past.seq for past in trace.history() if past.seq > 20)
            fork, theirs = store.fork("t1", at, id="t2"), [*states[:at], states[at - 1]]
            fork = other.open_trace("t2")  # which writes no bases of its own
            for number in range(3):
                other.append("t1", [PUT("text", f"other {number}"), es.StateDelta("n", "sum", 1)])
                for change in ({"text": f"other {number}"}, {"n": states[-1]["n"] + 1}):
                    states.append({**states[-1], **change})
                with fork.step("work") as step:
                    step.replace("own", number)
                theirs += [{**theirs[-1], "own": number}] * 2
            trace.refresh()
            for number in range(4):
                with trace.step("work") as step:
                    step.replace("text", f"last {number}")
                states += [{**states[-1], "text": f"last {number}"}] * 2
            expect(store.stats().base_bytes > 0, "no base was written")
            for what in ("with bases", "without"):
                for reading in (store, other):
                    every_state(reading, "t1", states)
                    every_state(reading, "t2", theirs)
                sound(store)
                if what == "with bases":
                    store.drop_bases()


@probe
def a_damaged_base_is_never_trusted(folder):
    """One whose bytes changed is ignored, and verify names it."""
    with es.open(folder / "runs.db", durability="normal", fold_policy=es.FoldEvery(2)) as store:
        _, states = chat(store)
        raw(store, "UPDATE base SET body = CAST(replace(CAST(body AS BLOB), 'number', 'mumber') AS BLOB)")
        with es.open(store.path) as other:
            problems = [problem for problem in other.verify().problems if problem.check == "base"]
            expect(problems, "verify does not name a damaged base")
            every_state(other, "t1", states)


@probe
def verify_compares_bases_with_the_log(folder):
    """A base that says something else, its checksum right, is found."""
    with es.open(folder / "runs.db", durability="normal", fold_policy=es.FoldEvery(2)) as store:
        chat(store)
        connection = apsw.Connection(store.path)
        row = connection.execute("SELECT * FROM base ORDER BY seq DESC LIMIT 1").fetchone()
        names = [column[1] for column in connection.execute("PRAGMA table_info(base)")]
        connection.close()
        base = dict(zip(names, row, strict=True))
        body = base["body"] if isinstance(base["body"], bytes) else base["body"].encode()
        control, state = decode_whole(body)
        body = encode_whole(control, {**state, "n": 4711})
        place = Place(*(base[name] for name in Place._fields))
        raw(store, ("UPDATE base SET body = ?, checksum = ? WHERE id = ?", (body, place.checksum(body), base["id"])))
        with es.open(store.path) as other:
            expect(not other.verify().ok, "verify takes a false base for the log's")


@probe
def opaque_lists_grow(folder):
    """An adapter's list holds its items, in their order, after appends, splices and a restart."""
    pack = msgspec.msgpack.encode
    with es.open(folder / "runs.db", durability="normal", fold_policy=TINY) as store:
        trace = store.start({}, id="t1")
        items = []
        for number in range(8):
            with trace.step("work") as step:
                step.extend("log", es.Opaque("raw", pack(number) + pack("x" * number), 2))
                items += [pack(number), pack("x" * number)]
                if number == 5:
                    step.splice("log", 1, 2, es.Opaque("raw", pack("new"), 1))
                    items[1:3] = [pack("new")]
        with es.open(store.path) as other:
            for found in (trace.state["log"], other.state_at("t1")["log"]):
                try:
                    is_right = found.items() == items
                except ValueError as error:
                    expect(False, "an opaque list is not what was appended:", error)
                expect(is_right, "an opaque list is not what was appended:", found)
            sound(other)


# Forks, trims, erasures


@probe
def a_fork_shares_its_history_exactly(folder):
    """Up to the boundary where it was taken, and no event more; the parent goes its own way."""
    with es.open(folder / "runs.db", durability="normal", fold_policy=es.NeverFold()) as store:
        trace, states = chat(store)
        ends = [past.seq for past in trace.history()]
        for number, end in enumerate(ends[1:4]):
            fork = store.fork("t1", end, id=f"f{number}", put={"mine": number})
            theirs = [*states[:end], states[end - 1], {**states[end - 1], "mine": number}]
            every_state(store, f"f{number}", theirs)
            grandchild = store.fork(fork.id, end, id=f"g{number}")
            equal(dict(grandchild.state), states[end - 1], "a fork of a fork has another state")
            refuses(es.NotAStepBoundary, lambda end=end: store.fork("t1", end - 1), "a fork begins at a boundary")
        sound(store)


@probe
def a_trim_keeps_what_is_after_it(folder):
    """Every state from the root on; the chain goes on from it, and what is needed stays."""
    manual = es.CheckpointPolicy.manual()
    with es.open(folder / "runs.db", durability="normal", fold_policy=TINY, checkpoint_policy=manual) as store:
        trace, states = chat(store)
        ends = [past.seq for past in trace.history()]
        mark = trace.checkpoint("here")
        fork = store.fork("t1", ends[8], id="t2")
        store.trim("t1", ends[4], **NOW)
        for _ in range(2):
            every_state(store, "t1", states, ends[4])
            every_state(store, "t2", states[: ends[8]], ends[4])
            store.drop_bases()
        refuses(es.Trimmed, lambda: store.state_at("t1", ends[3]), "behind a root there is nothing to see")
        refuses(es.RetentionBlocked, lambda: store.trim("t1", ends[9], **NOW), "a fork keeps what it shares")
        store.erase(fork.id)
        store.checkpoints.delete(mark.checkpoint_id)
        trace.raise_barrier("ask")
        trace.note("later")
        here = trace.version
        refuses(es.RetentionBlocked, lambda: store.trim("t1", here, **NOW), "an open barrier keeps its question")
        trace.append([PUT("n", 0)], append_id="mine")
        trace.decide("ask", es.Approve())
        refuses(es.RetentionBlocked, lambda: store.trim("t1", trace.version), "what may be tried again stays")
        sound(store)


@probe
def a_damaged_root_is_refused(folder):
    """A root is truth: one that fails its checksum gives no state."""
    with es.open(folder / "runs.db", durability="normal", fold_policy=es.NeverFold()) as store:
        trace, _ = chat(store)
        store.trim("t1", trace.version, **NOW)
        raw(store, "UPDATE root SET body = CAST(replace(CAST(body AS BLOB), 'number', 'mumber') AS BLOB)")
        with es.open(store.path) as other:
            refuses(es.LogCorrupted, lambda: other.state_at("t1"), "a damaged root is never read")


@probe
def damage_is_never_made_the_truth(folder):
    """A trim reads what it folds against the chain."""
    with es.open(folder / "runs.db", durability="normal", fold_policy=es.NeverFold()) as store:
        trace, _ = chat(store)
        raw(store, "UPDATE log SET body = replace(body, 'step 2', 'step 9') WHERE first_seq > 1")
        with es.open(store.path) as other:
            refuses(es.LogCorrupted, lambda: other.trim("t1", trace.version, **NOW), "a trim refuses damage")


@probe
def erased_words_are_gone(folder):
    """From the file and from the write-ahead log, while the store is open."""
    word = "the-secret-4711"
    with es.open(folder / "runs.db", durability="normal", fold_policy=TINY) as store:
        other = store.start({"n": 0}, id="t2")
        trace = store.start({"card": word}, id="t1", name=f"named {word}")
        for number in range(50):
            with trace.step("work") as step:
                step.put("card", f"{word} {number}")
                step.append("log", word + "x" * (number % 7) * 30)
            other.append([PUT("n", number)])
        store.erase("t1")
        left = [path.name for path in Path(folder).iterdir() if word.encode() in path.read_bytes()]
        expect(not left, "erased words stand in", left)
        refuses(es.TraceErased, lambda: store.start(id="t1"), "an erased trace does not come back")
        equal(store.state_at("t2"), {"n": 49}, "another trace lost something")


# Checkpoints and dumps


@probe
def checkpoints_stay_where_they_are(folder):
    """Their states are the log's; pruning keeps the newest, and deletes no other."""
    with es.open(folder / "runs.db", durability="normal") as store:
        trace = store.start({"n": 0}, id="t1")
        made = []
        for number in range(4):
            trace.append([PUT("n", number)])
            made.append(trace.checkpoint("next").checkpoint_id)
        store.checkpoints.prune("t1", 2)
        left = [(kept.checkpoint_id, kept.restore_state()["n"]) for kept in store.checkpoints.list("t1")]
        expect(left == [(made[3], 3), (made[2], 2)], "pruning left", left)


@probe
def a_dump_is_the_whole_store(folder):
    """Loaded into another file: the same states, heads, checkpoints and barriers. A changed dump is refused."""
    with es.open(folder / "runs.db", durability="normal") as store:
        trace, states = chat(store)
        trace.checkpoint("here")
        trace.raise_barrier("ask")
        fork = store.fork("t1", 6, id="t2")
        lines = io.BytesIO()
        es.dump(store, lines)
        with es.open(folder / "loaded.db", durability="normal") as loaded:
            es.load(loaded, io.BytesIO(lines.getvalue()))
            sound(loaded)
            expect(loaded.verify().heads == store.verify().heads, "the heads differ")
            every_state(loaded, "t1", states)
            equal(loaded.state_at("t2"), dict(fork.state), "a loaded fork has another state")
            marks = [[kept.seq for kept in each.checkpoints.list("t1")] for each in (store, loaded)]
            expect(marks[0] == marks[1], "checkpoints are missing:", marks)
            asked = [[info.barrier_id for info in each.barriers()] for each in (store, loaded)]
            expect(asked[0] == asked[1], "barriers are missing:", asked)
        false = lines.getvalue().replace(b'"step 5"', b'"step 6"')
        with es.open(folder / "false.db", durability="normal") as other:
            refuses(es.EventStoreError, lambda: es.load(other, io.BytesIO(false)), "a changed dump is refused")
