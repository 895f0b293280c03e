"""Salvage: what is sound is in the new file, as it was; the report says what is not. The campaign tries at random."""

from __future__ import annotations

import io
import subprocess
from pathlib import Path

import apsw
import pytest
from faults import sample
from faults.salvaged import copied

import eventstore as es
from eventstore.salvage_pages import Pages
from eventstore.salvage_rows import ROOTS
from eventstore.salvage_trees import Trees, Unreadable, decoded, records, varint
from eventstore.salvaging import salvage
from eventstore.transfer import dump

PAGE = 4096


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """A file with a little of everything."""
    path = tmp_path_factory.mktemp("sound") / "runs.db"
    sample.make(path)
    return path.read_bytes()


@pytest.fixture
def damaged(tmp_path):
    """Where the damaged file is."""
    return tmp_path / "damaged.db"


@pytest.fixture
def new(tmp_path):
    """Where the new one is to be."""
    return tmp_path / "new.db"


def lines(path):
    """A file as a dump, without the header; the file itself is left alone."""
    out = io.BytesIO()
    with es.open(path) as store:
        dump(store, out)
    return out.getvalue().splitlines()[1:]


def lost_page(data, *numbers):
    """A file of which these pages are gone."""
    data = bytearray(data)
    for number in numbers:
        data[(number - 1) * PAGE : number * PAGE] = b"\xa5" * PAGE
    return bytes(data)


def root_of(data, name, tmp_path):
    """The root page of a table or an index."""
    path = tmp_path / "looked-at.db"
    path.write_bytes(data)
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    found = dict(connection.execute(ROOTS))[name]
    connection.close()
    return found


@pytest.mark.parametrize("wal_rows", [0, 30], ids=["one file", "with its WAL"])
def test_a_sound_file_is_kept_whole_and_is_only_read(damaged, new, tmp_path, wal_rows):
    sample.make(damaged, wal_rows=wal_rows)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir() if not path.name.endswith("-shm")}
    assert (f"{damaged.name}-wal" in before) is bool(wal_rows)
    report = salvage(damaged, new)
    assert report.ok, report
    assert {name: (tmp_path / name).read_bytes() for name in before} == before
    assert new.stat().st_mode & 0o777 == 0o600 and not list(tmp_path.glob("*.part*")) + list(tmp_path.glob(".*"))
    assert lines(new) == lines(damaged)
    with es.open(new) as store, es.open(damaged) as old:
        assert store.verify().ok and store.verify().heads == old.verify().heads


@pytest.mark.parametrize(
    "name", ["log", "trace", "sqlite_autoindex_log_1", "sqlite_autoindex_trace_1", "base", "barrier"]
)
def test_no_root_page_takes_more_than_what_is_on_it(sound, damaged, new, tmp_path, name):
    root = root_of(sound, name, tmp_path)
    damaged.write_bytes(lost_page(sound, root))
    report = salvage(damaged, new)
    assert report.cut == [] and report.unnamed == 0 and report.problems == []
    (tmp_path / "whole.db").write_bytes(sound)
    with es.open(new) as store, es.open(tmp_path / "whole.db") as old:
        assert store.verify().heads == old.verify().heads
    assert report.damaged_pages == (name in ("log", "trace"))


def test_the_first_page_takes_nothing_either(sound, damaged, new, tmp_path):
    damaged.write_bytes(lost_page(sound, 1))
    report = salvage(damaged, new)
    (tmp_path / "whole.db").write_bytes(sound)
    assert report.cut == [] and lines(new) == lines(tmp_path / "whole.db")


@pytest.mark.parametrize("place", [0, 16, 17, 18, 20, 28, 44, 52, 55, 59, 63, 68, 71, 95, 100, 103, 105])
def test_no_byte_of_the_header_takes_anything(sound, damaged, new, place):
    data = bytearray(sound)
    data[place] ^= 4
    damaged.write_bytes(data)
    report = salvage(damaged, new)
    assert (report.kept, report.cut, report.unnamed, report.beside) == (17, [], 0, 0)


