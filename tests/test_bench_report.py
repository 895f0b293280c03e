"""What the benchmark harness tells: ratios pair by pair, the results database, tables, pictures, the README."""

from __future__ import annotations

import json
import re
import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta
from xml.etree import ElementTree

import msgspec
import pytest

from benchmarks import pictures, readme, report
from benchmarks.changes import changes, differences, histories
from benchmarks.comparison import compared, exponent, growths
from benchmarks.described import described, figures
from benchmarks.drawing import draw
from benchmarks.projection import TABLES, VIEWS, project
from benchmarks.result import Measure, Measurement, Spread
from benchmarks.results import NAME, PREFIX, BenchRun, Described, Machine, Result, Settings
from benchmarks.sheet import plain, print_sheets
from benchmarks.tables import wins

STARTED = datetime(2026, 5, 1, 12, tzinfo=UTC)
MACHINE = Machine("Linux x86_64", "a processor", 2, 8 << 30, "3.11.9", "3.54.1", 210.0, {"apsw": "3.54.1"})
REPEATS = 3
# By system: a step to the floor's, bytes of the file, µs of the latest state, µs of a state at a step.
SYSTEMS = {
    "floor": (1.0, 640e3, 9000.0, 5200.0),
    "floor-normal": (0.1, 640e3, 9000.0, 5200.0),
    "engine": (1.5, 720e3, 520.0, 610.0),
    "engine-normal": (0.2, 720e3, 500.0, 600.0),
    "langgraph": (9.0, 122.4e6, 790.0, 1900.0),
    "dbos": (12.0, 680e3, 21_000.0, 24_000.0),
    "eventsourcing": (3.0, 1.9e6, 48_000.0, 26_000.0),
}
KNOWN = {
    "floor": Described("the floor", "WAL, FULL", "full"),
    "floor-normal": Described("the floor, NORMAL", "WAL, NORMAL", "normal"),
    "engine": Described("ours", "WAL, FULL", "full"),
    "engine-normal": Described("ours, NORMAL", "WAL, NORMAL", "normal"),
    "quick": Described("a peer that does not wait", "WAL, NORMAL", "normal"),
    "slow": Described("a peer", "WAL, FULL", "full"),
}


def took(system, repeat, figure, value, workload="chat"):
    return Measurement(system, workload, repeat, {figure: value})


def spread(value):
    return Spread(value, value * 2, value / 2, value * 4, 1000)


def chat(system, repeat, workload, slower):
    step, size, latest, at = SYSTEMS[system]
    noise = slower * (1 + 0.1 * repeat)  # what else the machine does falls on all alike
    found = {
        "step_us": spread(200 * step * noise),
        "wall_ms": 220 * step * noise,
        "file_bytes": size,
        "latest_us": spread(latest * noise),
        "at_us": spread(at * noise),
    }
    missing = {"history_ms": "it keeps the latest state only"} if system == "dbos" else {}
    return Measurement(system, workload, repeat, found, missing)


def grown(system):
    step, size, *_ = SYSTEMS[system]
    power = 2 if system == "langgraph" else 1
    found = {f"step_us@{at}": 200 * step * at ** (0.5 * (power - 1)) for at in (100, 1000, 10_000)}
    found |= {f"file_bytes@{at}": size / 1000**power * at**power for at in (100, 1000, 10_000)}
    found |= {f"step_us@traces={count}": 200.0 * step for count in (10, 1000)}
    return Measurement(system, "chat", 0, found)


def crowd(system):
    step = SYSTEMS[system][0]
    found = {"steps_per_s": 6000 / step, "slowest_ms": 10.0 * step, "errors": 0.0}
    return Measurement(system, "chat", 0, {f"{name}@processes=4": value for name, value in found.items()})


