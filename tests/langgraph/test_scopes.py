"""The rest of the engine knows what a thread reads: it checks it, keeps it, and lets go of it when it is deleted."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import apsw
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from savers import at, exact, put, uuid_of, write

import eventstore as es
from eventstore.database import APPLICATION_ID, schema_scripts
from eventstore.event import utc
from eventstore.statistics import store_stats

pytestmark = pytest.mark.usefixtures("ours")

THREADS = "abc"
SCOPE = st.sampled_from([("a", "")] * 3 + [("b", "")] * 2 + [("c", ""), ("a", "child:1"), ("c", "child:1")])
RUN = st.sampled_from(["r1", "r2", "r3"])
THREAD = st.sampled_from(THREADS)
ANY = st.integers(0, 1000)


def open_saver(path):
    from eventstore.integrations.langgraph import EventStoreSaver

    return EventStoreSaver(path, durability="normal")


def snapshot(saver):
    """Every checkpoint that can be listed, with the history of its delta channels, by thread, namespace and id."""
    found = {}
    for one in saver.list(None):
        config = one.config["configurable"]
        place = config["thread_id"], config["checkpoint_ns"], config["checkpoint_id"]
        channels = list(one.metadata.get("counters_since_delta_snapshot", ()))
        history = saver.get_delta_channel_history(config=one.config, channels=channels)
        told = exact(one)
        found[place] = {key: told[key] for key in told if key not in ("config", "parent")} | {
            "parent": told["parent"] and told["parent"][2],
            "history": repr(history),
        }
    return found


class Threads(RuleBasedStateMachine):
    """Two savers, each with a store of its own on one file, as two processes have them."""

    def __init__(self):
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="threads-"))
        self.path = str(self.folder / "t.db")
        self.savers = [open_saver(self.path), open_saver(self.path)]
        self.number = self.value = self.forks = 0
        self.known = {}
        self.runs = {}

    def teardown(self):
        for saver in self.savers:
            saver.close()
        shutil.rmtree(self.folder)

    def now(self, but=()):
        """What there is now; what was known and is not among `but` is as it was."""
        with open_saver(self.path) as fresh:
            now = snapshot(fresh)
        for place in self.known.keys() - set(but):
            assert place in now, f"{place} is gone"
            assert now[place] == self.known[place], place
        self.known = now
        return now

    def ids(self, thread, namespace):
        return sorted(place[2] for place in self.known if place[:2] == (thread, namespace))

    @rule(scope=SCOPE, which=st.integers(0, 1), parent=st.one_of(st.just("latest"), st.none(), ANY), keeps=ANY,
          run=RUN | st.none(), bare=st.booleans(), writes=st.booleans())  # fmt: skip
    def put(self, scope, which, parent, keeps, run, bare, writes):
        thread, namespace = scope
        ids = self.ids(thread, namespace)
        under = None if parent is None or not ids else ids[-1] if parent == "latest" else ids[parent % len(ids)]
        self.number += 1
        values = {"messages": [f"m{n}" for n in range(keeps % 7)], "n": self.number}
        versions = {"messages": self.number + 1, "n": self.number + 1}
        if bare:
            versions["log"] = self.number + 1
        elif keeps % 3 == 0:
            values["log"], versions["log"] = [self.number], self.number + 1
        metadata = {} if run is None else {"run_id": run}
        put(
            self.savers[which], self.number, thread=thread, namespace=namespace, values=values, versions=versions,
            under=None if under is None else int(under[:8], 16), **metadata,
        )  # fmt: skip
        if writes:
            self.value += 1
            write(self.savers[which], self.number, ("log", self.value), thread=thread, namespace=namespace)
        place = thread, namespace, uuid_of(self.number)
        self.runs[place] = run
        assert place in self.now(but=[place])

    @rule(scope=SCOPE, which=st.integers(0, 1), where=ANY, ahead=st.booleans(), task=st.sampled_from(["t1", "t2"]))
    def write(self, scope, which, where, ahead, task):
        thread, namespace = scope
        ids = self.ids(thread, namespace)
        self.value += 1
        name = uuid_of(self.number + 1) if ahead or not ids else ids[where % len(ids)]
        write(
            self.savers[which], int(name[:8], 16), ("log", self.value), ("n", self.value), task=task,
            thread=thread, namespace=namespace,
        )  # fmt: skip
        self.now(but=[place for place in self.known if place[:2] == (thread, namespace)])

    @precondition(lambda self: len({place[0] for place in self.known}) in (1, 2))
    @rule(source=ANY, to=ANY, which=st.integers(0, 1))
    def copy_thread(self, source, to, which):
        there = sorted({place[0] for place in self.known})
        source = there[source % len(there)]
        free = [thread for thread in THREADS if thread not in there]
        to = free[to % len(free)]
        try:
            self.savers[which].copy_thread(source, to)
        except ValueError:
            return  # writes announce it
        before = self.known
        now = self.now()
        copied = {(to, *place[1:]): told for place, told in before.items() if place[0] == source}
        assert {place: told for place, told in now.items() if place[0] == to} == copied
        self.runs |= {(to, *place[1:]): run for place, run in self.runs.items() if place[0] == source}

    @precondition(lambda self: len(self.known) > 4)
    @rule(thread=THREAD, which=st.integers(0, 1))
    def delete_thread(self, thread, which):
        self.savers[which].delete_thread(thread)
        now = self.now(but=[place for place in self.known if place[0] == thread])
        assert not any(place[0] == thread for place in now)
        assert self.savers[1 - which].get_tuple(at(thread)) is None

    @rule(run=RUN, which=st.integers(0, 1))
    def delete_for_runs(self, run, which):
        self.savers[which].delete_for_runs([run])
        gone = [place for place in self.known if self.runs[place] == run]
        now = self.now(but=gone)
        assert not now.keys() & set(gone)

    @precondition(lambda self: len(self.known) > 4)
    @rule(thread=THREAD, which=st.integers(0, 1))
    def prune(self, thread, which):
        self.savers[which].prune([thread])
        kept = {(thread, namespace, self.ids(thread, namespace)[-1]) for namespace in ("", "child:1")
                if self.ids(thread, namespace)}  # fmt: skip
        gone = [place for place in self.known if place[0] == thread and place not in kept]
        before, now = self.known, self.now(but={*gone, *kept})
        assert not now.keys() & set(gone)
        for place in kept:  # what it was made from may be gone
            assert now[place]["parent"] in (before[place]["parent"], None)
            assert now[place] | {"parent": None} == before[place] | {"parent": None}

    @precondition(lambda self: self.known and self.forks < 3)
    @rule(where=ANY)
    def fork(self, where):
        """Someone forks a line by hand: that trace is theirs, and keeps what it stands on."""
        thread, namespace, name = sorted(self.known)[where % len(self.known)]
        saver = self.savers[0]
        trace_id, seq = saver.place(at(thread, name, namespace))
        self.forks += 1
        saver.store.open_trace(trace_id).fork(seq, name=f"by hand {self.forks}")
        self.now()

    @precondition(lambda self: self.known)
    @rule(where=ANY)
    def note(self, where):
        """Someone appends to a line by hand."""
        thread, namespace, name = sorted(self.known)[where % len(self.known)]
        saver = self.savers[1]
        trace_id, _ = saver.place(at(thread, name, namespace))
        saver.store.open_trace(trace_id).note("seen")
        self.now()

    @rule(which=st.integers(0, 1))
    def read(self, which):
        """A saver remembers what it read."""
        for place in self.known:
            assert self.savers[which].get_tuple(at(place[0], place[2], place[1])) is not None

    @invariant()
    def holds(self):
        with es.open(self.path, durability="normal") as store:
            report = store.verify()
            assert report.ok, list(map(str, report.problems))
            with store._database.reader() as connection:
                left = connection.execute(
                    "SELECT name, trace_id FROM trace t WHERE name NOT LIKE 'by hand%' AND id NOT IN"
                    " (SELECT trace FROM scope_trace) AND id NOT IN (SELECT parent FROM trace WHERE parent IS NOT NULL)"
                ).fetchall()
        assert left == []


TestThreads = Threads.TestCase
if os.environ.get("HYPOTHESIS_PROFILE") != "long":
    TestThreads.settings = settings(max_examples=15, stateful_step_count=25)


# What verify says


@pytest.fixture
def saver(path):
    with open_saver(path) as saver:
        yield saver


@pytest.fixture
def thread(saver):
    """A thread with a branch, pending writes, a run, and a copy that goes on by itself."""
    put(saver, 1, values={"messages": ["m1"], "n": 1}, run_id="r1")
    write(saver, 1, ("messages", "m2"))
    put(saver, 2, under=1, values={"messages": ["m1", "m2"], "n": 2}, run_id="r2")
    put(saver, 3, under=1, values={"messages": ["m1", "m3"]}, run_id="r3")
    write(saver, 3, ("messages", "m4"))
    put(saver, 4, under=3, namespace="child:1", values={"n": 4})
    saver.copy_thread("t", "u")
    put(saver, 5, under=3, thread="u", values={"messages": ["m1", "m3", "m4"]})
    return saver


def places(saver):
    """Where things stand: by checkpoint number of thread t, and `journal`."""
    found = {number: saver.place(at("t", uuid_of(number))) for number in (1, 2, 3)}
    with saver.store._database.reader() as connection:
        row = connection.execute(
            "SELECT t.trace_id FROM scope s JOIN trace t ON t.id = s.journal WHERE thread_id = 't' AND namespace = ''"
        ).fetchone()
    return found | {"journal": row[0]}


def told(report):
    return [str(problem) for problem in report.problems]


def test_a_sound_thread_verifies_as_a_whole_and_trace_by_trace(thread):
    assert told(thread.store.verify()) == []
    assert [told(thread.store.verify(info.trace_id)) for info in thread.store.traces()] == [[]] * 5


OF_T = "scope = (SELECT id FROM scope WHERE thread_id = 't' AND namespace = '')"
JOURNAL = "(SELECT journal FROM scope WHERE thread_id = 't' AND namespace = '')"


def change(number, sets):
    return f"UPDATE scope_checkpoint SET {sets} WHERE {OF_T} AND name = '{uuid_of(number)}'"


@pytest.mark.parametrize(
    "sql, place, reason",
    [
        (change(2, "parent = 'x'"), 2, f"listed under x, the log says {uuid_of(1)}"),
        (change(3, "parent = NULL"), 3, f"listed under None, the log says {uuid_of(1)}"),
        (change(2, "seq = seq - 1"), 2, "the log has no checkpoint there"),
        (change(2, "name = 'x'"), 2, f"checkpoint x of thread 't': the log has checkpoint {uuid_of(2)} there"),
        (change(2, "run_id = 'r9'"), 2, "listed as of run r9, the log says r2"),
        (change(2, "status = 'ghost'"), 2, "listed as of run r2, the log says None"),
        (change(2, "metadata = json_set(metadata, '$.step', 2.0)"), 2, "its metadata are not those in the log"),
        (change(2, "metadata = NULL"), 2, "its metadata are not those in the log"),
        (change(1, "writes = json_set(writes, '$[0][1]', 1)"), "journal",
         "its writes are listed here, the log has none"),
        (change(1, "writes = json_set(writes, '$[0][1]', 4)"), "journal",
         f"its writes are listed here, the log has those of checkpoint {uuid_of(3)}"),
        (change(1, "writes = '[1]'"), None, "its writes cannot be read"),
        (change(1, "status = 'announced', trace = NULL, seq = NULL, writes = '[]'"), None,
         "it is announced by no writes"),
        (f"DELETE FROM scope_trace WHERE {OF_T} AND trace = {JOURNAL}", None,
         "thread 't' needs it and does not list it"),
        ("UPDATE scope SET journal = 99 WHERE thread_id = 't'", None, "thread 't' needs it and does not list it"),
        (f"INSERT INTO scope_trace SELECT {JOURNAL}, 99", None, "is read by scope 99, which does not exist"),
    ],
)  # fmt: skip
def test_a_row_that_does_not_say_what_the_log_says_is_told(thread, tamper, sql, place, reason):
    known = places(thread)
    assert tamper(sql) > 0
    problems = [problem for problem in thread.store.verify().problems if reason in problem.reason]
    assert problems and not any(problem.in_log for problem in thread.store.verify().problems)
    assert {problem.check for problem in problems} == {"thread"}
    if place is not None:
        trace_id = known[place] if place == "journal" else known[place][0]
        assert {problem.trace_id for problem in problems} == {trace_id}
        assert any(reason in line for line in told(thread.store.verify(trace_id)))


def test_what_was_deleted_is_not_missed(thread):
    thread.delete_for_runs(["r1", "r3"])
    assert thread.get_tuple(at("t", uuid_of(3))) is None and thread.get_tuple(at("t", uuid_of(2))) is not None
    assert told(thread.store.verify()) == []


def test_rows_on_a_damaged_trace_are_not_judged(thread, tamper):
    trace_id, seq = places(thread)[2]
    tamper(
        "UPDATE log SET body = x'90' WHERE first_seq <= ? AND trace = (SELECT id FROM trace WHERE trace_id = ?)",
        seq, trace_id,
    )  # fmt: skip
    problems = thread.store.verify().problems
    assert problems and {problem.check for problem in problems} & {"thread"} == set()


# What retention leaves alone


def test_what_a_thread_reads_is_neither_erased_nor_trimmed(thread):
    store, before = thread.store, snapshot(thread)
    line, journal = places(thread)[2][0], places(thread)["journal"]
    for trace_id in (line, journal):
        for refused in (
            lambda trace_id=trace_id: store.erase(trace_id),
            lambda trace_id=trace_id: store.erase(trace_id, cascade=True),
            lambda trace_id=trace_id: store.trim(trace_id, store.open_trace(trace_id).version, retry_window_s=0),
        ):
            with pytest.raises(es.RetentionBlocked) as blocked:
                refused()
            told_of = str(blocked.value)
            for name in "tu":
                assert f"thread '{name}' of langgraph (see EventStoreSaver.delete_thread and prune)" in told_of
    assert snapshot(thread) == before and told(store.verify()) == []


def test_a_namespace_is_named(thread):
    trace_id, _ = thread.place(at("t", namespace="child:1"))
    with pytest.raises(es.RetentionBlocked, match="thread 't', namespace 'child:1', of langgraph"):
        thread.store.erase(trace_id)


def test_a_plan_shows_that_a_thread_blocks_it_and_does_the_rest(thread):
    store, before = thread.store, snapshot(thread)
    line, journal = places(thread)[2][0], places(thread)["journal"]
    own = store.start({"n": 1}, name="of no thread")
    own.end()
    plan = store.plan_retention(erase=True, trim=True, drop_bases=True, retry_window_s=0)
    found = {entry.trace_id: entry for entry in plan.traces}
    for trace_id in (line, journal):
        entry = found[trace_id]
        assert not entry.erase and entry.trim_to is None
        by_kind = {(blocker.action, blocker.kind): blocker for blocker in entry.blockers}
        blocker = by_kind["erase", "thread"]
        assert ("trim", "thread") in by_kind
        assert "thread 't'" in blocker.reason and blocker.more == 1 and blocker.limit_seq is None
    assert found[own.id].erase
    store.apply(plan)
    assert snapshot(thread) == before and told(store.verify()) == []


def test_a_thread_that_blocks_by_the_time_of_the_act_is_told(thread):
    """A plan that was made by hand, or before the thread was there."""
    line, _ = places(thread)[2]
    version = thread.store.open_trace(line).version
    entry = es.TracePlan(line, "t", "running", version, utc(0), erase=True)
    plan = es.RetentionPlan(utc(0), 1, [entry], erase=True)
    (removal,) = thread.store.apply(plan).traces
    assert not removal.erased and {blocker.kind for blocker in removal.skipped} == {"thread", "fork"}


def test_a_fork_by_hand_keeps_what_it_stands_on_until_it_is_erased(thread):
    store = thread.store
    line, seq = places(thread)[2]
    fork = store.open_trace(line).fork(seq, name="by hand")
    thread.delete_thread("u")
    thread.delete_thread("t")
    assert [info.name for info in store.traces()] == ["by hand", "t"]
    assert fork.state.keys() == {"messages", "n"} and told(store.verify()) == []
    with pytest.raises(es.RetentionBlocked, match="fork"):
        store.erase(line)
    store.trim(line, seq, retry_window_s=0)
    store.erase(fork.id)
    store.erase(line)
    assert store.traces() == [] and told(store.verify()) == []


def test_a_line_of_which_only_a_branch_is_left_may_be_trimmed_up_to_there_and_not_erased(saver):
    for number, under in ((1, None), (2, 1), (3, 2), (4, 2)):
        put(saver, number, under=under, values={"messages": [f"m{number}"]}, run_id=f"r{number}")
    (line, _), (branch, _) = saver.place(at("t", uuid_of(1))), saver.place(at("t", uuid_of(4)))
    _, forked_at = saver.place(at("t", uuid_of(2)))
    saver.delete_for_runs(["r1", "r2", "r3"])
    store, before = saver.store, snapshot(saver)
    assert len(before) == 1 and {info.trace_id for info in store.traces()} == {line, branch}
    with pytest.raises(es.RetentionBlocked, match=f"{branch} cannot be trimmed or erased: thread 't'"):
        store.erase(line, cascade=True)
    with pytest.raises(es.RetentionBlocked, match=f"fork {branch}|thread 't'"):
        store.erase(line)
    assert {info.trace_id for info in store.traces()} == {line, branch}
    with pytest.raises(es.RetentionBlocked, match=f"fork {branch}"):
        store.trim(line, store.open_trace(line).version, retry_window_s=0)
    assert store.trim(line, forked_at, retry_window_s=0).rows == 2
    with open_saver(store.path) as fresh:
        assert snapshot(fresh) == before
        put(fresh, 5, under=4, values={"messages": ["on"]})
        assert told(store.verify()) == []
        fresh.delete_thread("t")
        assert store.traces() == [] and told(store.verify()) == []


WORDS = [b"SECRET-thread", b"SECRET-value", b"SECRET-meta", b"SECRET-run", b"SECRET-write", b"SECRET-channel"]


@pytest.fixture
def secrets(saver):
    """A thread full of words that are to go, among one that stays."""
    for number in range(30):
        for thread in ("stays", "SECRET-thread"):
            tell = "SECRET-" if thread != "stays" else ""
            put(saver, number, under=number - 1 if number else None, thread=thread, run_id=f"{tell}run",
                values={"messages": [f"{tell}value"] * 3, f"{tell}channel": number}, word=f"{tell}meta")  # fmt: skip
            write(saver, number, ("messages", f"{tell}write"), thread=thread)
    return saver


@pytest.fixture
def left_in(bytes_of):
    """`left_in(path)`: which words the files beside the store hold."""

    def words(path):
        data = b"".join(map(bytes_of, Path(path).parent.iterdir()))
        return [word for word in WORDS if word in data]

    return words


def test_pruning_the_file_takes_a_deleted_thread_out_of_it(secrets, path, left_in):
    assert left_in(path) == WORDS
    secrets.delete_thread("SECRET-thread")
    plan = secrets.store.plan_retention(drop_bases=True, trace_ids=[])
    assert plan.is_unfinished and plan.acts
    assert secrets.store.apply(plan).is_finished
    assert left_in(path) == []
    assert not secrets.store.plan_retention(drop_bases=True, trace_ids=[]).is_unfinished
    assert len(snapshot(secrets)) == 30 and told(secrets.store.verify()) == []


def test_pruning_the_file_takes_what_a_thread_was_pruned_of_out_of_it(secrets, path, left_in):
    put(secrets, 40, under=29, thread="SECRET-thread", values={"messages": ["m"]})
    secrets.prune(["SECRET-thread"])
    assert secrets.store.apply(secrets.store.plan_retention(drop_bases=True, trace_ids=[])).is_finished
    assert left_in(path) == [b"SECRET-thread"]


def test_what_delete_thread_deletes_is_overwritten(saver, path, left_in):
    """Without a rewrite: as long as no page was split, nothing of it is left once the write-ahead log is."""
    for thread in ("stays", "SECRET-thread"):
        tell = "SECRET-" if thread != "stays" else ""
        put(saver, 1, thread=thread, values={f"{tell}channel": f"{tell}value"}, run_id=f"{tell}run", word=f"{tell}meta")
        write(saver, 1, ("n", f"{tell}write"), thread=thread)
    saver.delete_thread("SECRET-thread")
    saver.store._writer.quiet(
        lambda: saver.store._database.writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    )
    assert left_in(path) == []
    assert saver.store._database.writer.pragma("secure_delete") == 0


def test_a_copy_reads_no_more_than_it_needs(saver):
    put(saver, 1, values={"n": 1}, run_id="r1")
    write(saver, 1, ("n", 2))
    put(saver, 2, under=1, values={"n": 2}, run_id="r2")
    saver.delete_for_runs(["r1"])
    saver.copy_thread("t", "u")
    assert told(saver.store.verify()) == []


# What the figures are


def test_a_journal_counts_as_log_and_has_no_state_to_be_read(saver):
    for number in range(100):
        messages = [f"{n} " * 99 for n in range(number)]
        put(saver, number, under=number - 1 if number else None, values={"messages": messages})
        write(saver, number, ("messages", "x" * 300))
    stats = store_stats(saver.store)
    line, journal = stats.traces
    assert (line.name, line.steps, journal.name, journal.steps) == ("t", 100, "t (writes)", 0)
    assert journal.log_bytes > 30_000 and stats.log_bytes == line.log_bytes + journal.log_bytes
    assert (journal.state_bytes, journal.read_bytes, journal.c1, journal.c2, journal.bases) == (0, 0, 0.0, 0.0, 0)
    assert line.read_bytes > 0 and 0 < stats.c2 <= 2 and stats.c1 <= 2


# A file from before there were threads


def test_a_file_of_format_5_is_migrated_and_takes_threads(path):
    connection = apsw.Connection(path)
    connection.pragma("auto_vacuum", 2)
    connection.pragma("journal_mode", "wal")
    for script in schema_scripts()[:5]:
        connection.execute(script)
    connection.pragma("user_version", 5)
    connection.pragma("application_id", APPLICATION_ID)
    connection.close()
    with pytest.raises(es.NotAnEventStore, match="format 5 needs migrating"):
        es.open(path, read_only=True)
    with es.open(path) as store:
        store.start({"n": 1}, id="t1", name="old")
    with open_saver(path) as saver:
        put(saver, 1, values={"n": 1})
        assert saver.get_tuple(at()).checkpoint["channel_values"] == {"n": 1}
        assert saver.store.state_at("t1") == {"n": 1} and told(saver.store.verify()) == []
    assert apsw.Connection(path).pragma("user_version") == len(schema_scripts())


def test_a_reader_of_format_5_refuses_a_file_with_threads(path, saver, monkeypatch):
    put(saver, 1, values={"n": 1})
    saver.close()
    monkeypatch.setattr("eventstore.database.FORMAT", 5)
    with pytest.raises(es.FormatTooNew) as refused:
        es.open(path)
    assert (refused.value.found, refused.value.known) == (len(schema_scripts()), 5)