def test_a_link_to_the_file_is_the_file(sound, damaged, new, tmp_path):
    damaged.write_bytes(sound)
    (tmp_path / "link.db").symlink_to(damaged)
    assert salvage(tmp_path / "link.db", new).ok


def test_the_control_sqlite_gives_up_there(sound, damaged, tmp_path):
    damaged.write_bytes(lost_page(sound, root_of(sound, "log", tmp_path)))
    assert copied(damaged, tmp_path / "copy.db") == {}
    connection = apsw.Connection(str(damaged))
    with pytest.raises(apsw.CorruptError):
        connection.execute("VACUUM INTO ?", (str(tmp_path / "vacuumed.db"),))
    connection.close()


def test_a_changed_row_cuts_its_trace_and_the_forks_behind_it(path, record, new, tamper):
    with es.open(path) as store:
        record(store, 20)
        record(store, 5, id="t2")
        store.fork("t1", 9, id="early")
        store.fork("t1", 61, id="late")
        store.trace("t1").checkpoint() if hasattr(store, "trace") else store.open_trace("t1").checkpoint()
    assert tamper("UPDATE log SET at_us = at_us + 1 WHERE trace = 1 AND first_seq = 42") == 1
    told = []
    report = salvage(path, new, on_trace=lambda *verdict: told.append(verdict))
    cut = {trace.trace_id: trace for trace in report.cut}
    assert report.kept == 2 and cut.keys() == {"t1", "late"} and not report.ok
    assert cut["t1"].kept_to == 41 and cut["t1"].reason.startswith("the row at seq 42 is not what was written")
    assert cut["late"].is_lost and cut["late"].reason == "it is a fork of t1 at seq 61, which is not kept so far"
    assert report.beside == 1  # the checkpoint stood behind the damage
    assert sorted(told) == sorted((t, *_) for t, *_ in told) and {trace_id for trace_id, *_ in told} == {
        "t1",
        "t2",
        "early",
        "late",
    }
    with es.open(new) as store, es.open(path) as old:
        assert store.verify().ok and store.open_trace("t1").version == 41
        assert store.state_at("t1") == old.state_at("t1", 41)
        assert store.state_at("t2") == old.state_at("t2") and store.state_at("early") == old.state_at("early")


def test_a_missing_row_cuts_its_trace(path, record, new, tamper):
    with es.open(path) as store:
        record(store, 20)
    tamper("DELETE FROM log WHERE first_seq = 42")
    [trace] = salvage(path, new).cut
    assert (trace.kept_to, trace.reason) == (41, "the row at seq 42 is missing or cannot be read")


def test_a_trace_whose_first_row_is_gone_is_lost(path, record, new, tamper):
    with es.open(path) as store:
        record(store, 5)
        record(store, 5, id="t2")
    tamper("DELETE FROM log WHERE trace = 1 AND first_seq = 1")
    report = salvage(path, new)
    assert [(trace.trace_id, trace.is_lost) for trace in report.cut] == [("t1", True)] and report.kept == 1
    with es.open(new) as store, pytest.raises(es.TraceNotFound):
        store.open_trace("t1")


def test_what_the_list_of_traces_says_wrong_the_log_puts_right(path, record, new, tamper):
    with es.open(path) as store:
        record(store, 5)
        store.fork("t1", 9, id="t2", name="again").end()
    tamper("UPDATE trace SET name = 'other', created_us = 5, status = 'waiting'")
    assert salvage(path, new).ok
    with es.open(new) as store:
        found = {info.trace_id: info for info in store.traces()}
        assert (found["t1"].name, found["t1"].status) == ("chat", "running")
        assert (found["t2"].name, found["t2"].status) == ("again", "completed")


