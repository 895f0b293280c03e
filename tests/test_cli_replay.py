"""`replay` at the prompt: recorded runs against the graph of today."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from test_cli import COLOURS, HOSTILE, in_terminal

import eventstore as es
from eventstore.cli import main

FLOW = """
import eventstore as es


def build(price=40, keyword="price"):
    graph = es.Graph("refund")

    @graph.node
    def fetch(ctx):
        return {"total": price}

    @graph.node(side_effects=True)
    def pay(ctx):
        with open("paid.txt", "a") as file:
            file.write("paid")
        return {"paid": ctx.state["total"]}

    @graph.node
    def tell(ctx):
        if ctx.state.get("breaks"):
            raise KeyboardInterrupt
        return {"text": f"You got {ctx.state['paid']}."}

    return graph.edge("fetch", "pay").edge("pay", "tell").start("fetch").end("tell")


graph = build()
changed = build(45)
other = es.Graph("other")
other.node(name="only")(lambda ctx: None)
other.start("only").end("only")
"""
Run = Callable[..., Result]


@pytest.fixture
def db(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`eventstore.db` with two runs of the graph, one of another and a plain trace, in the current folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("EVENTSTORE_DB", raising=False)
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "flow.py").write_text(FLOW, "utf-8")
    for name, trace_id in (("graph", "t1"), ("graph", "t2"), ("other", "o1")):
        result = CliRunner().invoke(main, ["run", f"flow.py:{name}", "--id", trace_id])
        assert result.exit_code == 0, result.output
    with es.open("eventstore.db") as store:
        store.start({"n": 1}, name="notes", id="n1")
    (tmp_path / "paid.txt").unlink()
    return tmp_path / "eventstore.db"


@pytest.fixture
def run(db: Path) -> Run:
    def invoke(*arguments: str, code: int = 0) -> Result:
        before = db.read_bytes()
        result = CliRunner().invoke(main, ["replay", *arguments])
        assert result.exit_code == code, result.output
        assert "Traceback" not in result.output
        assert db.read_bytes() == before and not Path("paid.txt").exists()
        return result

    return invoke


def cells(result: Result) -> list[list[str]]:
    return [line.split(maxsplit=4) for line in result.stdout.splitlines()]


def of(run: Run, *arguments: str, code: int = 0) -> Any:
    return json.loads(run(*arguments, "--json", code=code).stdout)


def test_a_line_each_trace(run: Run) -> None:
    assert cells(run("flow.py:graph", "t1", "t2")) == [
        ["trace", "name", "checked", "reused", "result"],
        ["t1", "refund", "2", "1", "ok"],
        ["t2", "refund", "2", "1", "ok"],
    ]
    told = cells(run("flow.py:changed", "t2", code=1))[1]
    assert told == ["t2", "refund", "1", "0", "seq 4, step 1, fetch: 'total' was 40, now it is 45"]


def test_all_runs_of_the_graph_or_of_a_name(run: Run) -> None:
    assert [line[0] for line in cells(run("flow.py:graph", "--all"))] == ["trace", "t1", "t2"]
    assert [line[0] for line in cells(run("flow.py:graph", "--all", "--name", "other", code=1))] == ["trace", "o1"]
    assert [line[0] for line in cells(run("flow.py:graph", "--all", "--status", "failed"))] == ["trace"]
    assert cells(run("flow.py:other", "--all"))[1][4] == "ok"


def test_json_is_one_object_a_trace(run: Run) -> None:
    (ok,) = of(run, "flow.py:graph", "t1")
    assert ok == {
        "trace_id": "t1", "name": "refund", "checked": 2, "reused": 1, "failed_attempts": 0, "upto": ok["upto"],
        "graph_changes": [], "ok": True,
    }  # fmt: skip
    found = of(run, "flow.py:changed", "--all", code=1)
    assert [one["ok"] for one in found] == [False, False]
    assert found[0]["divergence"] == {
        "seq": 4, "step": 1, "node": "fetch", "kind": "value", "key": "total", "recorded": 40, "produced": 45,
    }  # fmt: skip
    assert found[0]["message"] == "seq 4, step 1, fetch: 'total' was 40, now it is 45"
    assert of(run, "flow.py:graph", "--all", "--name", "nothing") == []


def test_a_trace_that_cannot_be_replayed_has_its_line_and_the_others_go_on(run: Run) -> None:
    first, second = cells(run("flow.py:graph", "n1", "t1", code=1))[1:]
    assert first[0] == "n1" and "not replayed: trace n1 was not started by a graph" in " ".join(first)
    assert second == ["t1", "refund", "2", "1", "ok"]
    found = of(run, "flow.py:graph", "n1", "t1", code=1)
    assert found[0] == {
        "trace_id": "n1", "ok": False,
        "error": "trace n1 was not started by a graph, so no graph can replay it",
    }  # fmt: skip
    assert found[1]["ok"]


def test_a_damaged_trace_has_its_line(run: Run, db: Path, damage_file: Callable[..., int]) -> None:
    t1 = "(SELECT id FROM trace WHERE trace_id = 't1')"
    damage_file(db, f"UPDATE log SET body = '[{{]' WHERE first_seq > 1 AND trace = {t1}")
    first, second = cells(run("flow.py:graph", "--all", code=1))[1:]
    assert "damaged at seq" in " ".join(first) and second[4] == "ok"


def test_only_a_part(run: Run) -> None:
    assert cells(run("flow.py:changed", "t1", "--from", "step:1"))[1][2:] == ["1", "1", "ok"]
    assert cells(run("flow.py:changed", "t1", "--until", "3"))[1][2:] == ["0", "0", "ok"]
    assert "not replayed" in run("flow.py:graph", "t1", "--from", "99", code=1).stdout


def test_traces_or_all_and_not_both(run: Run) -> None:
    assert "--all" in run("flow.py:graph", code=2).output
    run("flow.py:graph", "--name", "refund", code=2)
    run("flow.py:graph", "t1", "--all", code=2)
    run("flow.py:graph", "t1", "--name", "refund", code=2)
    run("flow.py:nothing", "t1", code=1)
    assert "no trace" in run("flow.py:graph", "nowhere", code=1).output


def test_an_interrupt_leaves_what_was_told(run: Run, db: Path) -> None:
    CliRunner().invoke(main, ["run", "flow.py:graph", "--id", "t3"])
    Path("paid.txt").unlink()
    (db.parent / "stopping.py").write_text(FLOW.replace('ctx.state.get("breaks")', 'ctx.trace_id == "t2"'), "utf-8")
    result = run("stopping.py:graph", "t1", "t2", "t3", code=130)
    assert "Interrupted after 1 trace of 3" in result.stderr
    assert [line[0] for line in cells(result)] == ["trace", "t1"]
    assert [one["trace_id"] for one in of(run, "stopping.py:graph", "t1", "t2", "t3", code=130)] == ["t1"]


def test_a_terminal_shows_the_result_and_where_to_look(db: Path) -> None:
    text = in_terminal(db, ["replay", "flow.py:graph", "--all"], 120)
    shown = COLOURS.sub("", text)
    assert COLOURS.search(text) and "2 traces of 2 ok" in shown
    shown = COLOURS.sub("", in_terminal(db, ["replay", "flow.py:changed", "t1"], 80))
    assert "was 40, now it is 45" in shown and f"eventstore --db {db} why t1 4" in shown


def test_text_from_the_data_cannot_move_the_cursor(run: Run, db: Path) -> None:
    flow = FLOW.replace('return {"total": price}', "return {" + ascii(HOSTILE) + ": price, 'total': price}")
    (db.parent / "hostile.py").write_text(flow, "utf-8")
    assert CliRunner().invoke(main, ["run", "hostile.py:graph", "--id", "h1"]).exit_code == 0
    Path("paid.txt").unlink()
    result = run("hostile.py:changed", "h1", code=1)
    assert len(result.stdout.splitlines()) == 2
    assert not set("\x1b\x07\x9b\u202e") & set(result.stdout)
    assert not set("\x1b\x07\x9b\u202e") & set(run("hostile.py:changed", "h1", "--json", code=1).stdout)


HOOKED = """
import eventstore as es


