"""A file of every format that was released is opened, migrated and verified, and says what it said then.

`tests/data/format-N.db` was made by the version that had format N, with `tests/data/make_golden.py`, and
`format-N.json` is what that version read back.
"""

from __future__ import annotations

import json
import runpy
import shutil
from pathlib import Path

import apsw
import pytest

import eventstore as es
from eventstore.database import FORMAT

DATA = Path(__file__).parent / "data"
refund = runpy.run_path(str(DATA / "make_golden.py"))["refund"]
FIRST_RELEASED = 3
FORMATS = list(range(FIRST_RELEASED, FORMAT + 1))


@pytest.fixture(params=FORMATS, ids=lambda number: f"format {number}")
def golden(request, tmp_path):
    """A copy of the golden file, and its answers."""
    path = tmp_path / "runs.db"
    shutil.copyfile(DATA / f"format-{request.param}.db", path)
    found = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY).pragma("user_version")
    assert found == request.param
    return path, json.loads((DATA / f"format-{request.param}.json").read_text("utf-8"))


def test_every_format_has_its_golden_file():
    assert sorted(file.name for file in DATA.glob("format-*.db")) == [f"format-{number}.db" for number in FORMATS]


def test_an_old_file_says_what_it_said_to_its_own_version(golden):
    path, expected = golden
    with es.open(path) as store:
        assert store.verify().problems == []
        for trace_id, told in expected["traces"].items():
            events = [[event.seq, event.kind, event.at.isoformat()] for event in store.events(trace_id)]
            assert events == told["events"]
            assert store.open_trace(trace_id).version == told["version"]
            assert {seq: store.state_at(trace_id, int(seq)) for seq in told["states"]} == told["states"]
            listed = [[str(one.checkpoint_id), one.seq, one.current_node] for one in store.checkpoints.list(trace_id)]
            assert listed == told["checkpoints"]
            assert store.verify(trace_id).heads[trace_id] == told["digest"]
        assert {info.trace_id: info.status for info in store.traces(limit=1000)}.items() >= {
            trace_id: told["status"] for trace_id, told in expected["traces"].items()
        }.items()
        with pytest.raises(es.TraceErased):
            store.state_at("erased")


def test_an_old_file_goes_on_where_it_stands(golden):
    path, expected = golden
    with es.open(path) as store:
        chat = store.open_trace("chat")
        assert chat.append([es.StateDelta.put("done", True)], append_id="job-7").duplicate
        with chat.step("ask") as step:
            step.put("messages", ["more"])
        assert chat.state["messages"][-1] == "more"
        store.fork("chat", 9, id="another").checkpoint()
        store.decide("waiting", "gate", es.Approve())
        if "run-open" in expected["traces"]:
            store.decide("run-open", "approve", es.Approve(by="ana"))
            assert es.resume(refund(), store, "run-open").state["log"] == ["plan", "paid"]
        store.drop_bases()
        assert store.verify().problems == []
    with es.open(path, read_only=True) as store:
        assert store.state_at("chat")["messages"][-1] == "more"


def test_threads_of_an_old_file_go_on(golden):
    path, expected = golden
    if not expected["threads"]:
        pytest.skip("this format had none")
    from eventstore.integrations.langgraph import EventStoreSaver

    config = {"configurable": {"thread_id": "thread-1"}}
    with es.open(path) as store:
        found = list(EventStoreSaver(store).list(config))
        assert [len(one.checkpoint["channel_values"].get("messages", [])) for one in found] == [4, 3, 2, 2, 1, 0]


def test_a_read_only_opening_says_that_an_old_file_needs_migrating(golden):
    path, _ = golden
    number = int(apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY).pragma("user_version"))
    if number == FORMAT:
        es.open(path, read_only=True).close()
        return
    with pytest.raises(es.NotAnEventStore, match=f"format {number} needs migrating"):
        es.open(path, read_only=True)