def test_rows_beside_the_log_that_do_not_hold_are_dropped_and_counted(sound, damaged, new):
    damaged.write_bytes(sound)
    connection = apsw.Connection(str(damaged))
    for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'trigger'").fetchall():
        connection.execute(f"DROP TRIGGER {name}")
    connection.execute(
        "UPDATE checkpoint SET created_us = created_us + 1 WHERE seq = (SELECT min(seq) FROM checkpoint)"
    )
    changed = connection.changes()
    connection.execute("UPDATE tombstone SET version = version + 1 WHERE trace_id = 'gone'")
    connection.execute("UPDATE graph SET definition = '{}'")
    changed += 1 + connection.changes()
    connection.close()
    report = salvage(damaged, new)
    assert report.cut == [] and report.beside == changed
    with es.open(new) as store:
        assert store.verify().ok


def test_runs_whose_leases_are_lost_are_offered_anew(sound, damaged, new, tmp_path):
    damaged.write_bytes(lost_page(sound, root_of(sound, "lease", tmp_path)))
    report = salvage(damaged, new)
    assert report.cut == [] and report.beside >= 4
    connection = apsw.Connection(str(new))
    leases = connection.execute("SELECT trace_id, epoch FROM lease JOIN trace ON id = trace ORDER BY 1").fetchall()
    connection.close()
    assert leases == [("run-left", 1), ("run-retry", 2), ("run-stopped", 1), ("run-waiting", 1)]


def test_an_erased_trace_stays_erased(path, record, new):
    with es.open(path) as store:
        record(store, 5)
        record(store, 5, id="gone")
        store.erase("gone")
    assert salvage(path, new).ok
    with es.open(new) as store, pytest.raises(es.TraceErased):
        store.open_trace("gone")


def test_a_keyed_file_is_judged_with_its_key(path, record, new, tamper):
    key = "0123456789abcdef"
    with es.open(path, chain_key=key) as store:
        record(store, 5)
    for other in (None, "another key, as long"):
        with pytest.raises(es.WrongChainKey):
            salvage(path, new, chain_key=other)
    assert not new.exists()
    assert salvage(path, new, chain_key=key).ok
    with es.open(new, chain_key=key) as store:
        assert store.verify().ok


def test_the_file_may_be_open_in_this_process_and_keeps_its_locks(path, record, new):
    with es.open(path) as store:
        trace = record(store, 5)
        assert salvage(path, new).ok
        other = apsw.Connection(path)
        with store._database.reader(), pytest.raises(apsw.BusyError):
            other.pragma("journal_mode", "delete")  # it would, if the reader's lock were gone
        other.close()
        with trace.step("more") as step:
            step.put("n", 1)
        assert store.verify().ok


def test_what_is_no_event_store_is_refused_and_nothing_is_written_over(path, tmp_path, new, store):
    (tmp_path / "short.db").write_bytes(b"hello")
    with pytest.raises(es.NotAnEventStore, match="shorter than a page"):
        salvage(tmp_path / "short.db", new)
    connection = apsw.Connection(str(tmp_path / "other.db"))
    connection.execute("CREATE TABLE person (name TEXT)")
    connection.close()
    with pytest.raises(es.NotAnEventStore, match="another application"):
        salvage(tmp_path / "other.db", new)
    with pytest.raises(es.StorageError, match="no such file"):
        salvage(tmp_path / "nowhere.db", new)
    new.write_bytes(b"mine")
    for target in (new, Path(path)):
        with pytest.raises(es.StorageError, match="nothing was salvaged"):
            salvage(path, target)
    assert new.read_bytes() == b"mine"


def test_noise_behind_a_header_is_no_event_store(damaged, new, tmp_path, sound):
    damaged.write_bytes(sound[:100] + bytes(i * 7 % 251 for i in range(40 * PAGE - 100)))
    with pytest.raises(es.NotAnEventStore, match="no page of it can be read as one of an event store; is it encrypted"):
        salvage(damaged, new)
    assert [path.name for path in tmp_path.iterdir()] == [damaged.name]


