"""`python -m benchmarks check`: figures are counted, the same every time, and a change of one fails either way."""

from __future__ import annotations

import json

import apsw
import pytest
from click.testing import CliRunner

import eventstore as es
from benchmarks import check
from benchmarks.counting import machine, opcodes, restores, steady, strace, vfs
from benchmarks.counting.costs import costs, shorter
from benchmarks.counting.expected import Expected, compare
from benchmarks.counting.figures import Figures
from benchmarks.counting.pages import pages
from benchmarks.counting.writes import VFS, watcher
from benchmarks.workloads import Work

NOTES = """\
10 fdatasync(3</runs/a.db-wal>)    = 0
10 pwrite64(3</runs/a.db-wal>, ""..., 4120, 0) = 4120
10 write(1<pipe:[77]>, ""..., 12)  = 12
10 pwrite64(4</runs/b.db>, ""..., 512, 0) = 512
11 fdatasync(3</runs/a.db-wal> <unfinished ...>
10 fsync(4</runs/b.db> <unfinished ...>
12 pwrite64(5</runs/a.db>, ""..., 100, 0 <unfinished ...>
11 <... fdatasync resumed>)        = 0
10 <... fsync resumed>)            = 0
12 <... pwrite64 resumed>)         = 90
12 fsync(5</runs/a.db>)            = -1 EINTR (Interrupted system call)
12 writev(5</runs/a.db>, [{iov_base=""..., iov_len=3}, {iov_base=""..., iov_len=4}], 2) = 7
10 --- SIGCHLD {si_signo=SIGCHLD, si_code=CLD_EXITED} ---
12 fsync(5</runs/a.db> <unfinished ...>
12 +++ exited with 0 +++
"""


# Counting


def test_strace_is_read_thread_by_thread_and_other_paths_are_left_out():
    assert strace.counted(NOTES, "/runs/a.db") == (2, 4120 + 90 + 7)
    assert strace.counted(NOTES, "/runs/b.db") == (1, 512)
    assert strace.counted(NOTES, "/runs/") == (3, 4120 + 90 + 7 + 512)
    assert strace.counted(NOTES, "/elsewhere") == (0, 0)


def test_strace_prints_what_is_not_ascii_in_octal():
    assert strace.counted(r"7 fsync(3</runs/caf\303\251.db>) = 0", "/runs/café.db") == (1, 0)


def test_a_step_is_one_sync_under_full_and_none_under_normal(path):
    work = Work("chat", steps=9)
    full, normal = (costs(name, path, work, VFS) for name in ("engine", "engine-normal"))
    assert (full.syncs_per_step, normal.syncs_per_step) == (1, 0)
    assert full.bytes_per_step == normal.bytes_per_step > 300
    assert full.how == "an apsw VFS"


def test_every_watcher_sees_the_same(path):
    work = Work("chat", steps=9)
    seen = [costs("floor", path, work, by) for by in (watcher(), VFS)]
    assert seen[0].syncs_per_step == seen[1].syncs_per_step == 1
    assert seen[0].bytes_per_step == seen[1].bytes_per_step


def test_the_vfs_sees_the_measured_path_alone(path, tmp_path):
    with vfs.counting(path) as counts:
        for file in (path, str(tmp_path / "other.db")):
            connection = apsw.Connection(file)
            connection.execute("BEGIN; CREATE TABLE t (a); INSERT INTO t VALUES (zeroblob(9000)); COMMIT")
            connection.close()
    assert counts.files == 2  # the file and its journal
    assert counts.syncs > 0
    assert 4 * 4096 < counts.written_bytes < 2 * 4 * 4096


def test_a_restore_reads_what_the_engine_says_it_reads(path, store, record):
    trace = record(store, 400)
    with restores.counting() as reads, es.open(path, read_only=True) as reader:
        reader.state_at(trace.id, trace.version - 9)
    _, _, told = store._reader.restore(trace.id, trace.version - 9)
    assert told.chain_bytes and told.tail_bytes
    assert (reads.link_bytes, reads.tail_bytes) == (told.chain_bytes, told.tail_bytes)
    assert (reads.links, reads.tail_rows) == (len(chain(path, told.base_id)), told.tail_rows)


def chain(path, base):
    """The row ids of a base and of those below it."""
    connection, ids = apsw.Connection(path), []
    while base:
        ids.append(base)
        base = connection.execute("SELECT parent FROM base WHERE id = ?", (base,)).get
    connection.close()
    return ids


def test_opcodes_are_those_of_all_that_is_called():
    def inner(count):
        return sum(number for number in range(count))

    less, more = opcodes.counted(lambda: inner(10)), opcodes.counted(lambda: inner(20))
    assert (more - less) % 10 == 0 and more > less
    assert opcodes.counted(lambda: inner(20)) == more
    assert opcodes.counted(lambda: inner(20), inside="/nowhere") == 0


def test_opcodes_of_a_run_are_the_same_in_every_process(path, tmp_path):
    work = Work("overwrite", steps=12)
    found = {opcodes.fresh(steady.opcodes_of_steps, str(tmp_path / f"{number}.db"), work) for number in range(2)}
    assert len(found) == 1 and found.pop() > 12 * 100


def test_valgrind_leaves_its_count_in_the_last_line_or_the_first():
    assert machine.collected("events: Ir\n12 300\nsummary: 1234567\n") == 1234567
    assert machine.collected("version: 1\ntotals: 89\n") == 89
    with pytest.raises(ValueError, match="no summary"):
        machine.collected("events: Ir\n")


