"""`eventstore threads`, and threads wherever a command asks for a trace or a place in one."""

from __future__ import annotations

import json
import re
from typing import Annotated, TypedDict

import pytest
from click.testing import CliRunner
from langchain_core.messages import AIMessage, HumanMessage
from langgraph.checkpoint.base import empty_checkpoint
from langgraph.graph import END, START, StateGraph, add_messages
from test_cli import COLOURS, HOSTILE, in_terminal

import eventstore as es
from eventstore.cli.app import main
from eventstore.integrations.langgraph import EventStoreSaver


class Chat(TypedDict):
    messages: Annotated[list, add_messages]
    n: int


@pytest.fixture
def db(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("EVENTSTORE_DB", raising=False)
    return str(tmp_path / "eventstore.db")


@pytest.fixture
def run(db):
    def invoke(*arguments, code=0):
        result = CliRunner().invoke(main, list(arguments))
        assert result.exit_code == code, result.output
        return result

    return invoke


@pytest.fixture
def of(run):
    return lambda *arguments: json.loads(run(*arguments, "--json").stdout)


@pytest.fixture
def saver(db):
    with EventStoreSaver.from_conn_string(db) as saver:
        yield saver


@pytest.fixture
def app(saver):
    def answer(state):
        return {"messages": [AIMessage(f"answer {state['n']}")], "n": state["n"] + 1}

    graph = StateGraph(Chat).add_node("answer", answer).add_edge(START, "answer").add_edge("answer", END)
    return graph.compile(checkpointer=saver)


def config(thread, checkpoint=None):
    named = {} if checkpoint is None else {"checkpoint_id": checkpoint}
    return {"configurable": {"thread_id": thread, **named}}


@pytest.fixture
def alpha(app):
    """Thread alpha: two turns of a chat, then a fork after the first one in which n is 40. Gives its id."""
    app.invoke({"messages": [HumanMessage("hi")], "n": 0}, config("alpha"))
    first = app.get_state(config("alpha")).config["configurable"]["checkpoint_id"]
    app.invoke({"messages": [HumanMessage("and then?")]}, config("alpha"))
    app.update_state(config("alpha", first), {"n": 40})
    return first


@pytest.fixture
def put(saver):
    """`put(thread, namespace)`: one bare checkpoint there; gives its trace."""

    def bare(thread, namespace=""):
        there = {"configurable": {"thread_id": thread, "checkpoint_ns": namespace}}
        saver.put(there, empty_checkpoint(), {"source": "loop", "step": 0, "parents": {}}, {})
        return saver.place(there)[0]

    return bare


# The listing


def test_threads_lists_them(run, of, alpha, app, saver):
    app.invoke({"messages": [], "n": 0}, config("beta"))
    beta, listed = of("threads")
    newest = app.get_state(config("alpha")).config["configurable"]["checkpoint_id"]
    trace_id, seq = saver.place(config("alpha"))
    assert listed == {
        "adapter": "langgraph", "thread_id": "alpha", "namespaces": [""], "checkpoints": 7, "branches": 2,
        "newest": newest, "trace_id": trace_id, "seq": seq, "at": listed["at"],
    }  # fmt: skip
    assert beta["thread_id"] == "beta"
    header, *lines = run("threads").stdout.splitlines()
    assert header.split() == [
        "thread",
        "adapter",
        "namespaces",
        "checkpoints",
        "branches",
        "newest",
        "trace",
        "updated",
    ]
    assert lines[1].split()[:7] == ["alpha", "langgraph", "1", "7", "2", newest, trace_id]


def test_a_thread_lists_its_checkpoints_newest_first(run, of, alpha, app, saver):
    found = of("threads", "alpha")
    ids = [state.config["configurable"]["checkpoint_id"] for state in app.get_state_history(config("alpha"))]
    assert [row["checkpoint_id"] for row in found] == ids
    assert [row["parent_id"] for row in found][:2] == [alpha, found[2]["checkpoint_id"]]
    assert [(row["step"], row["source"], row["node"]) for row in found] == [
        (2, "update", "update"), (4, "loop", "answer"), (3, "loop", "loop"), (2, "input", "input"),
        (1, "loop", "answer"), (0, "loop", "loop"), (-1, "input", "input"),
    ]  # fmt: skip
    assert all((row["trace_id"], row["seq"]) == saver.place(config("alpha", row["checkpoint_id"])) for row in found)
    header, *lines = run("threads", "alpha").stdout.splitlines()
    columns = ["checkpoint", "step", "source", "node", "seq", "writes", "created", "trace", "parent"]
    assert header.split() == columns
    assert [line.split()[0] for line in lines] == ids and lines[0].split()[-1] == alpha and lines[-1].split()[-1] == "-"


def test_listings_come_in_pages(of, alpha, put):
    found = of("threads", "alpha")
    assert of("threads", "alpha", "--limit", "2") == found[:2]
    assert of("threads", "alpha", "--limit", "2", "--after", found[1]["checkpoint_id"]) == found[2:4]
    put("beta")
    assert [info["thread_id"] for info in of("threads", "--limit", "1")] == ["beta"]
    assert [info["thread_id"] for info in of("threads", "--after", "beta")] == ["alpha"]


def test_where_no_thread_is_nothing_is_listed(run, of, db):
    es.open(db).close()
    assert of("threads") == []
    assert "there is no thread alpha" in run("threads", "alpha", code=1).stderr
    assert "there is no thread alpha" in run("threads", "--after", "alpha", code=1).stderr


def test_a_subgraphs_namespace_is_a_thread_of_its_own_name(run, of, put):
    put("alpha", "sub:1")
    assert [row["namespace"] for row in of("threads", "alpha:sub:1")] == ["sub:1"]
    assert "thread alpha has no root namespace; it has alpha:sub:1" in run("threads", "alpha", code=1).stderr


# A thread for a trace


@pytest.mark.parametrize(
    "arguments",
    [["state", "alpha"], ["log", "alpha"], ["diff", "alpha"], ["blame", "alpha", "n"], ["why", "alpha", "-1"],
     ["timeline", "alpha"], ["tail", "alpha"], ["checkpoints", "alpha"], ["verify", "alpha"]],
    ids=lambda arguments: arguments[0],
)  # fmt: skip
def test_a_thread_stands_for_the_trace_of_its_newest_checkpoint(run, saver, alpha, arguments):
    trace_id, _ = saver.place(config("alpha"))
    assert run(*arguments).stdout == run(*[trace_id if word == "alpha" else word for word in arguments]).stdout


def test_what_is_shown_are_values(run, of, alpha):
    state = of("state", "alpha", "--at", alpha)
    assert [next(iter(message)) for message in state["messages"]] == ["HumanMessage", "AIMessage"]
    assert state["messages"][1]["AIMessage"]["content"] == "answer 0" and state["n"] == 1
    assert '"content":"answer 0"' in run("log", "alpha").stdout
    (change,) = [change for change in of("diff", "alpha", "--at", alpha)["changes"] if change["path"] == ["n"]]
    assert (change["before"], change["after"]) == (1, 40)
    assert [write["value"] for write in of("blame", "alpha", "n")] == [0, 1, 40]
    assert "1 -> 40" in run("why", "alpha", str(of("blame", "alpha", "n")[-1]["seq"])).stdout


def test_the_log_tells_what_an_adapters_events_are(run, of, alpha):
    newest = of("threads", "alpha")[0]["checkpoint_id"]
    text = run("log", "alpha").stdout
    assert "update, step 2; new versions of n" in text and f"checkpoint_put   {newest}" in text
    assert "scope_entered    alpha" in text
    journal = next(info["trace_id"] for info in of("runs") if info["name"] == "alpha (writes)")
    text = run("log", journal).stdout
    assert 'messages = [{"AIMessage":{"content":"answer 0"' in text
    assert f"checkpoint {newest} stands there" in run("why", "alpha", "-1").stdout
    assert "writes of task" in run("why", journal, "-1").stdout


def test_two_branches_are_compared_by_their_traces(of, alpha, saver):
    main_line = of("threads", "alpha")[1]["trace_id"]
    found = of("diff", main_line, "alpha")
    assert found["parted"] == {**found["parted"], "trace_id": main_line, "seq": saver.place(config("alpha", alpha))[1]}


def test_ids_and_beginnings_of_ids_come_first(of, db, put):
    their = put("alpha")
    with es.open(db) as store:
        store.start({"mine": True}, id="alpha-1")
        assert of("state", "alpha") == {"mine": True}
        store.start({"mine": True}, id="alpha-2")
        assert of("state", "alpha") == of("state", their)  # two begin so: then it is the thread
        store.start({"mine": 3}, id="alpha")
    assert of("state", "alpha") == {"mine": 3}


def test_a_text_that_names_two_threads_is_refused_with_both(run, put):
    one, other = put("a:b"), put("a", "b")
    told = run("state", "a:b", code=1).stderr
    assert f"langgraph thread 'a:b' namespace '' in trace {one}" in told
    assert f"langgraph thread 'a' namespace 'b' in trace {other}" in told


def test_a_thread_that_holds_no_checkpoint_says_so(run, saver):
    there = {"configurable": {"thread_id": "early", "checkpoint_ns": "", "checkpoint_id": "1f0"}}
    saver.put_writes(there, [("n", 1)], "task-1")
    assert "thread early has no checkpoint, only writes that wait for one" in run("state", "early", code=1).stderr
    assert run("threads", "early").stdout.count("\n") == 1
    assert "no trace nobody" in run("state", "nobody", code=1).stderr


@pytest.mark.parametrize("text", ["alpha:", "alpha:nope", "", "\udcff"])
def test_what_names_nothing_is_no_trace(run, alpha, text):
    assert "no trace" in run("state", text, code=1).stderr


def test_a_fork_is_made_at_a_checkpoint_of_the_thread(run, of, alpha, db):
    forked = of("fork", "alpha", "--at", alpha, "--put", "n=7")
    assert of("state", forked["trace_id"])["n"] == 7


def test_a_terminal_names_a_parent_only_where_it_is_not_the_row_below(db, of, alpha, saver):
    newest, last = (row["checkpoint_id"] for row in of("threads", "alpha")[:2])
    saver.close()
    shown = COLOURS.sub("", in_terminal(db, ["threads", "alpha"], 200))
    assert "alpha (langgraph): 7 checkpoints on 2 lines" in shown
    assert shown.count(newest) == 2  # its row, and the hint
    assert shown.count(alpha) == 2 and shown.count(last) == 1
    assert f"state alpha --at {newest}" in shown
    for columns in (60, 80, 100):
        for arguments in (["threads"], ["threads", "alpha"]):
            lines = COLOURS.sub("", in_terminal(db, arguments, columns)).splitlines()
            assert all(len(line.rstrip()) <= columns for line in lines if "eventstore" not in line)


def test_what_a_thread_is_called_can_not_steer_a_terminal(db, of, put, saver):
    put(HOSTILE)
    assert of("threads")[0]["thread_id"] == HOSTILE
    saver.close()
    unsafe = re.compile("[\x00-\x09\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028\u202e]")
    for arguments in (["threads"], ["threads", HOSTILE], ["state", HOSTILE], ["threads", f"{HOSTILE}?"]):
        assert not unsafe.search(COLOURS.sub("", in_terminal(db, arguments, 200)))
