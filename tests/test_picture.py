"""Pictures of a timeline: the axis of active time, the rows, an SVG that stands alone, a Mermaid gantt."""

from __future__ import annotations

import re
from itertools import pairwise
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

import eventstore as es
from eventstore.axis import Axis, in_words
from eventstore.chart import axis_of, rows_of
from eventstore.event import utc
from eventstore.picture import MERMAID_CHARACTERS, mermaid, svg
from eventstore.span import CheckpointMark, ForkMark, Span, Timeline, Totals, Wait

SECOND = 1_000_000
HOSTILE = [
    "section x", "title a;b", "click call", "gantt", "a:b, 12", "#comment", "%%{init: {}}%%", "```",
    "<script>x</script>",
    "q\"uo'te", "new\nline", "__proto__", "style x", "", "2024-01-01", "日本語 🎉", "a%%b", "\x1b[31m\x00\u202e\ufffe",
    "&amp;", "#35;", "]]>", "x" * 500,
]  # fmt: skip


def ran(step, began_s, over_s, node="ask", **fields):
    began, over = round(began_s * SECOND), round(over_s * SECOND)
    fields = {"success": True, "duration_ms": (over - began) / 1000} | fields
    return Span(step, node, utc(began), step * 10, step * 10, utc(over), **fields)


def told(spans=(), **fields):
    return Timeline("t1", "chat", "completed", 99, utc(0), utc(0), utc(0), spans=list(spans), **fields)


# The axis


def test_what_ran_keeps_its_length_and_a_day_between_is_a_sliver():
    axis = Axis([(0, 2 * SECOND), (86_400 * SECOND, 86_401 * SECOND)])
    first, second = axis.place(2 * SECOND), 1 - axis.place(86_400 * SECOND)
    assert first == pytest.approx(2 * second)
    assert 0 < 1 - first - second <= 1 / 40
    ((place, length_us),) = axis.breaks
    assert first < place < 1 - second and length_us == 86_398 * SECOND


def test_a_short_stretch_between_is_neither_cut_nor_told():
    axis = Axis([(0, 100 * SECOND), (101 * SECOND, 200 * SECOND)])
    assert axis.breaks == [] and axis.place(101 * SECOND) == pytest.approx(101 / 200)


def test_a_cut_that_nobody_would_notice_is_not_told():
    assert Axis([(0, 30), (50_000, 50_030)]).breaks == []
    assert Axis([(0, 30), (500_000, 500_030)]).breaks[0].length_us == 499_970


def test_many_cuts_together_take_at_most_a_third():
    axis = Axis([(3600 * SECOND * hour, 3600 * SECOND * hour + SECOND) for hour in range(1000)])
    assert len(axis.breaks) == 999
    assert axis.shown_us == pytest.approx(1.5 * axis.active_us)


def test_branches_side_by_side_are_one_activity():
    axis = Axis([(0, 10), (2, 5), (4, 12), (12, 13)])
    assert axis.active_us == axis.shown_us == 13 and axis.breaks == []


def test_what_took_no_time_stands_side_by_side():
    axis = Axis([(at, at) for at in (0, 5, 6)], [100 * SECOND])
    assert [axis.place(at) for at in (0, 5, 6)] == pytest.approx([0, 1 / 3, 2 / 3])
    assert Axis([]).place(5) == 0 and Axis([(3, 3)]).place(3) == 0


stretches = st.lists(st.tuples(st.integers(0, 10**12), st.integers(0, 10**9)), min_size=1, max_size=30)


@given(stretches, st.lists(st.integers(0, 2 * 10**12), max_size=5))
def test_time_never_runs_backwards_on_an_axis(found, points):
    active = [(start, start + length) for start, length in found]
    axis = Axis(active, points)
    times = sorted({at for stretch in active for at in stretch} | set(points))
    places = [axis.place(at) for at in times]
    assert all(before <= after + 1e-12 for before, after in pairwise(places))
    assert places[0] == 0 and (places[-1] == pytest.approx(1) or len(times) == 1)
    assert all(0 <= place <= 1 for place, _ in axis.breaks)
    for start, stop in active:
        shown_us = (axis.place(stop) - axis.place(start)) * axis.shown_us
        assert not axis.active_us or shown_us == pytest.approx(stop - start, abs=1e-9 * axis.shown_us + 1e-3)


@pytest.mark.parametrize(
    ("length_us", "words"),
    [(0, "0 µs"), (999, "999 µs"), (999.9, "1 ms"), (59_900_000, "59.9 s"), (59_960_000, "1 min"),
     (61_000_000, "1 min 1 s"), (3_599_600_000, "1 h"), (3_600_000_000, "1 h"), (86_399_900_000, "1 d"),
     (90_000_000_000, "1 d 1 h"), (1e300, "1e+294 s")],
)  # fmt: skip
def test_a_length_in_words(length_us, words):
    assert in_words(length_us) == words