@pytest.fixture
def make():
    """`make(days=…, slower=…)`: a run of the harness as if it had been made, so many days after the first."""

    def run(days=0, slower=1.0, machine=MACHINE, code="1f", fails=True):
        def peers(workload):
            return [chat(name, repeat, workload, slower) for repeat in range(REPEATS) for name in SYSTEMS]

        measures = [
            Measure("step-full", "a durable step | to the floor", 1.5, 1.3, "x", samples=[1.4, 1.5, 1.6]),
            Measure("step-full", "32 threads to one", 3.2, 3.0, "x", at_least=True, note="4,000 steps/s"),
        ]
        failed = {"dbos": "the latest state is wrong"} if fails else {}
        policies = {"fold-none": (1.8e6, 4660.0), "fold-adaptive": (3.2e6, 816.0)}
        results = {
            "peers-chat": Result([], peers("chat"), {"burr": "burr is not installed"}),
            "peers-small-runs": Result([], peers("small-runs")),
            "contention": Result([], [crowd(name) for name in SYSTEMS], {}, failed),
            "growth": Result([], [grown(name) for name in SYSTEMS]),
            "fold-policies": Result(
                [], [Measurement(name, "chat", 0, {"file_bytes": a, "at_us": b}) for name, (a, b) in policies.items()]
            ),
            "step-full": Result(measures, [], seconds=12.5),
        }
        settings = Settings(list(results), [], REPEATS, code=code)
        systems = {name: KNOWN.get(name, Described(name, "WAL, FULL", "full")) for name in SYSTEMS}
        return BenchRun(f"run-{days}", STARTED + timedelta(days), "completed", settings, machine, results, systems)

    return run


@pytest.fixture
def run(make):
    return make()


@pytest.fixture
def database(tmp_path):
    """`database(sql)`: rows of the results database, as tuples."""

    def query(sql):
        with closing(sqlite3.connect(tmp_path / "results.db")) as connection:
            return connection.execute(sql).fetchall()

    query.path = str(tmp_path / "results.db")
    return query


# Comparison


def test_ratios_are_made_pair_by_pair_within_a_repeat():
    noise = (1.0, 5.0, 2.0)  # the second repeat was disturbed, and both systems with it
    found = [took("engine", repeat, "step_us", 100 * by) for repeat, by in enumerate(noise)]
    found += [took("slow", repeat, "step_us", 100 * by * (7 + repeat)) for repeat, by in enumerate(noise)]
    ours, theirs = compared("case", found, KNOWN)
    assert (theirs.to_engine.median, theirs.to_engine.least, theirs.to_engine.most) == (8, 7, 9)
    assert theirs.to_engine.pairs == 3 and theirs.median == 1800
    assert (ours.to_engine.least, ours.to_engine.most) == (1, 1)


def test_a_repeat_in_which_one_of_the_two_failed_is_no_pair():
    found = [took("engine", 0, "step_us", 100), took("engine", 2, "step_us", 100)]
    found += [took("slow", 1, "step_us", 700), took("slow", 2, "step_us", 300)]
    theirs = compared("case", found, KNOWN)[1]
    assert theirs.to_engine.pairs == 1 and theirs.to_engine.median == 3
    assert compared("case", found[:3], KNOWN)[1].to_engine is None


def test_nothing_is_compared_to_nothing():
    found = [took("engine-normal", 0, "syncs_per_step", 0.0), took("quick", 0, "syncs_per_step", 1.0)]
    assert [one.same_durability for one in compared("case", found, KNOWN)] == [None, None]


def test_each_system_meets_the_references_of_its_own_durability():
    steps = {"floor": 200, "floor-normal": 20, "engine": 300, "engine-normal": 50, "quick": 100, "slow": 900}
    found = [took(name, 0, "step_us", value) for name, value in steps.items()]
    by_name = {one.system: one for one in compared("case", found, KNOWN)}
    quick, slow = by_name["quick"], by_name["slow"]
    assert (quick.same_durability.to, quick.same_durability.median) == ("engine-normal", 2)
    assert (quick.to_floor.to, quick.to_floor.median) == ("floor-normal", 5)
    assert (quick.to_engine.to, quick.to_engine.median) == ("engine", pytest.approx(1 / 3))
    assert (slow.same_durability.to, slow.same_durability.median, slow.to_floor.median) == ("engine", 3, 4.5)


def test_where_the_engine_of_that_durability_was_not_measured_the_other_one_is_met():
    found = [took("engine", 0, "step_us", 300), took("quick", 0, "step_us", 100)]
    assert compared("case", found, KNOWN)[1].same_durability.to == "engine"


