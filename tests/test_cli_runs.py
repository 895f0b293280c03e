"""The command line of durable runs: run here, decide there, go on anywhere, and stop without losing a step."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import tenacity
from click.testing import CliRunner, Result
from test_cli import COLOURS, HOSTILE, in_terminal

import eventstore as es
from eventstore.cli import main

FLOW = """
import os
import time
from pathlib import Path

import eventstore as es

graph = es.Graph("refund", reducers={"log": "append"})


@graph.node
def ask(ctx):
    ctx.emit({"asking": ctx.state.get("total")})
    ctx.put("log", "asked")


@graph.node(side_effects=True)
def pay(ctx):
    with open("paid.txt", "a") as file:
        file.write(f"{ctx.trace_id}\\n")
    if ctx.state.get("bank") == "down":
        raise ConnectionError("bank unreachable")
    return {"paid": ctx.state.get("total", 0)}


@graph.node
def talk(ctx):
    return {"talked": True}


graph.barrier("approve", prompt="Refund?", keys=["total"], goes_to=["talk"])
graph.start("ask").edge("ask", "approve").edge_if("approve", "pay", lambda state: state["approve.approved"], name="yes")
graph.end("approve", "pay", "talk")


def make():
    return graph


def wants(something):
    return graph


def gives():
    return 3


loop = es.Graph("loop")


@loop.node
def turn(ctx):
    Path("turning").touch()
    time.sleep(0.01)
    ctx.emit("turned")
    return {"n": ctx.state.get("n", 0) + 1}


@loop.node
def last(ctx):
    return {"over": True}


