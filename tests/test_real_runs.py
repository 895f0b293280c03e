"""Real agent runs, recorded message by message and restored at every seq, against a fold of the test's own."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

import eventstore as es

DATA = Path(__file__).parents[1] / "../shared/data"
FILES = sorted(DATA.glob("*.jsonl.gz")) if DATA.is_dir() else []
pytestmark = pytest.mark.skipif(not FILES, reason=f"no real runs in {DATA}")


def runs(file):
    """The runs of a file: an id, and the messages or steps one by one."""
    with gzip.open(file, "rt", encoding="utf-8") as lines:
        for number, line in enumerate(lines):
            run = json.loads(line)
            yield f"{file.name} {number}", run.get("steps") or run["messages"]


def record(store, run_id, messages):
    """Each message a step: appended, counted, summed up; gives the trace."""
    reducers = {"messages": "append", "characters": "sum", "longest": "max", "by_role": "merge_object"}
    trace = store.start({"messages": [], "turn": 0}, id=run_id, name="run", reducers=reducers)
    for turn, message in enumerate(messages, 1):
        size = len(json.dumps(message))
        with trace.step(str(message.get("role", "step"))) as step:
            step.put("messages", [message])
            step.put("turn", turn)
            step.put("characters", size)
            step.put("longest", size)
            step.put("by_role", {str(message.get("role", "step")): turn})
            if turn % 7 == 0:
                step.put("scratch", message)
            elif turn % 7 == 3 and turn > 7:
                step.delete("scratch")
    return trace


def states(messages):
    """The test's own fold: the state after every event, as JSON text."""
    state = {"messages": [], "turn": 0}
    yield json.dumps(state)
    for turn, message in enumerate(messages, 1):
        size = len(json.dumps(message))
        role = str(message.get("role", "step"))
        changes = [
            ("messages", [*state["messages"], message]),
            ("turn", turn),
            ("characters", state.get("characters", 0) + size),
            ("longest", max(state.get("longest", 0), size)),
            ("by_role", {**state.get("by_role", {}), role: turn}),
        ]
        if turn % 7 == 0:
            changes.append(("scratch", message))
        for key, value in changes:
            state[key] = value
            yield json.dumps(state)
        if turn % 7 == 3 and turn > 7:
            del state["scratch"]
            yield json.dumps(state)
        yield json.dumps(state)  # the executed node


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_every_run_is_restored_at_every_seq(path, file):
    with es.open(path, durability="normal") as store:
        recorded = dict(runs(file))
        for run_id, messages in recorded.items():
            record(store, run_id, messages)
        assert store.verify().ok
        assert store.stats().c1 <= 2 and store.stats().c2 <= 2
    with es.open(path) as store:
        for run_id, messages in recorded.items():
            seq = 0
            for seq, expected in enumerate(states(messages), 1):
                assert json.dumps(store.state_at(run_id, seq)) == expected, (run_id, seq)
            trace = store.open_trace(run_id)
            assert trace.version == seq
            assert json.dumps(dict(trace.state)) == expected
            assert len(trace.entries()) == len(messages)
        store.drop_bases()
        for run_id, messages in recorded.items():
            everything = list(states(messages))
            for seq in {1, 2, len(everything) // 3, len(everything) // 2, len(everything) - 1, len(everything)}:
                assert json.dumps(store.state_at(run_id, seq)) == everything[seq - 1], (run_id, seq)