def test_a_spread_counts_by_its_median_and_shows_its_ends():
    spreads = [Spread(10, 50, 4, 90, 100), Spread(12, 40, 6, 70, 100), Spread(11, 60, 5, 80, 100)]
    found = [took("engine", repeat, "step_us", one) for repeat, one in enumerate(spreads)]
    (ours,) = compared("case", found, KNOWN)
    assert (ours.median, ours.p99, ours.min, ours.max, ours.samples) == (11, 50, 4, 90, 300)


def test_a_peer_wins_by_a_lower_cost_or_a_higher_rate():
    found = [took(system, 0, figure, value)
             for system, costs, rate in (("engine", 100.0, 50.0), ("slow", 90.0, 60.0), ("engine-normal", 1.0, 99.0))
             for figure, value in (("latest_us", costs), ("steps_per_s", rate))]  # fmt: skip
    assert [(one.system, one.figure) for one in compared("case", found, KNOWN) if one.peer_wins] == [
        ("slow", "latest_us"), ("slow", "steps_per_s")
    ]  # fmt: skip


def test_growth_is_fitted_on_logarithms():
    assert exponent({n: 3 * n**1.5 for n in (10, 100, 1000)}) == pytest.approx(1.5)
    found = [Measurement("slow", "chat", 0, {"file_bytes@10": 5, "file_bytes@100": 500, "file_bytes@traces=10": 7,
                                             "errors@processes=1": 0, "errors@processes=4": 2})]  # fmt: skip
    steps, one, errors = growths(compared("growth", found, KNOWN))
    assert (steps.figure, steps.axis, steps.points) == ("file_bytes", "steps", {10: 5, 100: 500})
    assert steps.exponent == pytest.approx(2)
    assert (one.axis, one.points, one.exponent) == ("traces", {10: 7}, None)
    assert (errors.axis, errors.exponent) == ("processes", None)


# The results database


def test_projecting_again_changes_nothing(run, database):
    project([run], database.path)
    before = {name: database(f"SELECT * FROM {name}") for name in TABLES}
    project([run], database.path)
    assert {name: database(f"SELECT * FROM {name}") for name in TABLES} == before
    assert all(before.values())
    assert database("PRAGMA foreign_key_check") == []


def test_a_run_that_went_on_is_brought_up_to_date(run, database):
    half = msgspec.structs.replace(run, status="running", results={"peers-chat": run.results["peers-chat"]})
    project([half], database.path)
    project([run], database.path)
    assert database("SELECT run, status FROM runs") == [("run-0", "completed")]
    assert database('SELECT count(DISTINCT "case") FROM measurements') == [(5,)]


def test_the_views_say_what_the_comparison_says(run, database):
    project([run], database.path)
    ours = {(one.case, one.workload, one.figure, one.system): one for one in figures(run)}
    medians = {row[:4]: row[4] for row in database('SELECT "case", workload, figure, system, median FROM medians')}
    assert medians == pytest.approx({key: one.median for key, one in ours.items()})
    chosen = '"case", workload, figure, system, reference, ratio, least, most FROM'
    for view, ratio_of in (("ratios_to_floor", lambda one: [one.to_floor]),
                           ("ratios_to_engine", lambda one: [one.to_engine, one.same_durability])):  # fmt: skip
        wanted = {(*key, ratio.to): (ratio.median, ratio.least, ratio.most)
                  for key, one in ours.items() for ratio in ratio_of(one) if ratio is not None}  # fmt: skip
        assert {row[:5]: row[5:] for row in database(f"SELECT {chosen} {view}")} == wanted


def test_the_median_of_an_even_number_of_repeats_is_between_the_two_in_the_middle(run, database):
    found = [took("engine", repeat, "step_us", value) for repeat, value in enumerate((8.0, 1.0, 3.0, 4.0))]
    project([msgspec.structs.replace(run, results={"c": Result([], found)})], database.path)
    assert database("SELECT median, min, max, repeats FROM medians") == [(3.5, 1, 8, 4)]