# Rows


def test_rows_are_in_the_order_of_the_log_with_waits_between():
    timeline = told([ran(1, 0, 1), ran(3, 9, 10)], waits=[Wait("ok#1", "ok", "gate", "", utc(SECOND), 20, 8.0)])
    rows, before = rows_of(timeline)
    assert [row.kind for row in rows] == ["ok", "wait", "ok"] and before == 0
    assert [row.name for row in rows_of(timeline, 2)[0]] == ["ok#1", "ask"] and rows_of(timeline, 2)[1] == 1
    assert rows_of(timeline, 0) == ([], 3)


def test_a_checkpoint_is_on_the_last_row_before_it():
    marks = [CheckpointMark(seq, utc(0), None, [f"at {seq}"], f"c{seq}") for seq in (1, 10, 19, 20, 99)]
    rows, _ = rows_of(told([ran(1, 0, 1), ran(2, 1, 2)], checkpoints=marks))
    assert [[mark.seq for mark in row.marks] for row in rows] == [[1, 10, 19], [20, 99]]
    assert rows_of(told(checkpoints=marks)) == ([], 0)


@pytest.mark.parametrize(
    ("wait", "words"),
    [
        ({}, "waits since 2 h"),
        ({"decision": es.Approve(by="ana"), "by": "ana"}, "waited 2 h by ana: approve"),
        ({"decision": es.Reject("too much")}, "waited 2 h: reject, too much"),
        ({"decision": es.Reroute("talk"), "reason": "in_doubt"}, "waited 2 h (in_doubt): reroute to talk"),
        ({"decision": es.Modify({"n": 1}), "submitted": True}, "decided before it was raised: modify"),
        ({"withdrawn": True}, "waited 2 h, then asked anew by the fork"),
    ],
)
def test_a_wait_in_words(wait, words):
    asked = {"reason": "gate", "prompt": "", "raised_at": utc(0), "raised_seq": 3, "waited_s": 7200.0}
    (row,) = rows_of(told(waits=[Wait("a#1", "a", **asked | wait)]))[0]
    assert row.words == words


def test_a_wait_that_got_no_decision_before_the_end_says_so():
    timeline = told(waits=[Wait("a#1", "a", "gate", "", utc(0), 3, 60.0)], ended_at=utc(60 * SECOND))
    assert rows_of(timeline)[0][0].words == "waited 1 min, never decided"


def test_a_span_without_an_end_takes_no_time_on_the_axis():
    opened = Span(0, "pay", utc(5 * SECOND), 30, 30, has_side_effects=True)
    rows, _ = rows_of(told([ran(1, 0, 1), opened]))
    assert (rows[1].kind, rows[1].words, rows[1].length) == ("open", "has not ended", "")
    assert axis_of(rows).active_us == SECOND


# SVG


def shapes(picture, style):
    root = ElementTree.fromstring(picture)
    return [item for item in root.iter() if item.get("class", "").split()[:1] == [style]]


def test_the_svg_stands_alone_and_has_a_bar_for_each_row():
    waits = [Wait("ok#1", "ok", "gate", "Refund?", utc(SECOND), 15, 7200.0, decision=es.Approve(by="ana"), by="ana")]
    spans = [
        ran(1, 0, 1),
        ran(2, 7201, 7202, "pay", has_side_effects=True),
        ran(3, 7202, 7203, "mail", success=False, error="ConnectionError: <down>"),
        Span(0, "slow", utc(7203 * SECOND), 99, 99),
    ]
    picture = svg(told(spans, waits=waits, checkpoints=[CheckpointMark(20, utc(0), None, ["explicit"], "c")]))
    for style in ("ok", "effect", "wait", "open"):
        assert len([bar for bar in shapes(picture, style) if bar.tag.endswith("rect")]) == 1, style
    assert len([bar for bar in shapes(picture, "failed") if bar.tag.endswith("rect")]) == 1
    assert len(shapes(picture, "mark")) == 1 and len(shapes(picture, "cut")) == 1
    assert "ConnectionError: &lt;down&gt;" in picture and "waited 2 h by ana: approve" in picture and "‖ 2 h" in picture
    assert 'width="900"' in picture and "prefers-color-scheme:dark" in picture
    assert not re.search(r"<script|<image|@import|https?://(?!www\.w3\.org/2000/svg)", picture)


def test_bars_stand_where_the_axis_says():
    picture = svg(told([ran(1, 0, 1), ran(2, 1, 4)]))
    first, second = (bar for bar in shapes(picture, "ok") if bar.tag.endswith("rect"))
    assert float(second.get("width")) == pytest.approx(3 * float(first.get("width")), abs=0.2)
    assert float(first.get("x")) + float(first.get("width")) == pytest.approx(float(second.get("x")), abs=0.2)