loop.start("turn").edge_if("turn", "turn", lambda state: not os.path.exists("enough"), name="more")
loop.edge("turn", "last").end("last")
invalid = es.Graph("invalid")
number = 3
"""

Run = Callable[..., Result]


@pytest.fixture
def db(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty place for `eventstore.db` beside `flow.py`, in the current folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("EVENTSTORE_DB", raising=False)
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "flow.py").write_text(FLOW, "utf-8")
    return tmp_path / "eventstore.db"


@pytest.fixture
def run(db: Path) -> Run:
    def invoke(*arguments: str, code: int = 0) -> Result:
        result = CliRunner().invoke(main, list(arguments))
        assert result.exit_code == code, result.output
        assert "Traceback" not in result.output
        return result

    return invoke


@pytest.fixture
def waiting(db: Path, run: Run) -> Path:
    """A file in which run `t1` waits for its approval."""
    run("run", "flow.py:graph", "--state", '{"total": 40}', "--id", "t1")
    return db


def of(run: Run, *arguments: str, code: int = 0) -> Any:
    """What --json prints."""
    return json.loads(run(*arguments, "--json", code=code).stdout)


def records(text: str) -> list[Any]:
    """JSON lines."""
    return [json.loads(line) for line in text.splitlines()]


def types(text: str) -> list[str]:
    return [record["type"] for record in records(text)]


@contextmanager
def process(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """The command in a process of its own, killed if it is not over by then."""
    command = [sys.executable, "-m", "eventstore", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as started:
        try:
            yield started
        finally:
            started.kill()


def line_of(started: subprocess.Popen[str], wanted: str) -> str:
    """Read up to a line that holds `wanted`."""
    assert started.stdout is not None
    while line := started.stdout.readline():
        if wanted in line:
            return line
    raise AssertionError(f"{wanted!r} did not come: {started.stderr and started.stderr.read()}")


def wait_for(what: Callable[[], Any]) -> None:
    until = time.monotonic() + 30
    while not what():
        assert time.monotonic() < until
        time.sleep(0.01)


# run and resume


def test_a_run_is_told_as_it_goes_and_says_what_it_waits_for(run: Run, db: Path) -> None:
    text = run("run", "flow.py:graph", "--state", '{"total": 40}', "--id", "t1").stdout
    assert [line.split() for line in text.splitlines()][:3] == [
        ["1", "started", "refund", "t1"],
        ["node", "ask"],
        ["emitted", "ask", '{"asking":40}'],
    ]
    assert re.search(r"^ +5  waiting +approve#1 +Refund\?$", text, re.MULTILINE)
    assert text.endswith("waiting: t1\n  approve#1: Refund?\n")
    (info,) = of(run, "barriers")
    assert (info["trace_id"], info["barrier_id"], info["prompt"], info["keys"]) == (
        "t1", "approve#1", "Refund?", ["total"],
    )  # fmt: skip


def test_a_run_as_json_lines(run: Run, db: Path) -> None:
    (db.parent / "state.json").write_text('{"total": 7}', "utf-8")
    *events, result = records(run("run", "flow.py:graph", "--state", "@state.json", "--id", "t1", "--json").stdout)
    assert [event["type"] for event in events] == [
        "GraphStarted", "NodeStarted", "Emitted", "DeltaWritten", "NodeEnded", "BarrierWaiting",
    ]  # fmt: skip
    assert result == {
        "type": "Result",
        "trace_id": "t1",
        "status": "waiting",
        "pending_barriers": ["approve#1"],
        "state": {"total": 7, "log": ["asked"]},
    }
    of(run, "decide", "t1", "approve", "approve")
    *_, result = records(run("resume", "flow.py:graph", "t1", "--json").stdout)
    assert (result["status"], result["state"]["paid"]) == ("completed", 7)


def test_run_here_decide_there_go_on_anywhere(run: Run, db: Path) -> None:
    with process("run", "flow:graph", "--state", '{"total": 40}', "--json") as here:
        out, _ = here.communicate(timeout=30)
    assert here.returncode == 0
    trace_id = records(out)[-1]["trace_id"]
    with process("decide", trace_id[:13], "approve", "modify", "--set", "total=30", "--by", "ana") as there:
        out, _ = there.communicate(timeout=30)
    assert out == 'approve#1: modify: {"total":30}, by ana\n'
    with process("resume", "flow:graph", trace_id[:13]) as anywhere:
        out, _ = anywhere.communicate(timeout=30)
    assert anywhere.returncode == 0
    assert out.endswith(f"completed: {trace_id}\n")
    assert of(run, "state", trace_id)["paid"] == 30
    assert of(run, "verify")["ok"]


def test_a_failed_run_is_one_line_and_can_be_tried_again(run: Run, db: Path) -> None:
    run("run", "flow.py:graph", "--id", "t1", "--state", '{"total": 40, "bank": "down"}')
    run("decide", "t1", "approve", "approve")
    failed = run("resume", "flow.py:graph", "t1", code=1)
    assert failed.stderr == "Error: trace t1 failed at node 'pay': ConnectionError: bank unreachable\n"
    again = run("resume", "flow.py:graph", "t1", "--json", code=1)
    assert records(again.stdout)[-1] | {"state": 0} == {
        "type": "Result", "trace_id": "t1", "status": "failed", "pending_barriers": [], "state": 0,
        "error": "ConnectionError: bank unreachable",
    }  # fmt: skip
    text = run("log", "t1").stdout
    failed_attempt = r"node_failed +pay +[\d.e-]+ ms, side effects, ConnectionError: bank unreachable\n"
    assert len(re.findall(failed_attempt, text)) == 2
    assert re.search(r"trace_reopened +- +-\n", text)


def test_a_run_that_exists_is_gone_on_with(run: Run, waiting: Path) -> None:
    assert run("run", "flow.py:graph", "--id", "t1").stdout.endswith("waiting: t1\n  approve#1: Refund?\n")
    other = run("run", "flow.py:graph", "--id", "t1", "--state", '{"total": 41}', code=1)
    assert other.stderr == "Error: trace t1 was started with another state; it differs in 'total'\n"


def test_a_changed_graph_wants_to_be_forced(run: Run, waiting: Path) -> None:
    run("decide", "t1", "approve", "approve")
    changed = FLOW.replace("def pay(", "def refund(").replace('"pay"', '"refund"')
    (waiting.parent / "flow.py").write_text(changed, "utf-8")
    assert "node 'pay' is gone" in run("resume", "flow.py:graph", "t1", code=1).stderr
    assert "write NEW=OLD" in run("resume", "flow.py:graph", "t1", "--renamed-from", "pay", code=2).stderr
    run("resume", "flow.py:graph", "t1", "--force-graph", "--renamed-from", "refund=pay")
    assert of(run, "state", "t1")["paid"] == 40
    assert re.search(r"graph_changed +- +\w{8} became \w{8}, forced", run("log", "t1").stdout)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["run", "flow.py"], 2, "Error: flow.py: name a graph as module:graph or path/to/file.py:graph"),
        (["run", "nowhere:graph"], 1, "Error: no module nowhere, seen from"),
        (["run", "nowhere.deep:graph"], 1, "Error: no module nowhere.deep, seen from"),
        (["run", "nowhere.py:graph"], 1, "Error: nowhere.py: no such file"),
        (["run", "flow.py:nothing"], 1, "Error: flow.py has no nothing"),
        (["run", "flow.py:number"], 1, "Error: flow.py:number is int, not a graph"),
        (["run", "flow.py:wants"], 1, "Error: flow.py:wants is neither a graph nor a callable without parameters"),
        (["run", "flow.py:gives"], 1, "Error: flow.py:gives() gives int, not a graph"),
        (["run", "flow.py:invalid"], 1, "Error: graph invalid: no start; no end"),
        (["run", "broken.py:graph"], 1, "Error: importing broken.py: ModuleNotFoundError: No module named 'nowhere'"),
        (["run", "flow.py:graph", "--state", "{"], 2, "no JSON"),
        (["run", "flow.py:graph", "--state", "[]"], 2, "the initial state is a JSON object"),
        (["run", "flow.py:graph", "--state", "@none"], 1, "Error: none: No such file"),
        (["resume", "flow.py:graph", "t1"], 1, "Error: eventstore.db: no such file"),
        (["decide", "t1", "a", "approve"], 1, "Error: eventstore.db: no such file"),
        (["cancel", "t1"], 1, "Error: eventstore.db: no such file"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_is_wrong_is_one_line(run: Run, db: Path, arguments: list[str], code: int, message: str) -> None:
    (db.parent / "broken.py").write_text("import nowhere\n", "utf-8")
    stderr = run(*arguments, code=code).stderr
    assert message in stderr
    assert code == 2 or stderr.count("\n") == 1
    assert not db.exists()


# barriers, decide and cancel


def test_the_inbox_in_pages(run: Run, db: Path) -> None:
    for trace_id in ("t1", "u2", "v3"):
        run("run", "flow.py:make", "--id", trace_id)
    run("decide", "t1", "approve", "reject", "--reason", "too much", "--by", "ana")
    assert [info["trace_id"] for info in of(run, "barriers")] == ["u2", "v3"]
    assert [info["trace_id"] for info in of(run, "barriers", "--all")] == ["t1", "u2", "v3"]
    assert [info["trace_id"] for info in of(run, "barriers", "--limit", "1")] == ["u2"]
    assert [info["trace_id"] for info in of(run, "barriers", "--after", "u", "approve#1")] == ["v3"]
    assert [info["trace_id"] for info in of(run, "barriers", "v")] == ["v3"]
    (decided,) = of(run, "barriers", "--decided")
    assert decided["decision"] == {"action": "reject", "reason": "too much", "by": "ana"}
    header, row = (line.split("  ") for line in run("barriers", "--decided").stdout.splitlines())
    assert header[0] == "trace"
    assert "reject: too much, by ana" in row


def test_every_decision(run: Run, db: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("getpass.getuser", lambda: "login")
    wanted = {
        "approve": {"action": "approve", "by": "login"},
        "reject": {"action": "reject", "by": "login"},
        "modify": {"action": "modify", "by": "login", "values": {"total": 3, "note": "a b"}},
        "reroute": {"action": "reroute", "by": "login", "target": "talk"},
    }
    options = {"modify": ["--set", "total=3", "--set", 'note="a b"'], "reroute": ["--to", "talk"]}
    for action, decision in wanted.items():
        run("run", "flow.py:graph", "--id", action)
        told = of(run, "decide", action, "approve#1", action, *options.get(action, []))
        assert told == {"trace_id": action, "barrier_id": "approve#1", "decision": decision, "status": "running"}
        run("resume", "flow.py:graph", action)
    assert [of(run, "state", action).get("paid") for action in wanted] == [0, None, 3, None]
    assert of(run, "state", "reroute")["talked"] is True


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["approve", "--reason", "x"], "--reason goes with reject, not with approve"),
        (["modify"], "modify needs --set KEY=JSON"),
        (["modify", "--set", "total"], "total: write KEY=JSON"),
        (["modify", "--set", "total=x"], "total=x: the value is no JSON"),
        (["reroute"], "reroute needs --to NODE"),
        (["reject", "--to", "talk"], "--to goes with reroute, not with reject"),
        (["shrug"], "'shrug' is not one of"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_wrong_decision_is_refused(run: Run, waiting: Path, arguments: list[str], message: str) -> None:
    assert message in run("decide", "t1", "approve", *arguments, code=2).stderr
    assert len(of(run, "barriers")) == 1


def test_the_first_decision_wins(run: Run, waiting: Path) -> None:
    run("decide", "t1", "approve#1", "approve")
    assert "it was decided already" in run("decide", "t1", "approve#1", "reject", code=1).stderr
    assert "the graph has no node 'moon'" in run("decide", "t1", "approve#2", "reroute", "--to", "moon", code=1).stderr
    assert of(run, "decide", "t1", "approve#2", "approve")["barrier_id"] == "approve#2"
    assert re.search(r"decision_submitted +approve#2 +approve, by ", run("log", "t1").stdout)


def test_cancelling_and_reopening(run: Run, waiting: Path) -> None:
    assert of(run, "cancel", "t1", "--by", "ana", "--reason", "too late") == {"trace_id": "t1", "ended": True}
    assert run("cancel", "t1", code=1).stderr == "Error: trace t1 has ended (cancelled)\n"
    assert run("resume", "flow.py:graph", "t1", code=1).stderr == "Error: trace t1 has ended (cancelled)\n"
    assert re.search(r"cancel_requested +ana +too late\n.*trace_ended +cancelled +too late\n", run("log", "t1").stdout)
    assert run("resume", "flow.py:graph", "t1", "--reopen").stdout.splitlines()[-2] == "waiting: t1"


# tail


def test_tail_tells_one_run_or_all(run: Run, waiting: Path) -> None:
    run("run", "flow.py:graph", "--id", "u2")
    told = ["GraphStarted", "NodeStarted", "DeltaWritten", "NodeEnded", "BarrierWaiting"]
    assert types(run("tail", "t", "--json").stdout) == told
    assert types(run("tail", "t1", "--after", "4", "--json").stdout) == ["BarrierWaiting"]
    everything = records(run("tail", "--json").stdout)
    assert [(record["trace_id"], record["type"]) for record in everything] == [
        (trace_id, name) for trace_id in ("t1", "u2") for name in told
    ]
    after = str(everything[len(told) - 1]["cursor"])
    assert records(run("tail", "--after", after, "--json").stdout) == everything[len(told) :]
    assert run("tail").stdout.splitlines()[0].split() == ["t1", "1", "started", "refund", "t1"]


def test_tail_follows_a_run_of_another_process(run: Run, waiting: Path) -> None:
    with process("tail", "t1", "--follow", "--json") as follower:
        line_of(follower, "BarrierWaiting")
        run("decide", "t1", "approve", "approve")
        line_of(follower, "BarrierResolved")
        run("resume", "flow.py:graph", "t1")
        out, errors = follower.communicate(timeout=30)
    assert (follower.returncode, errors) == (0, "")
    assert types(out)[-2:] == ["GraphCompleted", "CheckpointSaved"]
    assert "NodeEnded" in types(out)


def test_ctrl_c_ends_a_tail_quietly(waiting: Path) -> None:
    with process("tail", "--follow") as follower:
        line_of(follower, "waiting")
        follower.send_signal(signal.SIGINT)
        out, errors = follower.communicate(timeout=30)
    assert (follower.returncode, out, errors) == (130, "", "")


# Stopping


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_stopped_is_given_back(run: Run, db: Path, number: signal.Signals) -> None:
    with process("run", "flow.py:loop", "--id", "t1", "--state", "{}") as started:
        line_of(started, "ended")
        started.send_signal(number)
        out, errors = started.communicate(timeout=30)
    assert started.returncode == 130
    assert out.endswith("given back: t1\n")
    assert errors == "Stopping at the next step; once more interrupts it.\n"
    assert of(run, "runs")[0]["status"] == "running"
    (db.parent / "enough").touch()
    run("resume", "flow.py:loop", "t1")
    assert of(run, "state", "t1")["over"] is True


def test_a_second_ctrl_c_interrupts(run: Run, db: Path) -> None:
    (db.parent / "flow.py").write_text(FLOW.replace("time.sleep(0.01)", "time.sleep(60)"), "utf-8")
    with process("run", "flow.py:loop", "--id", "t1") as started:
        wait_for((db.parent / "turning").exists)
        started.send_signal(signal.SIGINT)
        assert started.stderr is not None
        assert started.stderr.readline().startswith("Stopping")
        started.send_signal(signal.SIGINT)
        _, errors = started.communicate(timeout=30)
    assert started.returncode == 130
    assert errors == "Interrupted: resuming the run goes on from its last step.\n"
    (db.parent / "flow.py").write_text(FLOW, "utf-8")
    (db.parent / "enough").touch()
    run("resume", "flow.py:loop", "t1")
    assert of(run, "state", "t1") == {"n": 1, "over": True}


def test_a_reader_that_goes_away_stops_the_run_at_a_step(run: Run, db: Path) -> None:
    with process("run", "flow.py:loop", "--id", "t1") as started:
        line_of(started, "ended")
        assert started.stdout is not None and started.stderr is not None
        started.stdout.close()
        assert started.stderr.read() == ""
        started.wait(30)
    assert of(run, "runs")[0]["status"] == "running"
    (db.parent / "enough").touch()
    run("resume", "flow.py:loop", "t1")


# work


def graphs() -> dict[str, Any]:
    """What `flow.py` holds."""
    names: dict[str, Any] = {"__name__": "flow"}
    exec(compile(FLOW, "flow.py", "exec"), names)  # noqa: S102
    return names


def decided(ids: list[str]) -> None:
    """Runs that can go on."""
    graph = graphs()["graph"]
    with es.open("eventstore.db", durability="normal") as store:
        for trace_id in ids:
            es.run(graph, store, {"total": 1}, id=trace_id)
            store.decide(trace_id, "approve", es.Approve())


def test_a_worker_goes_on_with_what_is_due_once(run: Run, waiting: Path) -> None:
    decided(["t2"])
    run("decide", "t1", "approve", "approve")
    text = run("work", "flow.py:graph", "--once", "--concurrency", "1").stdout
    assert text == "t1  completed\nt2  completed\n"
    assert run("work", "flow.py:graph", "--once").stdout == ""
    run("run", "flow.py:graph", "--id", "t3", "--state", '{"bank": "down"}')
    run("decide", "t3", "approve", "approve")
    assert records(run("work", "flow.py:graph", "--once", "--json").stdout) == [
        {
            "trace_id": "t3",
            "status": "failed",
            "error": "trace t3 failed at node 'pay': ConnectionError: bank unreachable",
        }
    ]


def test_two_workers_share_twenty_runs(run: Run, db: Path) -> None:
    ids = [f"t{number:02}" for number in range(20)]
    decided(ids)
    arguments = ("work", "flow.py:graph", "--once", "--concurrency", "2")
    with process(*arguments) as one, process(*arguments) as other:
        told = [started.communicate(timeout=60) for started in (one, other)]
    assert [errors for _, errors in told] == ["", ""]
    assert (one.returncode, other.returncode) == (0, 0)
    # A worker whose last look came before the other one's last step may leave that run to it.
    run("work", "flow.py:graph", "--once")
    assert {info["status"] for info in of(run, "runs")} == {"completed"}
    assert sorted((db.parent / "paid.txt").read_text("utf-8").split()) == ids
    assert of(run, "verify")["ok"]


def test_sigterm_makes_a_worker_give_its_runs_back(run: Run, db: Path) -> None:
    stopped = threading.Event()
    stopped.set()
    with es.open("eventstore.db") as store:
        assert es.run(graphs()["loop"], store, {}, id="t1", stop=stopped).status == "running"
    with process("work", "flow.py:loop", "--poll", "0.01") as worker:
        wait_for((db.parent / "turning").exists)
        worker.send_signal(signal.SIGTERM)
        out, errors = worker.communicate(timeout=30)
    assert (worker.returncode, out) == (0, "t1  running\n")
    assert errors == "Stopping at the next step; once more interrupts it.\n"
    (db.parent / "enough").touch()
    assert run("work", "flow.py:loop", "--once").stdout == "t1  completed\n"
    assert [event["event"]["epoch"] for event in of(run, "log", "t1") if event["kind"] == "owner_changed"] == [1, 2, 3]


# log and graph


def test_log_says_when_a_failed_attempt_is_made_again(run: Run, db: Path) -> None:
    graph = es.Graph("flaky")

    @graph.node(retry=tenacity.Retrying(stop=tenacity.stop_after_attempt(2), wait=tenacity.wait_fixed(0.001)))
    def left(ctx: es.Context) -> None:
        if ctx.attempt == 1:
            raise ConnectionError("down")
        ctx.put("left", 1)

    @graph.node
    def right(ctx: es.Context) -> None:
        ctx.put("right", ctx.call("roll", lambda: 6))

    graph.parallel("both", "left", "right").start("both").end("both")
    with es.open(db) as store:
        es.run(graph, store, id="t1")
    text = run("log", "t1").stdout
    assert re.search(r"branch_failed +both/left .* ms, ConnectionError: down, again at [\d-]+ [\d:]+ UTC\n", text)
    assert re.search(r"branch_executed +both/left +[\d.e-]+ ms, attempt 2, holds left\n", text)
    assert re.search(r"value_recorded +both/right +call:roll = 6\n", text)
    assert re.search(r"owner_changed +\d+@\S+ +epoch 1\n", text)


def test_graph_prints_its_picture_and_its_definition(run: Run, db: Path) -> None:
    assert run("graph", "flow.py:graph").stdout.startswith("flowchart TD\n")
    found = of(run, "graph", "flow.py:make")
    assert (found["name"], found["definition"]["nodes"]["approve"]["kind"]) == ("refund", "barrier")
    assert re.fullmatch("[0-9a-f]{32}", found["hash"])
    assert not db.exists()


# Terminals


def test_a_terminal_gets_the_command_that_decides(run: Run, db: Path) -> None:
    shown = COLOURS.sub("", in_terminal(db, ["run", "flow.py:graph", "--id", "t1"]))
    assert f"Decide: eventstore --db {db} decide t1 'approve#1' approve" in shown.replace("\r\n", "")
    assert f"Then:   eventstore --db {db} resume flow.py:graph t1" in shown.replace("\r\n", "")
    assert "waiting" in COLOURS.sub("", in_terminal(db, ["barriers"]) + in_terminal(db, ["tail", "t1"], 60))
    assert all(len(line) <= 60 for line in COLOURS.sub("", in_terminal(db, ["tail", "t1"], 60)).splitlines())


def test_data_cannot_steer_a_terminal(run: Run, db: Path) -> None:
    graph = es.Graph(HOSTILE)
    graph.barrier("approve", prompt=HOSTILE, timeout_s=100, on_timeout=es.Reject(HOSTILE)).start("approve")
    graph.end("approve")
    with es.open(db) as store:
        es.run(graph, store, {HOSTILE[:20]: HOSTILE}, id="t1")
        store.decide("t1", "approve#2", es.Reject(HOSTILE, by=HOSTILE))
        store.decide("t1", "approve", es.Modify({HOSTILE[:20]: HOSTILE}, by=HOSTILE))
        es.resume(graph, store, "t1")
        es.run(graph, store, id="t2")
    unsafe = re.compile("[\x00-\x09\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028\u202e]")
    for arguments in (["tail"], ["tail", "t1"], ["barriers", "--all"], ["log", "t1"]):
        for extra in ([], ["--json"]):
            assert not unsafe.search(run(*arguments, *extra).output), arguments
        assert not unsafe.search(COLOURS.sub("", in_terminal(db, arguments, 200))), arguments