def test_missed_targets_and_what_was_left_out_are_there(run, database):
    project([run], database.path)
    assert database("SELECT name, result, target FROM missed_targets") == [("a durable step | to the floor", 1.5, 1.3)]
    assert database('SELECT "case", what, how FROM left_out ORDER BY how') == [
        ("contention", "dbos", "failed"), ("peers-chat", "burr", "skipped")
    ]  # fmt: skip


def test_the_history_of_a_figure_is_its_change_from_run_to_run(make, database):
    project([make(1, slower=2.0), make(0), make(2, slower=1.0)], database.path)
    history = "SELECT run, to_the_run_before FROM history_of_figures WHERE"
    found = database(f"{history} \"case\" = 'peers-chat' AND figure = 'wall_ms' AND system = 'engine'")
    assert found == [("run-0", None), ("run-1", 2.0), ("run-2", 0.5)]
    assert set(VIEWS) == {name for (name,) in database("SELECT name FROM sqlite_schema WHERE type = 'view'")}


# Tables


def lines_of(sheets, title):
    (sheet,) = [one for one in sheets if one.title.startswith(title)]
    return [re.split("  +", line) for line in plain(sheet)]


def test_the_report_in_a_pipe_is_aligned_text_without_decoration(run, capsys):
    report.print_report(run)
    out = capsys.readouterr().out
    assert "\x1b" not in out and "─" not in out
    columns = [line for line in out.splitlines() if line.startswith(("engine ", "langgraph ")) and "WAL, FULL" in line]
    assert len({line.index("WAL, FULL") for line in columns[:2]}) == 1


def test_the_leading_table_of_a_case_has_times_at_their_size_and_every_ratio(run):
    found = lines_of(report.report(run), "peers-chat, step")
    rows = {line[0]: line for line in found[2:]}
    sign = "\N{MULTIPLICATION SIGN}"
    head = ["system", "mode", "durable", "median", "p99", "min", "max", f"{sign} floor", f"{sign} engine"]
    assert [name for name in found[2] if name != "through"] == [*head, "same durability"]
    six = f"6.0{sign}"
    assert rows["langgraph"][-8:] == ["full", "1.98 ms", "3.96 ms", "900 µs", "8.64 ms", f"9.0{sign}", six,
                                      f"{six} (6 - 6)"]  # fmt: skip
    assert rows["engine-normal"][-1] == f"1.0{sign} (1 - 1)"


def test_what_was_measured_at_several_sizes_stands_in_one_row_with_its_exponent(run):
    rows = {line[0]: line for line in lines_of(report.report(run), "growth: chat, file by the number of steps")}
    assert rows["langgraph"] == ["langgraph", "1.22 MB", "122 MB", "12.2 GB", "steps^2.00"]
    assert rows["engine"][-1] == "steps^1.00"


def test_where_a_peer_wins_is_told_the_plainest_first(run):
    sheet = wins(figures(run))
    told = [(row[0], row[2], row[3]) for row in sheet.rows]
    assert ("peers-chat", "file", "dbos") in told and ("growth", "file at 1,000 steps", "dbos") in told
    assert not any(system.startswith(("engine", "floor", "fold")) for *_, system in told)
    assert {system for *_, system in told} == {"dbos"}
    nowhere = wins([one for one in figures(run) if one.system != "dbos"])
    assert not nowhere.rows and nowhere.note == "Nowhere in this run."


def test_what_was_left_out_and_what_failed_says_why(run):
    sheets = {sheet.title: sheet.rows for sheet in report.report(run)}
    assert sheets["Skipped"] == [("peers-chat", "burr", "burr is not installed")]
    assert sheets["Failed"] == [("contention", "dbos", "the latest state is wrong")]
    assert ("peers-chat", "dbos", "every state: it keeps the latest state only") in sheets["Not there"]


def test_the_targets_are_counted(run, capsys):
    print_sheets([report.targets(run.results["step-full"].measures)])
    out = capsys.readouterr().out
    assert "≤ 1.3x   no  1.4 - 1.6" in out and "1 of 2 targets met" in out


