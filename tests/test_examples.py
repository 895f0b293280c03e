"""The examples, run as a new user would: in an empty folder, from the command line. (The demo has its own tests.)"""

from __future__ import annotations

import asyncio
import gzip
import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import eventstore as es

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
PROGRAMS = [path.name for path in EXAMPLES if path.name[0] != "_"]
RECORDED = ROOT / "../shared/data/airline_agent_runs.jsonl.gz"
with_recorded = pytest.mark.skipif(not RECORDED.exists(), reason=f"no recorded conversations at {RECORDED}")


def launch(folder: Path, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error"}
    command = [sys.executable, str(ROOT / "examples" / program), *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=60)


def output(folder: Path, program: str, *arguments: str) -> str:
    """What the program prints; it must succeed, and say nothing on stderr."""
    done = launch(folder, program, *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def load(program: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"example_{Path(program).stem}", ROOT / "examples" / program)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_an_example_is_short_and_begins_with_what_it_is(path: Path) -> None:
    text = path.read_text("utf-8")
    assert len(text.splitlines()) < 80
    assert text.startswith('"""')


@pytest.mark.parametrize("program", PROGRAMS)
def test_an_example_explains_itself(program: str, tmp_path: Path) -> None:
    told = output(tmp_path, program, "--help")
    usage, explained, *_ = told.split("\n\n")
    assert usage.startswith(f"usage: {program}")
    assert explained.endswith(".") and len(explained.splitlines()) <= 2
    assert list(tmp_path.iterdir()) == []


# refund.py


def asked_for_refund(folder: Path) -> str:
    """The id of a run that another process has brought to its question."""
    told = output(folder, "refund.py")
    asked = re.match(r"(\S+) is waiting: fetch\nRefund 40\? \(approve#1, until \d{4}-\d\d-\d\d \d\d:\d\d UTC\)\n", told)
    assert asked is not None, told
    assert f"python examples/refund.py --db refund.db --decide {asked[1]} --by YOU [--reject REASON]\n" in told
    assert f"python examples/refund.py --db refund.db --resume {asked[1]}\n" in told
    return asked[1]


def test_a_refund_is_approved_in_another_process_and_paid_once(tmp_path: Path) -> None:
    trace_id = asked_for_refund(tmp_path)
    assert output(tmp_path, "refund.py", "--decide", trace_id, "--by", "ana") == "approve#1: approve\n"
    second = launch(tmp_path, "refund.py", "--decide", trace_id, "--by", "bob", "--reject", "too late")
    assert second.returncode == 1 and "approve" in second.stderr and "Traceback" not in second.stderr
    finished = output(tmp_path, "refund.py", "--resume", trace_id)
    assert finished.startswith(f"{trace_id} is completed: fetch > approve > pay\npaid: ")
    assert output(tmp_path, "refund.py", "--resume", trace_id) == finished
    with es.open(tmp_path / "refund.db", create=False) as store:
        state = store.state_at(trace_id)
        events = [recorded.event for recorded in store.events(trace_id)]
        (intent,) = [event for event in events if isinstance(event, es.NodeIntended)]
        assert state["paid"] == {"amount": 40, "key": intent.key}
        assert "refused" not in state
        (decided,) = store.barriers(pending=False)
        assert decided.decision == es.Approve(by="ana")
        assert store.verify().ok


def test_a_refund_is_refused_with_a_reason(tmp_path: Path) -> None:
    trace_id = asked_for_refund(tmp_path)
    output(tmp_path, "refund.py", "--decide", trace_id, "--by", "ana", "--reject", "sent back broken")
    told = output(tmp_path, "refund.py", "--resume", trace_id)
    assert told == f"{trace_id} is completed: fetch > approve > refuse\nrefused: sent back broken\n"
    with es.open(tmp_path / "refund.db", create=False) as store:
        assert "paid" not in store.state_at(trace_id)


def test_an_unknown_refund_is_refused_in_one_line(tmp_path: Path) -> None:
    asked_for_refund(tmp_path)
    done = launch(tmp_path, "refund.py", "--resume", "nothing")
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1 and "nothing" in done.stderr


def test_nobody_answers_a_refund_for_a_day() -> None:
    graph = load("refund.py").graph
    asked = graph.plan().nodes["approve"]
    assert (asked.timeout_s, asked.on_timeout) == (86_400, es.Reject("no answer in a day"))


# deadline.py


def test_a_deadline_passes_and_a_slow_node_is_given_up(tmp_path: Path) -> None:
    told = output(tmp_path, "deadline.py", "--wait", "0.3", "--db", "deadline.db").splitlines()
    assert told[0].startswith("waiting: Any objection? Without an answer it is published. (review#1, until ")
    assert told[1] == "expired: True; the run is still waiting"
    assert re.fullmatch(r"decided at \d\d:\d\d:\d\d\.\d+ by the clock", told[2])
    assert told[3:5] == ["  draft: done", "  review: done"]
    assert re.fullmatch(r"  translate: NodeTimeout: .*0\.3 s", told[5])
    assert told[6:] == ["  publish: done", "completed: 'Version 2 is out.'"]
    with es.open(tmp_path / "deadline.db", create=False) as store:
        (decided,) = store.barriers(pending=False)
        assert decided.decided_at is not None and decided.deadline_at is not None
        assert decided.decided_at >= decided.deadline_at and decided.decision == es.Approve(by="the clock")
        state = store.state_at(decided.trace_id)
        assert state["published"] == state["text"] == "Version 2 is out."
        assert "NodeTimeout" in state["translate.error"]


# agent_loop.py


def test_the_agent_answers_with_its_own_script(tmp_path: Path) -> None:
    told = output(tmp_path, "agent_loop.py", "--db", "agent.db")
    summary = re.match(r"completed: 4 steps, 5 messages, (0\.\d+) spent\nAfter step 3 \(tools, event (\d+)\): 4 ", told)
    assert summary is not None, told
    with es.open(tmp_path / "agent.db", create=False) as store:
        (info,) = store.traces()
        trace = store.open_trace(info.trace_id)
        entries = trace.entries()
        assert [entry.node_name for entry in entries] == ["hear", "model", "tools", "model"]
        assert sum(entry.metadata.token_cost or 0 for entry in entries) == pytest.approx(float(summary[1]), abs=1e-6)
        roles = [message["role"] for message in trace.state["messages"]]
        assert roles == ["system", "user", "assistant", "tool", "assistant"]
        assert store.state_at(info.trace_id, int(summary[2]))["messages"] == trace.state["messages"][:4]
        kept = [recorded.event for recorded in trace.events() if isinstance(recorded.event, es.ValueRecorded)]
        assert [(event.name, event.held) for event in kept] == [("call:model", True)] * 2
        assert [event.value for event in kept] == [trace.state["messages"][2], trace.state["messages"][4]]


@with_recorded
def test_the_agent_replays_a_recorded_conversation(tmp_path: Path) -> None:
    told = output(tmp_path, "agent_loop.py", str(RECORDED), "--run", "3", "--db", "agent.db")
    with gzip.open(RECORDED, "rt", encoding="utf-8") as lines:
        messages = json.loads(lines.readlines()[3])["messages"]
    assert f", {len(messages)} messages, " in told
    with es.open(tmp_path / "agent.db", create=False) as store:
        (info,) = store.traces()
        assert store.state_at(info.trace_id)["messages"] == messages


@with_recorded
def test_many_recorded_conversations_at_once(tmp_path: Path) -> None:
    agent = load("agent_loop.py").agent
    with gzip.open(RECORDED, "rt", encoding="utf-8") as lines:
        scripts = [json.loads(line)["messages"] for line in lines][:30]

    async def replay() -> list[es.GraphResult]:
        async with es.aopen(tmp_path / "agents.db", durability="normal") as store:
            runs = (es.run_async(agent(script), store, {"messages": script[:1]}) for script in scripts)
            return await asyncio.gather(*runs)

    results = asyncio.run(replay())
    assert [result.state["messages"] for result in results] == scripts
    assert {result.status for result in results} == {"completed"}
    with es.open(tmp_path / "agents.db", create=False) as store:
        for result, script in zip(results, scripts, strict=True):
            half = result.execution_log[len(result.execution_log) // 2]
            then = store.state_at(result.trace_id, half.seq)["messages"]
            assert then == script[: len(then)] and len(then) == 1 + half.step
        assert store.verify().ok


# time_travel.py


def test_time_travel_asks_everything_of_a_run(tmp_path: Path) -> None:
    told = output(tmp_path, "time_travel.py", "--svg", "run.svg")
    assert told.startswith("Steps: ['look_up', 'search', 'draft', 'draft', 'approve', 'apologise']\n")
    assert "Spent at step 2: 0.005\n" in told
    assert "\nspent: 0.005 -> 0.016\n" in told and 'approve.reject_reason: + "too generous"' in told
    assert "Step 3, draft, wrote: We refund 40." in told and "Step 5, apologise, wrote: We are sorry" in told
    assert "'apologise' was entered because 'approve' led there" in told
    assert "approve.approved: false -> true\nsent: + true\n" in told
    assert told.endswith("Replayed, the graph does the same: True\n")
    drawn = (tmp_path / "run.svg").read_text("utf-8")
    assert drawn.startswith("<svg") and "waited" in drawn and "look_up" in drawn


def test_a_langgraph_agent_asks_and_goes_two_ways(tmp_path: Path) -> None:
    told = output(tmp_path, "langgraph_agent.py")
    assert told.startswith("It asks: Refund 40?\nAnswered yes: We refunded 40.\nWith 30 instead: We refunded 30.\n")
    assert "total: 40 -> 30\npaid: + 30\n" in told
    assert "  step 3, look_up: 40\n  step 4, update: 30\n" in told
    with es.open(tmp_path / "eventstore.db", create=False) as store:
        assert store.verify().ok
        assert [thread.thread_id for thread in store.threads()] == ["order-7"]