def hide(key, value):
    return "***" if key == "card" else value


graph = es.Graph("hooked")


@graph.node
def read(ctx):
    return {"card": "4111-secret", "n": 1}


graph.start("read").end("read")
"""


@pytest.fixture
def hooked(db: Path) -> Path:
    """Another database, with a run that a hook has redacted."""
    from eventstore.cli.loading import load_graph

    (db.parent / "hooked.py").write_text(HOOKED, "utf-8")
    graph = load_graph("hooked.py:graph")
    with es.open("hooked.db", redact=lambda key, value: "***" if key == "card" else value) as store:
        es.run(graph, store, id="h1")
    return db.parent / "hooked.db"


@pytest.mark.parametrize("form", [[], ["--json"]])
def test_with_the_hook_of_the_runs_nothing_leaks_and_the_result_is_right(hooked: Path, form: list[str]) -> None:
    command = ["--db", str(hooked), "replay", "hooked.py:graph", "h1", *form]
    plain = CliRunner().invoke(main, command)
    assert plain.exit_code == 1 and "4111-secret" in plain.output
    for hook in ("hooked.py:hide", "hooked:hide"):
        result = CliRunner().invoke(main, [*command, "--redact", hook])
        assert result.exit_code == 0, result.output
        assert "4111-secret" not in result.output
    hidden = CliRunner().invoke(main, [*command, "--no-values"])
    assert hidden.exit_code == 1 and "4111-secret" not in hidden.output and "***" not in hidden.output
    assert "card" in hidden.output and "(hidden)" in hidden.output


def test_a_hook_that_is_none_is_refused(run: Run, hooked: Path) -> None:
    assert "name a function" in run("flow.py:graph", "t1", "--redact", "hide", code=2).output
    assert "has no nothing" in run("flow.py:graph", "t1", "--redact", "hooked.py:nothing", code=1).output
    assert "not a function" in run("flow.py:graph", "t1", "--redact", "hooked.py:es.__version__", code=1).output
    assert "--redact" in run("--help").output


def changed_to(db: Path, was: str, now: str) -> str:
    assert was in FLOW
    (db.parent / "changed.py").write_text(FLOW.replace(was, now), "utf-8")
    return "changed.py:graph"


def test_the_message_of_an_exception_is_hidden_as_well(run: Run, db: Path) -> None:
    target = changed_to(db, 'return {"total": price}', 'raise ValueError("4111")')
    assert "4111" in run(target, "t1", code=1).output
    for form in ([], ["--json"]):
        assert "4111" not in run(target, "t1", "--no-values", *form, code=1).output


def test_what_a_node_prints_is_not_in_the_result(run: Run, db: Path) -> None:
    target = changed_to(db, 'return {"total": price}', 'print("hello"); return {"total": price}')
    result = run(target, "t1", "t2", "--json")
    assert [one["ok"] for one in json.loads(result.stdout)] == [True, True]
    assert result.stderr.count("hello") == 2


@pytest.mark.parametrize("raises", ["Stop('secret')", "SystemExit(3)"])
def test_a_node_that_ends_more_than_itself_has_its_line_and_the_others_go_on(run: Run, db: Path, raises: str) -> None:
    was = 'return {"total": price}'
    target = changed_to(
        db,
        was,
        f"class Stop(BaseException): ...\n        if ctx.trace_id == 't1': raise {raises}\n        {was}",
    )
    first, second = of(run, target, "t1", "t2", code=1)
    assert not first["ok"] and second["ok"]
    told = first.get("error") or first["message"]
    assert ("a node raised Stop: secret" if "Stop" in raises else "raised SystemExit: 3") in told
    assert "secret" not in run(target, "t1", "--no-values", code=1).output