def test_what_stands_behind_damage_in_the_wal_is_found_though_sqlite_goes_no_further(damaged, new, tmp_path):
    source = tmp_path / "runs.db"
    with es.open(source) as store:
        trace = store.start({}, id="t1")
        for number in range(100):
            trace.append([es.StateDelta.put("n", number)])
        damaged.write_bytes(source.read_bytes())
        wal = bytearray(Path(f"{source}-wal").read_bytes())
    wal[len(wal) // 2] ^= 1
    Path(f"{damaged}-wal").write_bytes(wal)
    report = salvage(damaged, new)
    assert report.kept == 1 and report.events == 101 and report.damaged_pages and not report.ok
    with es.open(new) as store, es.open(damaged) as by_sqlite:
        assert store.state_at("t1") == {"n": 99}
        assert by_sqlite.open_trace("t1").version < 60  # the control


def test_cells_that_all_claim_one_endless_record_come_to_an_end(sound, damaged, new, tmp_path):
    root = root_of(sound, "log", tmp_path)
    cells = 1500
    page = bytearray(PAGE)
    page[0:8] = bytes([13, 0, 0]) + cells.to_bytes(2, "big") + bytes([0, 0, 0])
    for number in range(cells):
        page[8 + 2 * number : 10 + 2 * number] = (3500).to_bytes(2, "big")
    page[3500:3504] = bytes([0x80 | (250_000 >> 14), 0x80 | (250_000 >> 7 & 0x7F), 250_000 & 0x7F, 1])
    data = bytearray(sound)
    data[(root - 1) * PAGE : root * PAGE] = page
    damaged.write_bytes(data)
    with Pages(str(damaged)) as pages:
        assert list(records(pages, root)) == [None] * cells
    assert salvage(damaged, new).problems == []


def test_the_parts_read_what_the_file_format_says(sound, damaged):
    assert varint(b"\x81\x00", 0) == (128, 2) and varint(b"\xff" * 9, 0) == (2**64 - 1, 9)
    assert decoded(bytes([7, 0, 8, 9, 1, 0x13, 0x0E]) + b"\xff" + b"abc" + b"x") == [None, 0, 1, -1, "abc", b"x"]
    for wrong in (bytes([3, 1, 1, 5]), bytes([2, 10]), bytes([2, 1, 5, 5])):
        with pytest.raises((Unreadable, IndexError)):
            decoded(wrong)
    damaged.write_bytes(sound)
    connection = apsw.Connection(str(damaged), flags=apsw.SQLITE_OPEN_READONLY)
    roots = dict(connection.execute(ROOTS))
    by_sqlite = connection.execute("SELECT name, pageno FROM dbstat WHERE pagetype <> 'overflow'").fetchall()
    connection.close()
    with Pages(str(damaged)) as pages:
        trees = Trees(pages)
        trees.claim(sorted({1, *roots.values()}))
        ours = {name: set(trees.of[root]) for name, root in roots.items()} | {"sqlite_schema": set(trees.of[1])}
    theirs = {}
    for name, number in by_sqlite:
        theirs.setdefault(name, set()).add(number)
    assert ours == theirs


def test_what_was_erased_is_not_brought_back_out_of_a_damaged_write_ahead_log(path, tmp_path):
    with es.open(path) as store:
        store.start({"kept": "plain"}, id="kept")
        store.start({"word": "SECRET" * 300}, id="secret")
        store._database.writer.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        with store._database.reader() as held:
            held.execute("SELECT count(*) FROM log").fetchall()
            store.start({"kept": "too"}, id="later")
            (removed,) = store.erase("secret")
            assert not removed.wal_truncated
            main, log = (bytes_at(f"{path}{suffix}") for suffix in ("", "-wal"))
    frames = (len(log) - 32) // (4096 + 24)
    assert frames > 20
    for number in range(frames):
        damaged = bytearray(log)
        damaged[32 + number * (4096 + 24) + 100] ^= 1
        old, new = tmp_path / f"old-{number}.db", tmp_path / f"new-{number}.db"
        old.write_bytes(main)
        Path(f"{old}-wal").write_bytes(damaged)
        es.salvage(old, new)
        assert b"SECRET" not in new.read_bytes(), f"frame {number}"


def bytes_at(name):
    """Of an open file, so through another process."""
    return subprocess.run(["cat", name], capture_output=True, check=True).stdout