def test_json_holds_the_raw_measurements_and_the_comparison(run, capsys):
    report.print_report(run, as_json=True)
    found = json.loads(capsys.readouterr().out)
    assert len(found["results"]["peers-chat"]["measurements"]) == REPEATS * len(SYSTEMS)
    assert [one["met"] for one in found["results"]["step-full"]["measures"]] == [False, True]
    assert {one["system"] for one in found["compared"] if one["peer_wins"]} == {"dbos"}


# From run to run


def test_the_biggest_change_stands_first(make):
    before, after = make(0), make(1, slower=1.5)
    first, *_, last = changes(before, after)
    assert first.percent == pytest.approx(50) and last.percent == 0
    (sheet,) = report.compare(before, after)
    assert sheet.rows[0][-1] == "+50.0 %" and sheet.note.startswith("Same machine")


def test_runs_of_other_machines_or_packages_are_told_apart_and_other_code_is_named(make):
    other = msgspec.structs.replace(MACHINE, cores=8, sync_us=90.0, packages={"apsw": "3.55"})
    before, after = make(0), make(1, machine=other, code="2e")
    assert differences([before, after]) == ["apsw: 3.54.1 → 3.55", "cores: 2 → 8"]
    assert report.compare(before, after)[0].note == "Not the same: apsw: 3.54.1 → 3.55; cores: 2 → 8. Code 1f → 2e."


def test_a_history_has_a_value_for_each_run_oldest_first(make):
    found = [make(2, slower=3.0), make(0), make(1, slower=2.0)]
    engine = next(one for one in histories(found, "peers-chat") if (one.figure, one.system) == ("wall_ms", "engine"))
    assert engine.values == pytest.approx([363, 726, 1089]) and engine.bars == "▁▅█"
    (sheet,) = report.history(found, "peers-chat")
    assert sheet.columns[3:] == ("2026-05-01 12:00", "2026-05-02 12:00", "2026-05-03 12:00", "bars")
    assert ("chat", "whole run", "engine", "363 ms", "726 ms", "1.09 s", "▁▅█") in sheet.rows


def test_a_figure_that_a_run_has_not_leaves_a_gap(make):
    without = msgspec.structs.replace(make(1), results={"step-full": Result()})
    assert [one.values for one in histories([make(0), without], "step-full")] == [[1.5, None], [3.2, None]]


# Pictures


def test_a_picture_carries_the_data_that_it_was_drawn_from(run):
    for name, svg in pictures.svgs(run).items():
        shown = pictures.data(run)[name.split("-")[1]]
        assert msgspec.json.decode(pictures.carried(svg), type=list[type(shown[0])]) == list(shown)


def test_drawing_again_gives_the_same_bytes(run):
    shown = pictures.data(run)["chat"]
    first, second = (draw("chat", shown, "light", described_by="x") for _ in range(2))
    assert first == second


def test_a_picture_is_small_and_says_the_ratios_in_its_text(run):
    for svg in pictures.svgs(run).values():
        assert len(svg) < 60_000
    texts = [found.text for found in ElementTree.fromstring(pictures.svgs(run)["bench-chat-dark.svg"]).iter()
             if found.tag.endswith("}text")]  # fmt: skip
    sign = "\N{MULTIPLICATION SIGN}"
    assert {f"6.0{sign}", f"170{sign}", f"1{sign}", "363 ms", "122 MB", "A chat run of 1,000 steps"} <= set(texts)


def test_bars_stand_fastest_first_and_curves_have_their_exponent(run):
    assert [bar.system for bar in pictures.bars(run)] == ["floor", "engine", "eventsourcing", "langgraph", "dbos"]
    curve = next(one for one in pictures.curves(run) if (one.system, one.figure) == ("langgraph", "file_bytes"))
    assert (curve.exponent, curve.kind, [step for step, _ in curve.points]) == (2.0, "peer", [100, 1000, 10_000])
    assert [dot.policy for dot in pictures.dots(run)] == ["none", "adaptive"]


# The README


