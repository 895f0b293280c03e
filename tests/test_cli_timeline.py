"""`eventstore timeline`: a chart for people, columns for pipes, JSON for machines, pictures for others."""

from __future__ import annotations

import json
import re
from datetime import timedelta
from io import StringIO
from pathlib import Path
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner
from rich.cells import cell_len
from rich.console import Console
from test_cli import COLOURS, HOSTILE, in_terminal
from test_timeline import built, write

import eventstore as es
from eventstore.chart import rows_of
from eventstore.cli import main
from eventstore.cli.output import Output
from eventstore.cli.timing import _Chart
from eventstore.event import NodeExecuted, utc
from eventstore.run_event import BranchExecuted, NodeIntended
from eventstore.span import Span, Timeline

HOUR_US = 3_600_000_000


@pytest.fixture
def db(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("EVENTSTORE_DB", raising=False)
    return tmp_path / "eventstore.db"


@pytest.fixture
def run(db):
    def invoke(*arguments, code=0):
        result = CliRunner().invoke(main, ["timeline", *arguments])
        assert result.exit_code == code, result.output
        assert "Traceback" not in result.output
        return result

    return invoke


@pytest.fixture
def refunded(db, monkeypatch):
    """A run that failed once, had branches, and waited two hours for ana."""
    import time

    graph = built(failing=1, retry=1, side_effects=False)
    with es.open(db) as store:
        es.run(graph, store, {}, id="t1")
        now_ns = time.time_ns
        monkeypatch.setattr(time, "time_ns", lambda: now_ns() + 2 * HOUR_US * 1000)
        store.decide("t1", "approve", es.Approve(by="ana"))
        es.resume(graph, store, "t1")
    return db


def shown(db, *arguments, columns=100):
    """The lines of a terminal, without colours."""
    text = in_terminal(db, ["timeline", *arguments], columns)
    return COLOURS.sub("", text).replace("\r", "").splitlines()


def row(lines, name):
    found = [line for line in lines if re.search(rf"\b{re.escape(name)}\b", line)]
    assert found, lines
    return found[0]


# A terminal


def test_a_terminal_shows_a_row_for_each_span_and_each_wait(refunded):
    lines = shown(refunded, "t1")
    assert re.fullmatch(r"refund, t1: completed  \d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC", lines[0])
    assert lines[1].split()[:3] == ["step", "node", "try"] and lines[1].split()[-2:] == ["took", "cost"]
    assert re.match(r" +1  ask +█", lines[2]) and lines[2].endswith("0.25")
    assert re.match(r" +2  gather +[ ‖]*█", lines[3])
    assert re.match(r" +2    (search|look) ", lines[4])
    assert "░◆" in row(lines, "approve#1") or "◆" in row(lines, "approve#1")
    assert "waited 2 h by ana: approve" in row(lines, "approve#1")
    failed, again = (line for line in lines if re.search(r"\bpay\b", line))
    assert "█" in failed and "ConnectionError" in failed
    assert re.match(r" +4  pay +2  ", again)
    assert any(line.startswith("‖ cut where nothing ran: ") and "2 h" in line for line in lines)
    assert "4 steps, active" in lines[-1] and "waited 2 h" in lines[-1] and "1 failed" in lines[-1]


def test_two_hours_of_waiting_do_not_swallow_the_axis(refunded):
    lines = shown(refunded, "t1")
    (wait,) = (line for line in lines if "waited 2 h by" in line)
    assert wait.count("░") + wait.count("◆") <= 4
    assert sum(line.count("█") for line in lines) > 30
    assert all("‖" in row(lines, name) for name in ("ask", "gather"))


def test_failed_rows_are_red_and_side_effects_are_marked(db):
    with es.open(db) as store:
        trace = store.start({}, id="t1", name="run")
        trace.append([NodeExecuted("good", duration_ms=5, has_side_effects=True)])
        trace.append([NodeExecuted("bad", False, "boom", duration_ms=5)])
        write(trace, NodeIntended("pay", "key"))
    text = in_terminal(db, ["timeline", "t1"])
    lines = text.splitlines()
    assert "\x1b[31m" in next(line for line in lines if "bad" in line)
    assert "\x1b[31m" not in next(line for line in lines if "good" in line)
    assert "good*" in text and "bad*" not in text
    assert "has not ended" in next(line for line in lines if "pay*" in line)


@pytest.mark.parametrize("columns", [60, 61, 80, 100, 200])
def test_every_row_fits_the_terminal(refunded, columns):
    lines = shown(refunded, "t1", columns=columns)
    chart = lines[1 : next(place for place, line in enumerate(lines) if line.startswith("‖"))]
    assert len(chart) == 9
    assert {cell_len(line) for line in chart} == {columns}


@pytest.mark.parametrize("columns", [20, 21, 25, 29, 30, 37, 45])
def test_no_row_is_wider_than_a_narrow_terminal(refunded, columns):
    lines = shown(refunded, "t1", columns=columns)
    assert max(cell_len(line) for line in lines) <= columns
    start = next(place for place, line in enumerate(lines) if line.lstrip().startswith("step"))
    chart = lines[start : start + 9]
    assert {cell_len(line) for line in chart} == {columns}
    assert all(re.search("[█░◆]", line) for line in chart[1:]) and "pay" in chart[-1]


@pytest.mark.parametrize("columns", [*range(1, 50), 80])
def test_the_chart_of_a_long_run_fits_too(columns):
    told = Timeline("t1", "", "running", 3, utc(0), utc(9), utc(9), spans=[
        Span(10**9, "n" * 50, utc(0), 3, 3, utc(9_000_000), True, duration_ms=9e15, token_cost=1.234e9, attempt=3),
        Span(2, "b", utc(0), 4, 4, utc(12), False, error="no\u200b " * 20, branch="日本" * 20),
    ])  # fmt: skip
    rows, _ = rows_of(told)
    console = Console(file=StringIO(), width=columns)
    output = Output(False)
    output.terminal, output.console = True, console
    _Chart(columns, rows, told).print(output)
    lines = console.file.getvalue().splitlines()
    assert len(lines) == 3 and max(map(cell_len, lines)) <= columns
    assert columns < 20 or {cell_len(line) for line in lines} == {columns}


@pytest.mark.parametrize(
    "name", ["a\u200b", "\u200b\u200d", "a\u200d", "a\u2060b\ufeff", "❤\ufe0f", "e\u0301", "\u0301e"]
)
def test_characters_without_width_do_not_shift_a_row(db, name):
    with es.open(db) as store:
        trace = store.start({}, id="t1", name="run")
        trace.append([NodeExecuted(name, False, f"no {name}", duration_ms=0)])
        trace.append([NodeExecuted("other", duration_ms=900)])
    lines = shown(db, "t1", columns=70)
    assert [cell_len(line) for line in lines[1:4]] == [70] * 3
    assert not re.search("[\u200b\u200d\u2060\ufe0f\ufeff]", "".join(lines))


def test_wide_and_hostile_names_keep_the_columns(db):
    with es.open(db) as store:
        trace = store.start({}, id="t1", name=HOSTILE)
        for name in ("日本語の名前がとても長い", HOSTILE, "x" * 200, "e\u0301"):
            trace.append([NodeExecuted(name, False, HOSTILE + "日本" * 100, duration_ms=3)])
        trace.raise_barrier(HOSTILE, prompt=HOSTILE)
        trace.decide(HOSTILE, es.Reject(HOSTILE, by=HOSTILE))
    text = in_terminal(db, ["timeline", "t1"], 70)
    assert "\x1b]0" not in text and "\x1b[2J" not in text and "\u202e" not in text
    lines = COLOURS.sub("", text).replace("\r", "").splitlines()
    assert [cell_len(line) for line in lines[2:7]] == [70] * 5
    plain = CliRunner().invoke(main, ["timeline", "t1"]).stdout
    assert "\x1b" not in plain and len(plain.splitlines()) == 7


def test_a_long_run_shows_its_last_rows_and_how_to_see_all(db):
    with es.open(db, durability="normal") as store:
        trace = store.start({}, id="t1")
        for _ in range(300):
            trace.append([NodeExecuted("work", duration_ms=1)])
    lines = shown(db, "t1")
    steps = [int(line.split()[0]) for line in lines if "work" in line]
    assert steps == list(range(101, 301))
    assert lines[-1] == "100 earlier rows not shown; all: eventstore --db " + f"{db} timeline t1 --limit 300"
    steps = [int(line.split()[0]) for line in shown(db, "t1", "--limit", "3") if "work" in line]
    assert steps == [298, 299, 300]
    assert not any("earlier" in line for line in shown(db, "t1", "--limit", "300"))


def test_a_fork_and_a_trim_say_so(db):
    with es.open(db) as store:
        trace = store.start({}, id="t1")
        for _ in range(3):
            trace.append([NodeExecuted("work", duration_ms=1)])
        store.fork("t1", id="t2")
        store.fork("t1", id="t4")
        other = store.start({}, id="t3")
        other.append([NodeExecuted("work")])
        other.append([NodeExecuted("more")])
        store.trim("t3", 2, retry_window_s=0)
    assert "Forked from t1 at 4; what ran there is dim." in shown(db, "t2")
    assert "2 forks" in shown(db, "t1")[-1]
    lines = shown(db, "t3")
    assert "The history up to event 2 was trimmed." in lines and row(lines, "more").split()[0] == "2"


def test_nothing_ran_yet(db, run):
    with es.open(db) as store:
        store.start({}, id="t1")
    assert "Nothing has run yet." in shown(db, "t1")
    assert run("t1").stdout.splitlines()[1] == "0 steps, active 0 µs"


def test_a_retry_that_is_due_is_told(db, run):
    with es.open(db) as store:
        trace = store.start({}, id="t1")
        trace.append([NodeExecuted("pay", False, "no", retry_at_us=4_000_000_000_000_000)])
    assert "pay again at 2096-10-02 07:06:40 UTC" in run("t1").stdout.splitlines()[-1]


def test_a_bar_as_long_as_the_axis_holds_its_words(db):
    with es.open(db) as store:
        trace = store.start({}, id="t1")
        trace.append([NodeExecuted("all", False, "boom", duration_ms=5000)])
    assert "█ boom █" in row(shown(db, "t1"), "all")


# A pipe


def test_a_pipe_gets_columns_of_numbers_and_no_bars(refunded, run):
    lines = run("t1").stdout.splitlines()
    header = "what step node attempt began (UTC) duration_ms cost effects checkpoints detail"
    assert lines[0].split() == header.split()
    assert [line.split()[:4] for line in lines[1:3]] == [["node", "1", "ask", "1"], ["node", "2", "gather", "1"]]
    assert {tuple(line.split()[:3]) for line in lines[3:5]} == {
        ("branch", "2/search", "gather/search"), ("branch", "2/look", "gather/look")}  # fmt: skip
    wait = lines[5].split()
    assert wait[:4] == ["wait", "-", "approve#1", "-"] and 7_200_000 <= float(wait[5]) < 7_260_000
    assert lines[5].endswith("waited 2 h by ana: approve") and "human_decision" in lines[5]
    assert lines[7].split()[:4] == ["failed", "-", "pay", "1"] and "bank unreachable" in lines[7]
    assert not re.search("[█░▒‖◆\x1b]", "".join(lines))
    assert lines[-1].startswith("4 steps, active ")
    with es.open(refunded, read_only=True) as store:
        began = next(iter(store.open_trace("t1").entries())).start_time
    assert lines[1].split()[4] == f"{began:%Y-%m-%dT%H:%M:%S.%f}Z"


def test_a_pipe_gets_all_rows_unless_limited(db, run):
    with es.open(db, durability="normal") as store:
        trace = store.start({}, id="t1")
        for _ in range(300):
            trace.append([NodeExecuted("work")])
        write(trace, NodeIntended("pay", "key"), BranchExecuted("both/a", has_side_effects=True))
    assert len(run("t1").stdout.splitlines()) == 1 + 303 + 1
    whats = [line.split()[0] for line in run("t1", "--limit", "4").stdout.splitlines()]
    assert whats == ["what", "node", "open", "open", "branch", "300"]


# JSON


def test_json_is_the_timeline(refunded, run):
    told = Timeline.from_json(run("t1", "--json").stdout)
    with es.open(refunded, read_only=True) as store:
        from eventstore.timeline import timeline

        assert told == timeline(store, "t1", now=told.seen_at)
    data = json.loads(run("t", "--json").stdout)
    assert (data["trace_id"], data["spans"][0]["node"], data["waits"][0]["by"]) == ("t1", "ask", "ana")
    assert timedelta(seconds=data["waits"][0]["waited_s"]) >= timedelta(hours=2)


# Pictures


def test_pictures_are_written_to_files(refunded, run):
    written = run("t1", "--svg", "run.svg", "--mermaid", "run.mmd")
    assert (written.stdout, written.stderr) == ("", "Wrote run.svg.\nWrote run.mmd.\n")
    root = ElementTree.fromstring(Path("run.svg").read_bytes())
    assert root.get("width") == "900"
    assert Path("run.mmd").read_text("utf-8").startswith("gantt\n    title refund#58; completed\n")


def test_one_picture_can_go_to_stdout(refunded, run):
    assert ElementTree.fromstring(run("t1", "--svg", "-").stdout).tag.endswith("svg")
    assert run("t1", "--mermaid", "-", "--limit", "1").stdout.count(" :") == 2  # the row, and its checkpoint
    for both in (["--svg", "-", "--mermaid", "-"], ["--json", "--svg", "run.svg"], ["--json", "--mermaid", "-"]):
        assert "one thing at a time" in run("t1", *both, code=2).stderr


def test_a_place_where_no_file_can_be_is_told_in_a_line(refunded, run):
    failed = run("t1", "--svg", "absent/run.svg", code=1)
    assert failed.stderr == "Error: absent/run.svg: No such file or directory\n"


def test_an_unknown_trace_is_told_in_a_line(refunded, run):
    assert run("absent", code=1).stderr == "Error: no trace absent in this store\n"