@pytest.mark.parametrize("text", HOSTILE)
def test_no_text_breaks_out_of_an_svg(text):
    timeline = replace(told([ran(1, 0, 1, text, success=False, error=text)]), name=text)
    root = ElementTree.fromstring(svg(timeline))
    assert {item.tag.rpartition("}")[2] for item in root.iter()} == {
        "svg", "title", "style", "defs", "pattern", "line", "rect", "text"}  # fmt: skip


def test_the_facts_are_told():
    totals = Totals(1500.0, 60.0, 0.25, 2)
    timeline = told([ran(1, 0, 1), ran(2, 1, 2)], totals=totals, origin=ForkMark("t0", 9, utc(0)), trimmed_seq=5)
    picture = svg(timeline, limit=1)
    for fact in ("active 1.5 s", "waited 1 min", "cost 0.25", "2 failed", "forked from t0 at 9", "trimmed up to 5",
                 "1 earlier row not shown"):  # fmt: skip
        assert fact in picture, fact
    assert len([bar for bar in shapes(picture, "ok") if bar.tag.endswith("rect")]) == 1


def test_nothing_ran_yet():
    assert ElementTree.fromstring(svg(told())).get("height") == "112"
    assert mermaid(told()).splitlines()[0] == "gantt"


# Mermaid

TASK = re.compile(
    r"    [\d·◆‖][^:;#%{}<>`\"'\\]* :(done|crit|active|crit, active|milestone),"
    r" \d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}, (\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}|0ms)"
)
SECTION = re.compile(r"    section [^\s:;#%{}<>`\"'\\_][^:;#%{}<>`\"'\\]*")


def lines_of(text):
    """The lines of a gantt, number codes as Mermaid takes them out before it parses."""
    return [re.sub(r"#\d+;", "¶", line) for line in text.splitlines()]


@pytest.mark.parametrize("text", HOSTILE)
def test_no_text_means_anything_to_mermaid(text):
    drawn = mermaid(replace(told([ran(1, 0, 1, text, success=False, error=text)]), name=text))
    gantt, title, date, axis, today, section, task = lines_of(drawn)
    assert (gantt, date, today) == ("gantt", "    dateFormat YYYY-MM-DD HH:mm:ss.SSS", "    todayMarker off")
    assert re.fullmatch(r"    title [^:;#%{}<>`\"'\\]+", title) and axis == "    axisFormat %-S.%L s"
    assert SECTION.fullmatch(section) and TASK.fullmatch(task)


def test_a_gantt_has_a_section_for_each_node_and_for_the_waiting():
    spans = [ran(1, 0, 1), ran(2, 1, 2, "pay", success=False, error="no"), ran(3, 7202, 7203)]
    waits = [Wait("ok#1", "ok", "gate", "", utc(2 * SECOND), 25, 7200.0)]
    marks = [CheckpointMark(10, utc(0), None, ["explicit"], "c")]
    found = lines_of(mermaid(told(spans, waits=waits, checkpoints=marks)))[5:]
    assert all(TASK.fullmatch(line) or SECTION.fullmatch(line) for line in found), found
    kinds = [line.split(":")[1].split(",")[0] if " :" in line else line.strip() for line in found]
    assert kinds == ["section ask", "done", "milestone", "done", "section pay", "crit", "section waiting", "active",
                     "section cut from the axis", "milestone"]  # fmt: skip
    assert "0.900" not in found[1] and found[1].endswith("2000-01-01 00:00:00.000, 2000-01-01 00:00:01.000")


@pytest.mark.parametrize(
    ("seconds", "form", "end"),
    [(0.005, "%-S.%L ms", "00:00:05.000"), (5, "%-S.%L s", "00:00:05.000"), (300, "%M:%S", "00:05:00.000"),
     (7200, "%H:%M:%S", "02:00:00.000"), (90_000, "%j %H:%M", "01:00:00.000")],
)  # fmt: skip
def test_the_axis_is_labelled_in_a_unit_that_fits(seconds, form, end):
    drawn = mermaid(told([ran(1, 0, seconds)]))
    assert f"axisFormat {form}\n" in drawn and drawn.rstrip().endswith(end)


def test_a_gantt_fits_into_what_mermaid_takes():
    drawn = mermaid(told([ran(step, step, step + 0.5, f"日本語 {step % 7}") for step in range(1, 5000)]))
    assert len(drawn.encode("utf-16-le")) // 2 <= MERMAID_CHARACTERS
    tasks = [line for line in lines_of(drawn) if TASK.fullmatch(line)]
    assert len(tasks) > 300 and "4999 " in drawn
    hidden = int(re.search(r"without the ([\d,]+) rows before", drawn)[1].replace(",", ""))
    assert hidden + sum(":done" in task for task in tasks) == 4999
