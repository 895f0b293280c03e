"""`diff`, `blame`, `why`, `fork` and `--at`: for people, pipes and machines."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner
from test_cli import HOSTILE, in_terminal, of

import eventstore as es
from eventstore.cli import main


@pytest.fixture
def db(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("EVENTSTORE_DB", raising=False)
    return tmp_path / "eventstore.db"


@pytest.fixture
def run(db):
    def invoke(*arguments, code=0):
        result = CliRunner().invoke(main, list(arguments))
        assert result.exit_code == code, result.output
        return result

    return invoke


@pytest.fixture
def traced(db):
    """t1: seqs 1 start; 2-4 and 5-7 steps; 8 a barrier; 9-11 its decision. t2: a fork of it after step 1."""
    with es.open(db) as store:
        trace = store.start({"order": {"total": 40}, "log": []}, id="t1", name="refund", reducers={"log": "append"})
        for total in (45, 50):
            with trace.step("price") as step:
                step.put("order", {"total": total})
                step.put("log", f"set to {total}")
        trace.raise_barrier("approve", prompt="Refund?")
        trace.decide("approve", es.Modify({"order": {"total": 30}}, by="ana"))
        trace.fork("step:1", put={"order": {"total": 99}}, id="t2")
    return db


def test_diff_within_a_trace(run, traced):
    found = of(run, "diff", "t1", "--at", "step:1", "--to", "-1")
    assert [(change["path"], change["kind"]) for change in found["changes"]] == [
        (["order", "total"], "changed"), (["log"], "appended"), (["approve.approved"], "added")
    ]  # fmt: skip
    assert (found["left"]["seq"], found["right"]["seq"]) == (4, 11) and "parted" not in found
    lines = run("diff", "t1", "--at", "step:1").stdout.splitlines()
    assert [line.split() for line in lines[1:]] == [
        ["~", "order.total", "45", "30"], ["+", "log[1]", "-", '"set', "to", '50"'],
        ["+", "approve.approved", "-", "true"],
    ]  # fmt: skip
    assert of(run, "diff", "t1")["left"]["seq"] == 1
    assert of(run, "diff", "t1", "--at", "-1") == {**of(run, "diff", "t1", "--at", "11"), "changes": []}


def test_diff_of_forks_tells_where_they_part(run, traced):
    found = of(run, "diff", "t1", "t2")
    assert found["parted"] == {"trace_id": "t1", "seq": 4}
    shown = in_terminal(traced, ["diff", "t1", "t2"])
    assert "They part after event 4 of t1" in shown and "order.total" in shown
    assert "No difference" in in_terminal(traced, ["diff", "t1", "t1"])


def test_blame(run, traced):
    writes = of(run, "blame", "t1", "order.total")
    assert [(write["seq"], write.get("source", "node")) for write in writes] == [
        (1, "start"), (2, "node"), (5, "node"), (11, "human")
    ]  # fmt: skip
    assert writes[-1]["by"] == "ana"
    rows = [line.split() for line in run("blame", "t2", "order").stdout.splitlines()]
    assert rows[1][-1] == rows[2][-1] == "t1" and rows[3][-1] == "-" and "fork" in rows[3]
    assert of(run, "blame", "t1", "order", "--at", "step:1") == of(run, "blame", "t1", "order")[:2]
    shown = in_terminal(traced, ["blame", "t1", "order"])
    assert "ana at approve" in shown and "why t1 11" in shown
    assert "Nobody wrote ghost" in in_terminal(traced, ["blame", "t1", "ghost"])
    assert of(run, "blame", "t1", "ghost") == []


def test_why(run, traced):
    assert of(run, "why", "t1", "11")["before"] == {"total": 50}
    lines = run("why", "t1", "-1").stdout.splitlines()
    assert lines[0] == 'event 11 changed \'order\': {"total":50} -> {"total":30}'
    assert "  it is a literal put written by a human" in lines
    assert "step 2, node 'price'" in run("why", "t1", "step:2").stdout


def test_fork(run, traced):
    made = of(run, "fork", "t1", "--at", "step:2", "--put", 'order={"total":1}', "--put", "note=null", "--id", "t3")
    assert made == {
        "trace_id": "t3", "parent_trace_id": "t1", "fork_seq": 7, "version": 10, "next_node": None, "status": "running"
    }  # fmt: skip
    assert of(run, "state", "t3") == {"order": {"total": 1}, "log": ["set to 45", "set to 50"], "note": None}
    assert run("fork", "t1", "--name", "again").stdout.strip() in {info["trace_id"] for info in of(run, "runs")}
    refused = run("fork", "t1", "--at", "3", code=1)
    assert "not a step boundary" in refused.stderr or "boundar" in refused.stderr
    assert "write KEY=JSON" in run("fork", "t1", "--put", "x", code=2).stderr
    assert "no JSON" in run("fork", "t1", "--put", "x=y", code=2).stderr
    assert "It parts after event 11" in in_terminal(traced, ["fork", "t1"])


@pytest.mark.parametrize("at", ["4", "-8", "step:1", "seq:4"])
def test_state_takes_any_place(run, traced, at):
    assert of(run, "state", "t1", "--at", at)["order"] == {"total": 45}


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["state", "t1", "--at", "step:9"], "has no place 'step:9': it has 2 steps"),
        (["diff", "t1", "--to", "99"], "seqs 1 to 11, asked for 99"),
        (["blame", "t1", "order", "--at", "yesterday"], "write a seq"),
        (["why", "t1", "0"], "asked for 0"),
        (["fork", "t9"], "t9"),
    ],
)
def test_a_place_that_is_not_there(run, traced, arguments, told):
    refused = run(*arguments, code=1)
    assert told in refused.stderr and refused.stdout == ""


def test_looking_changes_no_byte(run, traced):
    before = traced.read_bytes()
    for arguments in (["diff", "t1", "t2"], ["blame", "t1", "order"], ["why", "t1", "3"], ["timeline", "t1"]):
        run(*arguments)
        run(*arguments, "--json")
    assert traced.read_bytes() == before


def test_hostile_text_moves_no_cursor(run, db):
    with es.open(db) as store:
        trace = store.start({HOSTILE: HOSTILE, "log": [HOSTILE]}, id="t1", name=HOSTILE)
        with trace.step(HOSTILE, next=HOSTILE) as step:
            step.put(HOSTILE, {HOSTILE: 1})
            step.append("log", {HOSTILE: HOSTILE})
        trace.decide(trace.raise_barrier("ask", prompt=HOSTILE), es.Reject(HOSTILE, by=HOSTILE))
        trace.fork(put={"x": HOSTILE}, id="t2", name=HOSTILE)
    for arguments in (["diff", "t1"], ["diff", "t1", "t2"], ["blame", "t1", HOSTILE], ["why", "t1", "2"],
                      ["why", "t1", "step:1"], ["why", "t1", "-1"], ["timeline", "t1"]):  # fmt: skip
        for shown in (run(*arguments).stdout, run(*arguments, "--json").stdout):
            assert not set(shown) & set("\x1b\x07\x9b\r\u202e")
        in_terminal_shown = in_terminal(db, arguments)
        assert "\x07" not in in_terminal_shown and "\x9b" not in in_terminal_shown
    assert json.loads(run("why", "t1", "2", "--json").stdout)


@pytest.mark.parametrize(
    ("name", "begins"), [("run.svg", "<svg"), ("run.mmd", "gantt"), ("run.md", "```mermaid\ngantt")]
)
def test_export_draws_a_timeline_by_the_name_of_the_file(run, traced, name, begins):
    assert run("export", "timeline", "t1", name).stdout == f"{name}: 2 spans\n"
    assert (traced.parent / name).read_text("utf-8").startswith(begins)
    assert of(run, "export", "timeline", "t1", name)["spans"] == 2
    assert "name a .svg" in run("export", "timeline", "t1", "run.png", code=2).stderr


def test_opaque_values_are_described(run, db):
    with es.open(db) as store:
        trace = store.start({"op": es.Opaque("raw", b"\x01")}, id="t1")
        with trace.step("seal") as step:
            step.put("op", es.Opaque("raw", b"\x01\x02", None))
        saved = trace.checkpoint()
        assert json.loads(saved.to_json())["state"]["op"]["bytes"] == 2
        assert json.loads(trace.why(-2).to_json())["after"]["bytes"] == 2
    described = {"opaque": "raw", "items": None, "bytes": 2}
    assert of(run, "state", "t1") == {"op": described}
    assert of(run, "diff", "t1")["changes"][0]["after"] == described
    assert of(run, "blame", "t1", "op")[-1]["value"] == described
    assert of(run, "why", "t1", "2")["after"] == described
    assert any(event.get("event", {}).get("value") == described for event in of(run, "log", "t1"))
    for arguments in (["state", "t1"], ["log", "t1"], ["diff", "t1"], ["blame", "t1", "op"], ["why", "t1", "2"]):
        assert '"bytes":2' in run(*arguments).stdout


@pytest.mark.parametrize("at", ["checkpoint:", "checkpoint:\udcff", "\udcff"])
def test_odd_places_are_refused_in_a_line(run, traced, at):
    assert "has no place" in run("state", "t1", "--at", at, code=1).stderr
    assert "no JSON" in run("fork", "t1", "--put", 'a="\udcff"', code=2).stderr