def test_pages_of_a_closed_file_are_told_by_table_and_index(path):
    connection = apsw.Connection(path)
    connection.execute("CREATE TABLE kept (a); CREATE TABLE gone (a); INSERT INTO kept VALUES (zeroblob(9000))")
    connection.execute("INSERT INTO gone VALUES (zeroblob(9000)); DROP TABLE gone")
    connection.close()
    found = pages(path)
    assert found.by_tree is None or found.by_tree == {"kept": 3, "sqlite_schema": 1}
    assert (found.page_bytes, found.total, found.free) == (4096, 7, 3)


def test_a_work_that_cannot_be_made_shorter_is_refused():
    assert shorter(Work("chat", steps=30)).steps == 10
    assert shorter(Work("small-runs", runs=30)).runs == 10
    with pytest.raises(ValueError, match="cannot be made shorter"):
        shorter(Work("small-runs", runs=1))


# Comparing

COMMITTED = Expected(
    {"chat.syncs_per_step_full": 1.0, "chat.bytes_per_step": 1000.0, "chat.links_per_restore": 0.0},
    {"3.11": {"node.opcodes_per_visit": 2000.0}},
)
AS_COMMITTED = COMMITTED.counts | COMMITTED.opcodes["3.11"]


def failing(change, python="3.11", missing=(), expected=COMMITTED):
    """The names that fail when some figures are others than committed; None: not found."""
    found = {name: figure for name, figure in (AS_COMMITTED | change).items() if figure is not None}
    lines = compare(Figures(python, found, dict(missing)), expected)
    return [line.figure for line in lines if not line.ok]


def test_what_is_as_committed_passes():
    assert failing({}) == []


@pytest.mark.parametrize(
    ("name", "within", "beyond"),
    [
        ("chat.syncs_per_step_full", [], [0.9999, 1.0001, 2.0]),
        ("chat.links_per_restore", [], [0.1]),
        ("chat.bytes_per_step", [995.5, 1004.5], [990.0, 1010.0, 0.0]),
        ("node.opcodes_per_visit", [1991.0, 2009.0], [1980.0, 2020.0]),
    ],
)
def test_a_change_fails_up_and_down_and_a_small_one_passes_where_small_ones_are_possible(name, within, beyond):
    assert [failing({name: figure}) for figure in within] == [[]] * len(within)
    assert [failing({name: figure}) for figure in beyond] == [[name]] * len(beyond)


def test_opcodes_of_a_python_without_committed_ones_are_told_and_do_not_fail():
    assert failing({"node.opcodes_per_visit": 5.0}, python="3.13") == []
    lines = compare(Figures("3.13", AS_COMMITTED, {}), COMMITTED)
    assert [line.note for line in lines if line.note] == ["nothing is committed for Python 3.13"]
    assert "no opcodes are committed for Python 3.13" in check.verdict(lines, "3.13", COMMITTED)[0]


def test_a_figure_that_appears_or_disappears_fails_unless_it_cannot_be_counted_here():
    assert failing({"chat.file_bytes": 4096.0}) == ["chat.file_bytes"]
    assert failing({"node.opcodes_per_tail": 7.0}) == ["node.opcodes_per_tail"]
    assert failing({"node.opcodes_per_visit": None}) == ["node.opcodes_per_visit"]
    assert failing({"node.opcodes_per_visit": None}, missing={"node.opcodes_per_visit": "not installed"}) == []


def test_an_update_keeps_what_was_not_counted_and_other_versions(tmp_path):
    figures = Figures("3.12", {"chat.bytes_per_step": 900.0, "node.opcodes_per_visit": 7.0}, {"chat.gone": "why"})
    before = Expected({"chat.bytes_per_step": 1000.0, "chat.gone": 1.0, "chat.old": 2.0}, COMMITTED.opcodes)
    before.updated(figures).save(tmp_path / "expected.json")
    assert Expected.load(tmp_path / "expected.json") == Expected(
        {"chat.bytes_per_step": 900.0, "chat.gone": 1.0}, {**COMMITTED.opcodes, "3.12": {"node.opcodes_per_visit": 7.0}}
    )


# The command


@pytest.fixture
def run(monkeypatch, tmp_path):
    """`run(figures, *options)`: the command where these are the figures found."""
    file = tmp_path / "expected.json"
    COMMITTED.save(file)

    def call(change, *options):
        monkeypatch.setattr(check, "figures", lambda: Figures("3.11", AS_COMMITTED | change, {}))
        return CliRunner().invoke(check.command, ["--file", str(file), *options])

    return call


def test_the_command_fails_on_an_improvement_until_it_is_committed(run):
    better = {"node.opcodes_per_visit": 1000.0}
    assert run({}).exit_code == 0
    failed = run(better)
    assert failed.exit_code == 1
    assert "node.opcodes_per_visit" in failed.output and "-50.00%" in failed.output and "--update" in failed.output
    assert run(better, "--update").exit_code == 0
    assert run(better).exit_code == 0
    assert run({}).exit_code == 1


def test_the_command_prints_json(run):
    result = run({"chat.bytes_per_step": 2000.0}, "--json")
    (line,) = [line for line in json.loads(result.stdout) if not line["ok"]]
    assert (result.exit_code, line["figure"], line["expected"], line["found"], line["change"]) == (
        1, "chat.bytes_per_step", 1000.0, 2000.0, 1.0,
    )  # fmt: skip


def test_the_committed_figures_say_that_a_step_is_one_sync_and_a_restore_reads_few_links():
    counts = Expected.load().counts
    assert counts["chat.syncs_per_step_full"] == 1
    assert all(figure <= 100 for name, figure in counts.items() if name.endswith("links_per_restore"))