@pytest.fixture
def pages(tmp_path):
    """A root with a README that has all blocks, still empty, and a text of its own."""
    (tmp_path / "docs").mkdir()
    blocks = "\n\n".join(f"<!-- bench:{name} -->\n<!-- /bench:{name} -->" for name in readme.NEEDED)
    (tmp_path / "README.md").write_text(f"# A title\n\n{blocks}\n\nThe end.\n", "utf-8")
    return tmp_path


def test_rendering_fills_the_blocks_and_leaves_the_rest(run, pages):
    readme.render(run, pages)
    text = (pages / "README.md").read_text("utf-8")
    assert text.startswith("# A title\n\n<!-- bench:chat -->\n<picture>") and text.endswith("\n\nThe end.\n")
    assert readme.stale(run, pages) == []
    assert readme.render(run, pages) == [f"docs/{name}" for name in pictures.svgs(run)]  # nothing new on the page


def test_other_figures_make_the_page_and_its_pictures_stale(make, pages):
    readme.render(make(), pages)
    told = readme.stale(make(slower=1.5), pages)
    assert "README.md: the block peers is not what the published run gives" in told
    assert "docs/bench-chat-dark.svg does not show what the published run gives" in told
    assert not any("policies" in one or "figures" in one for one in told)  # those figures are the same


def test_a_block_that_was_edited_or_is_missing_is_stale(run, pages):
    readme.render(run, pages)
    page = pages / "README.md"
    page.write_text(page.read_text("utf-8").replace("363 ms", "36 ms"), "utf-8")
    assert readme.stale(run, pages) == ["README.md: the block peers is not what the published run gives"]
    page.write_text("# A title\n", "utf-8")
    assert readme.stale(run, pages) == [f"no page has a block {name}" for name in readme.NEEDED]


def test_the_peers_stand_under_this_engines_own_figures(run):
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in readme.peers(run).splitlines() if "|" in line
    ]
    by_title = {row[0].split("<br>")[0]: row[1:] for row in rows}
    sign = "\N{MULTIPLICATION SIGN}"
    assert rows[0][1:6] == [
        "chat, 1,000 steps",
        "its file",
        "333 runs of 3 steps",
        "4 processes",
        "slowest step of those",
    ]
    ours = by_title[f"**{described(run)['engine'].title}**"]
    assert ours == ["363 ms", "720 kB", "363 ms", "4,000 steps/s", "15 ms", "572 µs", "671 µs"]
    dbos = by_title[described(run)["dbos"].title]
    assert dbos == [f"8.0{sign}", f"**0.94{sign}**", f"8.0{sign}", f"8.0{sign}", "120 ms", f"40{sign}", f"39{sign}"]


def test_the_measures_say_their_aim_and_whether_it_is_met(run):
    told = readme.measures(run)
    sign = "\N{MULTIPLICATION SIGN}"
    assert f"| step-full | a durable step \\| to the floor | 1.5{sign} | ≤ 1.3{sign} | missed |" in told
    assert f"| step-full | 32 threads to one | 3.2{sign} | ≥ 3{sign} | ✓ |" in told and "1 of 2 are met." in told


def test_a_published_run_is_the_run_that_the_store_has(make, store, tmp_path):
    run = make(fails=False)
    start = {"settings": run.settings, "machine": run.machine, "systems": run.systems}
    trace = store.start(msgspec.to_builtins(start), name=NAME)
    for case, result in run.results.items():
        with trace.step(case) as step:
            step.put(PREFIX + case, msgspec.to_builtins(result))
    store.start({"another": 1}, name=NAME)
    with pytest.raises(ValueError, match="is no whole one: running"):
        readme.publish(store, trace.id, tmp_path / "published.jsonl.gz")
    trace.end()
    readme.publish(store, trace.id, tmp_path / "published.jsonl.gz")
    found = readme.published(tmp_path / "published.jsonl.gz")
    assert (found.trace_id, found.results, found.machine) == (trace.id, run.results, run.machine)
    assert found.systems == run.systems


def test_what_is_not_published_cannot_be_read(tmp_path):
    with pytest.raises(FileNotFoundError):
        readme.published(tmp_path / "published.jsonl.gz")


def test_the_readme_and_its_pictures_are_what_the_published_run_gives():
    assert readme.stale() == []
