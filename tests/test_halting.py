"""After an I/O error the store halts: what the disk holds is not known, and a retry after reopening settles it."""

from __future__ import annotations

import errno

import apsw
import pytest

import eventstore as es

PUT = es.StateDelta.put


class FaultyFile(apsw.VFSFile):
    def __init__(self, vfs, name, flags):
        super().__init__(vfs.base_vfs, name, flags)
        text = name.filename() if isinstance(name, apsw.URIFilename) else str(name)
        self.vfs, self.kind = vfs, "wal" if text.endswith("-wal") else "file"

    def xSync(self, flags):
        self.vfs.happens("sync", self.kind)
        return super().xSync(flags)

    def xWrite(self, data, offset):
        self.vfs.happens("write", self.kind)
        return super().xWrite(data, offset)


class FaultyVFS(apsw.VFS):
    """The default VFS, which counts, and raises `error` at the n-th `operation` from now."""

    def __init__(self):
        self.counts = {}
        self.operation = None
        super().__init__("faulty", "", makedefault=True)

    def xOpen(self, name, flags):
        return FaultyFile(self, name, flags)

    @property
    def base_vfs(self):
        return "unix"

    def fail(self, operation, error, after=0):
        self.operation, self.error, self.left = operation, error, after

    def happens(self, operation, kind):
        self.counts[operation, kind] = self.counts.get((operation, kind), 0) + 1
        if operation == self.operation:
            if self.left == 0:
                raise self.error("injected")
            self.left -= 1


@pytest.fixture
def disk():
    before = apsw.vfs_names()[0]
    vfs = FaultyVFS()
    yield vfs
    apsw.set_default_vfs(before)
    vfs.unregister()


@pytest.fixture
def healthy(path, disk):
    """A store over the faulty disk, with one trace at version 2; and that trace."""
    store = es.open(path)
    trace = store.start({"n": 0}, id="t1")
    trace.append([PUT("n", 1)])
    yield store, trace
    disk.operation = None
    store.close()


def test_one_append_is_one_sync(healthy, disk):
    _, trace = healthy
    disk.counts.clear()
    for number in range(50):
        with trace.step("work") as step:
            step.put("n", number)
    assert disk.counts.get(("sync", "wal")) == 50
    assert ("sync", "file") not in disk.counts


def test_normal_durability_syncs_decisions_only(path, disk):
    with es.open(path, durability="normal") as store:
        trace = store.start({"n": 0}, id="t1")
        disk.counts.clear()
        for number in range(20):
            with trace.step("work") as step:
                step.put("n", number)
        barrier = trace.raise_barrier("ask")
        assert ("sync", "wal") not in disk.counts
        trace.decide(barrier, es.Approve())
        assert disk.counts["sync", "wal"] == 1
        trace.note("more")
        assert disk.counts["sync", "wal"] == 1


@pytest.mark.parametrize("operation", ["sync", "write"])
@pytest.mark.parametrize(
    "act",
    [
        lambda store, trace: trace.append([PUT("n", 2)], append_id="job-7"),
        lambda store, trace: trace.append([es.BarrierRaised("ask#1", "ask")], append_id="job-7"),
    ],
    ids=["one row", "with a projection"],
)
def test_an_io_error_halts_the_store_and_names_the_append(healthy, disk, operation, act):
    store, trace = healthy
    disk.fail(operation, apsw.IOError)
    with pytest.raises(es.StoreHalted) as halted:
        act(store, trace)
    error = halted.value
    assert (error.trace_id, error.append_id, error.expected_version) == ("t1", "job-7", 2)
    assert "reopen the store" in str(error)
    assert trace.version == 2 and trace.state == {"n": 1}


def test_after_halting_every_call_raises_though_the_disk_is_well_again(healthy, disk):
    store, trace = healthy
    disk.fail("sync", apsw.IOError)
    with pytest.raises(es.StoreHalted):
        trace.append([PUT("n", 2)])
    disk.operation = None
    for act in (
        lambda: trace.append([PUT("n", 2)]),
        lambda: trace.note("seen"),
        lambda: trace.refresh(),
        lambda: trace.checkpoint(),
        lambda: store.start(),
        lambda: store.open_trace("t1"),
        lambda: store.state_at("t1"),
        lambda: list(store.events("t1")),
        lambda: store.traces(),
        lambda: store.verify(),
        lambda: store.stats(),
        lambda: store.drop_bases(),
        lambda: store.checkpoints.list("t1"),
    ):
        with pytest.raises(es.StoreHalted):
            act()


def test_a_halted_store_checkpoints_nothing_on_close(healthy, disk, path, tmp_path):
    store, trace = healthy
    disk.fail("sync", apsw.IOError)
    with pytest.raises(es.StoreHalted):
        trace.append([PUT("n", 2)])
    disk.operation = None
    disk.counts.clear()
    store.close()
    assert disk.counts == {}
    assert (tmp_path / "runs.db-wal").stat().st_size > 0


@pytest.mark.parametrize("operation", ["sync", "write"])
@pytest.mark.parametrize("append_id", ["job-7", None], ids=["given id", "own id"])
def test_a_retry_after_reopening_settles_whether_it_landed(healthy, disk, path, operation, append_id):
    store, trace = healthy
    disk.fail(operation, apsw.IOError)
    with pytest.raises(es.StoreHalted) as halted:
        trace.append([es.StateDelta("n", "sum", 5)], append_id=append_id)
    disk.operation = None
    store.close()
    with es.open(path) as reopened:
        again = reopened.append(
            "t1",
            [es.StateDelta("n", "sum", 5)],
            append_id=halted.value.append_id,
            expected_version=halted.value.expected_version,
        )
        assert (again.first_seq, again.version) == (3, 3)
        assert reopened.state_at("t1") == {"n": 6}
        assert reopened.verify().ok


def test_a_failure_inside_a_batch_names_each_append(healthy, disk):
    store, trace = healthy
    other = store.start({"n": 0}, id="t2")
    pendings = [
        trace._prepare_events([PUT("n", 2)], 2, "mine"),
        other._prepare_events([PUT("n", 2)], 1, "theirs"),
    ]
    disk.fail("sync", apsw.IOError)
    store._writer.commit_batch(pendings)
    found = [(type(p.error), p.error.trace_id, p.error.append_id, p.error.expected_version) for p in pendings]
    assert found == [(es.StoreHalted, "t1", "mine", 2), (es.StoreHalted, "t2", "theirs", 1)]


def test_a_full_disk_halts_nothing(healthy, disk):
    store, trace = healthy
    disk.fail("write", apsw.FullError)
    with pytest.raises(es.StorageFull, match="nothing was written"):
        trace.append([PUT("n", 2)])
    assert store.state_at("t1") == trace.state == {"n": 1}
    disk.operation = None
    trace.append([PUT("n", 2)])
    assert store.state_at("t1") == trace.state == {"n": 2}
    assert store.verify().ok


def test_a_full_disk_never_hides_the_error_of_a_step(healthy, disk):
    _, trace = healthy
    disk.fail("write", apsw.FullError)
    with pytest.raises(es.StorageFull) as full, trace.step("work"):
        raise OSError(errno.EIO, "the step's own")
    assert isinstance(full.value.__context__, OSError) or isinstance(full.value.__cause__.__context__, OSError)
