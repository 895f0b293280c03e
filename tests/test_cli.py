"""The command line: what each command prints for people, pipes and machines, and how it fails."""

from __future__ import annotations

import json
import os
import re
import struct
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import apsw
import pytest
from click.testing import CliRunner, Result

import eventstore as es
from eventstore.cli import main
from eventstore.transcripts import Counts, Transcript, import_transcript

READERS = (
    ["diff", "a"],
    ["blame", "a", "x"],
    ["why", "a", "1"],
    ["timeline", "a"],
    ["runs"],
    ["state", "a"],
    ["log", "a"],
    ["checkpoints", "a"],
    ["barriers"],
    ["tail"],
    ["stats"],
    ["verify"],
)
HOSTILE = "\x1b]0;pwned\x07\x1b[2J\x9b31m[red]x[/red]\r\n\u202e\u2028:smile:"
BOXES = re.compile("[\u2500-\u257f\u2026]")
COLOURS = re.compile(r"\x1b\[[0-9;]*m")
RUNS = [
    {"task_id": 1, "messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "w" * 300}]},
    {"name": "crypto", "steps": [{"action": "ls\n"}]},
]

Run = Callable[..., Result]


@pytest.fixture
def db(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty place for `eventstore.db`, in the current folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("EVENTSTORE_DB", raising=False)
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
def imported(db: Path, run: Run) -> Path:
    (db.parent / "runs.jsonl").write_text("".join(json.dumps(item) + "\n" for item in RUNS), "utf-8")
    run("import", "runs.jsonl")
    return db


def of(run: Run, *arguments: str, code: int = 0) -> Any:
    """What --json prints."""
    return json.loads(run(*arguments, "--json", code=code).stdout)


def lines(result: Result) -> list[list[str]]:
    return [line.split() for line in result.stdout.splitlines()]


def in_terminal(db: Path, arguments: Sequence[str], columns: int = 100) -> str:
    """What a command shows on a terminal of that width."""
    fcntl, pty, termios = (pytest.importorskip(name) for name in ("fcntl", "pty", "termios"))
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES", "NO_COLOR")}
    command = [sys.executable, "-m", "eventstore", "--db", str(db), *arguments]
    with subprocess.Popen(command, stdout=follower, stderr=follower, env=environment | {"TERM": "xterm-256color"}):
        os.close(follower)
        shown = b""
        try:
            while chunk := os.read(leader, 65536):
                shown += chunk
        except OSError:
            pass  # the other end is closed
    os.close(leader)
    return shown.decode()


# import


def test_import_tells_what_it_added(run: Run, imported: Path) -> None:
    assert lines(run("import", "runs.jsonl"))[1] == ["runs.jsonl", "0", "0", "2", "0", "0", "-"]
    (imported.parent / "more.json").write_text(json.dumps([*RUNS, {"messages": []}]), "utf-8")
    files = of(run, "import", "more.json", "runs.jsonl")["files"]
    assert [{**file, "seconds": 0} for file in files] == [
        {"file": "more.json", "added": 1, "continued": 0, "present": 2, "skipped": 0, "steps": 0, "seconds": 0},
        {"file": "runs.jsonl", "added": 0, "continued": 0, "present": 2, "skipped": 0, "steps": 0, "seconds": 0},
    ]
    assert lines(run("import", "more.json", "runs.jsonl"))[-1][:4] == ["total", "0", "0", "5"]


def test_import_stops_at_a_malformed_line(run: Run, db: Path) -> None:
    (db.parent / "bad.jsonl").write_text(f"{json.dumps(RUNS[0])}\n{{oops}}\n{json.dumps(RUNS[1])}\n", "utf-8")
    stopped = run("import", "bad.jsonl", code=1)
    assert stopped.stderr.startswith("Error: bad.jsonl:2: not JSON: Expecting property name")
    assert "what was imported before it stays; --skip-bad" in stopped.stderr
    assert lines(stopped)[1][:6] == ["bad.jsonl", "1", "0", "0", "0", "2"]
    assert [info["name"] for info in of(run, "runs")] == ["task-1"]
    skipped = run("import", "--skip-bad", "bad.jsonl")
    assert skipped.stderr.startswith("skipped: bad.jsonl:2: not JSON")
    assert lines(skipped)[1][:6] == ["bad.jsonl", "1", "0", "1", "1", "1"]


@pytest.mark.parametrize("name", ["notes.txt", "absent.jsonl", "."])
def test_import_of_what_is_no_transcript_is_a_usage_error(run: Run, db: Path, name: str) -> None:
    (db.parent / "notes.txt").write_text("hello", "utf-8")
    assert name in run("import", name, code=2).stderr
    assert not db.exists()


def test_ctrl_c_stops_an_import_that_can_go_on(run: Run, db: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(store: es.Store, transcript: Transcript, counts: Counts, **options: Any) -> None:
        def on_step() -> None:
            if counts.steps == 2:
                raise KeyboardInterrupt

        import_transcript(store, transcript, counts, **options | {"on_step": on_step})

    (db.parent / "runs.jsonl").write_text("".join(json.dumps(item) + "\n" for item in RUNS), "utf-8")
    with monkeypatch.context() as patched:
        patched.setattr("eventstore.cli.importing.import_transcript", interrupted)
        stopped = run("import", "runs.jsonl", code=130)
    assert stopped.stderr == "Interrupted: importing again goes on from here.\n"
    assert lines(stopped)[1][:6] == ["runs.jsonl", "1", "0", "0", "0", "2"]
    counts = of(run, "import", "runs.jsonl")["files"][0]
    assert (counts["added"], counts["continued"], counts["steps"]) == (1, 1, 1)


# Reading


def test_runs_in_pages(run: Run, imported: Path) -> None:
    newest, oldest = of(run, "runs")
    assert (newest["name"], newest["status"], newest["version"]) == ("crypto", "completed", 4)
    assert of(run, "runs", "--limit", "1") == [newest]
    assert of(run, "runs", "--limit", "1", "--after", newest["trace_id"][:8]) == [oldest]
    assert of(run, "runs", "--name", "task-1") == [oldest]
    assert of(run, "runs", "--status", "running") == []
    header, first, _ = lines(run("runs"))
    assert header == ["trace", "name", "status", "events", "updated"]
    assert first[:4] == [newest["trace_id"], "crypto", "completed", "4"]
    assert first[4] == newest["updated_at"] or first[4].startswith(newest["updated_at"][:19])


def test_state_now_and_then(run: Run, imported: Path) -> None:
    trace_id = of(run, "runs", "--name", "task-1")[0]["trace_id"]
    assert of(run, "state", trace_id) == RUNS[0]
    assert of(run, "state", trace_id, "--at", "1") == RUNS[0] | {"messages": []}
    text = run("state", trace_id, "--at", "5").stdout.splitlines()
    assert [line.split(maxsplit=1)[0] for line in text] == ["key", "task_id", "messages"]
    assert json.loads(text[2].split(maxsplit=1)[1]) == RUNS[0]["messages"]
    assert "has seqs 1 to 6, asked for 7" in run("state", trace_id, "--at", "7", code=1).stderr


def test_log_whole_and_in_part(run: Run, imported: Path) -> None:
    trace_id = of(run, "runs", "--name", "task-1")[0]["trace_id"]
    events = of(run, "log", trace_id, "--events-only")
    assert [event["seq"] for event in events] == [1, 2, 3, 4, 5, 6]
    assert es.RecordedEvent.from_json(json.dumps(events[1])).event.op is es.DeltaOp.APPEND
    assert of(run, "log", trace_id, "--after", "2", "--upto", "5", "--limit", "2") == events[2:4]
    rows = lines(run("log", trace_id, "--events-only"))
    assert [row[2:4] for row in rows[1:]] == [
        ["trace_started", "task-1"],
        ["append", "messages"],
        ["node_executed", "user"],
        ["append", "messages"],
        ["node_executed", "assistant"],
        ["trace_ended", "completed"],
    ]
    assert "w" * 300 in run("log", trace_id).stdout


def test_log_shows_what_the_policies_did(run: Run, db: Path) -> None:
    with es.open(db, fold_policy=es.FoldEvery(3)) as store:
        trace = store.start({"n": 0}, id="t1", reducers={"n": "sum"})
        for _ in range(3):
            with trace.step("count") as step:
                step.put("n", 1)
        trace.checkpoint("count")
        trace.end()
        bases = store.bases("t1")
        saved = store.checkpoints.list("t1")
    items = of(run, "log", "t1")
    events = [item for item in items if item["kind"] not in ("checkpoint", "base")]
    assert events == of(run, "log", "t1", "--events-only")
    assert [event["seq"] for event in events] == list(range(1, 9))
    shown = [item for item in items if item["kind"] == "base"]
    assert [(item["seq"], item["base"], item["reason"], item["size_bytes"]) for item in shown] == [
        (base.seq, base.kind, base.reason, base.size_bytes) for base in bases
    ]
    assert bases
    shown = [item for item in items if item["kind"] == "checkpoint"]
    assert [(item["seq"], item["checkpoint_id"]) for item in shown] == [
        (checkpoint.seq, checkpoint.checkpoint_id) for checkpoint in reversed(saved)
    ]
    assert [item["seq"] for item in items] == sorted(item["seq"] for item in items)
    assert all(items[at - 1]["seq"] == item["seq"] for at, item in enumerate(items) if item["kind"] == "base")
    text = run("log", "t1").stdout
    assert re.search(r"7 .* checkpoint +count +explicit\n", text)
    assert re.search(rf"base +{bases[0].kind} +[\d,]+ bytes: {re.escape(bases[0].reason)}\n", text)
    after = of(run, "log", "t1", "--after", "7")
    assert [(item["seq"], item["kind"]) for item in after] == [(8, "trace_ended"), (8, "checkpoint")]


def test_log_shows_what_a_step_cost_and_why_it_failed(run: Run, db: Path) -> None:
    with es.open(db) as store:
        trace = store.start({"n": 1}, name="costly", id="t1")
        with trace.step("ask", es.ExecutionMetadata(900, 0.002, True), next="answer") as step:
            step.delete("n")
        with pytest.raises(ZeroDivisionError), trace.step("answer"):
            _ = 1 / 0
        trace.append([es.StateDelta.put("n", 2, es.DeltaSource.HUMAN)])
    text = run("log", "t1").stdout
    assert "delete           n                 -\n" in text
    assert "900 ms, cost 0.002, side effects, next answer" in text
    assert re.search(r"node_failed +answer +[\d.e-]+ ms, ZeroDivisionError: division by zero", text)
    assert "2  (source: human)" in text


def test_checkpoints_of_a_trace(run: Run, db: Path) -> None:
    with es.open(db) as store:
        trace = store.start({"n": 1}, id="t1")
        saved = trace.checkpoint("ask")
        trace.end()
    ended, asked = of(run, "checkpoints", "t1")
    assert (asked["checkpoint_id"], asked["seq"], asked["node"]) == (saved.checkpoint_id, 1, "ask")
    assert ended["triggers"] == [{"name": "execution_completed"}]
    assert lines(run("checkpoints", "t1"))[2][:4] == [saved.checkpoint_id, "1", "ask", "explicit"]


def test_forks_are_listed_with_their_origin(run: Run, db: Path) -> None:
    with es.open(db) as store:
        trace = store.start({"n": 1}, id="t1")
        store.fork(trace.id, id="t2")
    assert lines(run("runs"))[0][-2:] == ["forked", "from"]
    assert lines(run("runs"))[1][-3:] == ["t1", "at", "1"]
    assert of(run, "state", "t2") == {"n": 1}


def test_stats(run: Run, imported: Path) -> None:
    found = of(run, "stats")
    assert found["path"] == "eventstore.db"
    assert found["runs"] == len(found["traces"]) == 2
    assert found["log_bytes"] == sum(trace["log_bytes"] for trace in found["traces"])
    assert {"file_bytes", "wal_bytes", "base_bytes", "free_pages", "pages", "steps", "c1", "c2"} < found.keys()
    assert {"c1", "c2", "state_bytes"} < found["traces"][0].keys()
    text = run("stats", "--limit", "1").stdout
    assert f"log_bytes        {found['log_bytes']}\n" in text
    assert "task-1" in text
    assert "crypto" not in text


def test_verify(run: Run, imported: Path, damage_file: Callable[..., int]) -> None:
    assert run("verify").stdout == "ok: 2 traces, 10 events, 0 bases\n"
    trace_id = of(run, "runs", "--name", "task-1")[0]["trace_id"]
    assert of(run, "verify", trace_id)["traces"] == 1
    damage_file(imported, "UPDATE log SET body = replace(body, 'hi', 'ho') WHERE body LIKE '%\"hi\"%'")
    text = run("verify", code=1).stdout
    assert f"{trace_id}    2  digest  the log" in text
    assert text.splitlines()[-1].startswith("1 problem: ")
    report = of(run, "verify", code=1)
    assert (report["ok"], [problem["seq"] for problem in report["problems"]]) == (False, [2])
    assert of(run, "verify", of(run, "runs", "--name", "crypto")[0]["trace_id"])["ok"]


# Naming a trace


def test_any_unique_beginning_names_a_trace(run: Run, db: Path) -> None:
    with es.open(db) as store:
        for trace_id in ("abc", "abd-1", "abd-2", "abd"):
            store.start({"is": trace_id}, id=trace_id, name=f"run {trace_id}")
    assert of(run, "state", "abc") == of(run, "state", "abc") == {"is": "abc"}
    assert of(run, "state", "abd-1") == {"is": "abd-1"}
    assert of(run, "state", "abd") == {"is": "abd"}
    message = run("state", "ab", code=1).stderr
    assert message.startswith("Error: ab is the beginning of several traces: ")
    assert message.count("\n") == 1
    assert all(f"{trace_id} (run {trace_id})" in message for trace_id in ("abc", "abd-1", "abd-2", "abd"))
    for unknown in ("x", "", "abcd", "%"):
        assert run("state", unknown, code=1).stderr == f"Error: no trace {unknown} in this store\n"


# Going wrong


@pytest.mark.parametrize("arguments", READERS, ids=lambda arguments: arguments[0])
def test_readers_create_nothing(run: Run, db: Path, arguments: list[str]) -> None:
    message = run(*arguments, code=1).stderr
    assert message == "Error: eventstore.db: no such file; name the event store with --db or EVENTSTORE_DB\n"
    assert list(db.parent.iterdir()) == []


@pytest.mark.parametrize("arguments", READERS, ids=lambda arguments: arguments[0])
@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"notes" * 1000, "not an SQLite file"), (b"", "an empty file"), (None, "an SQLite file of another application")],
)
def test_readers_refuse_other_files(
    run: Run, db: Path, arguments: list[str], content: bytes | None, reason: str
) -> None:
    if content is None:
        connection = apsw.Connection(str(db))
        connection.execute("CREATE TABLE other (x)")
        connection.close()
    else:
        db.write_bytes(content)
    before = db.read_bytes()
    assert run(*arguments, code=1).stderr == f"Error: eventstore.db: {reason}\n"
    assert db.read_bytes() == before


@pytest.mark.parametrize(
    "arguments",
    [
        ["bogus"],
        ["state"],
        ["runs", "--limit", "0"],
        ["runs", "--status", "odd"],
        ["import"],
    ],
)
def test_a_wrong_command_line_exits_with_2(run: Run, arguments: list[str]) -> None:
    assert "Usage: " in run(*arguments, code=2).stderr


def test_the_store_may_be_named_by_option_or_environment(
    run: Run, db: Path, imported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    imported.rename(db.parent / "else.db")
    assert len(json.loads(run("--db", "else.db", "runs", "--json").stdout)) == 2
    monkeypatch.setenv("EVENTSTORE_DB", "else.db")
    assert len(of(run, "runs")) == 2
    assert "is a directory" in run("--db", ".", "runs", code=2).stderr


def test_help_lists_the_commands_in_the_order_of_use(run: Run) -> None:
    commands = run("--help").stdout.partition("Commands:")[2]
    assert re.findall(r"^  ([\w-]+)", commands, re.MULTILINE) == [
        "import", "import-langgraph", "run", "resume", "barriers", "decide", "cancel", "work", "tail",
        "runs", "threads", "state", "log", "checkpoints", "timeline", "diff", "blame", "why", "fork", "replay",
        "export", "prune", "graph", "stats", "verify", "backup", "salvage",
    ]  # fmt: skip
    assert run("--version").stdout == f"eventstore, version {es.__version__}\n"
    exports = [("export", command) for command in main.commands["export"].commands]
    verbs = [(command,) for command in main.commands if command != "export"]
    assert all("--json" in run(*command, "--help").stdout for command in verbs + exports)


def test_a_damaged_base_is_a_warning_in_one_line(run: Run, db: Path, damage_file: Callable[..., int]) -> None:
    with es.open(db) as store:
        trace = store.start({"items": []}, reducers={"items": es.Reducer.APPEND}, id="t1")
        for number in range(200):
            with trace.step("add") as step:
                step.put("items", f"{number:0200}")
    damage_file(db, "UPDATE base SET body = x'00'")
    result = run("state", "t1", "--json")
    assert len(json.loads(result.stdout)["items"]) == 200
    assert all(line.startswith("Warning: base ") for line in result.stderr.splitlines())
    assert result.stderr


def test_what_nobody_foresaw_is_a_line_too(run: Run, imported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise TypeError("no\x1brow")

    monkeypatch.setattr(es.Store, "verify", broken)
    told = "Error: unexpected TypeError: no\\x1brow (EVENTSTORE_DEBUG=1 shows where)\n"
    assert run("verify", code=1).stderr == told
    monkeypatch.setenv("EVENTSTORE_DEBUG", "1")
    assert isinstance(CliRunner().invoke(main, ["verify"]).exception, TypeError)


# Terminals, pipes and other processes


def test_pipes_get_everything_and_no_decoration(run: Run, imported: Path) -> None:
    trace_id = of(run, "runs", "--name", "task-1")[0]["trace_id"]
    for arguments in (
        ["runs"],
        ["state", trace_id],
        ["log", trace_id],
        ["checkpoints", trace_id],
        ["stats"],
        ["verify"],
    ):
        text = run(*arguments).stdout
        assert not BOXES.search(text)
        assert "\x1b" not in text
    assert "w" * 300 in run("state", trace_id).stdout


def test_terminals_get_tables_cut_to_their_width(run: Run, imported: Path) -> None:
    trace_id = of(run, "runs", "--name", "task-1")[0]["trace_id"]
    for columns in (80, 100):
        for arguments in (["runs"], ["state", trace_id[:6]], ["log", trace_id], ["stats"]):
            shown = COLOURS.sub("", in_terminal(imported, arguments, columns))
            assert BOXES.search(shown)
            assert all(len(line) <= columns for line in shown.splitlines())
    shown = in_terminal(imported, ["runs"], 80)
    assert trace_id in shown
    assert COLOURS.search(shown)
    assert "ok: 2 traces, 10 events, 0 bases" in in_terminal(imported, ["verify"])


def test_an_import_on_a_terminal_shows_its_progress(db: Path) -> None:
    (db.parent / "runs.jsonl").write_text("".join(json.dumps(item) + "\n" for item in RUNS), "utf-8")
    shown = COLOURS.sub("", in_terminal(db, ["import", "runs.jsonl"]))
    assert re.search(r"runs\.jsonl .*100% +3 steps", shown)


def test_data_can_neither_steer_a_terminal_nor_be_read_as_markup(run: Run, db: Path) -> None:
    with es.open(db) as store:
        trace = store.start({"text": HOSTILE, HOSTILE[:20]: [HOSTILE]}, name=HOSTILE, id="t1")
        with pytest.raises(ValueError), trace.step("bad" + HOSTILE):
            raise ValueError(HOSTILE)
        trace.checkpoint(HOSTILE)
        store.start({}, name=HOSTILE, id=f"t2{HOSTILE}")
    commands = [
        ["runs"],
        ["state", "t1"],
        ["log", "t1"],
        ["checkpoints", "t1"],
        ["stats"],
        ["state", "t"],
        ["state", "t9" + HOSTILE],
    ]
    unsafe = re.compile("[\x00-\x09\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028\u202e]")
    for arguments in commands:
        shown = COLOURS.sub("", in_terminal(db, arguments, 200))
        assert not unsafe.search(shown), arguments
        result = CliRunner().invoke(main, arguments)
        assert not unsafe.search(result.output), arguments
        as_json = CliRunner().invoke(main, [*arguments, "--json"])
        assert not unsafe.search(as_json.output), arguments
    assert "[red]x[/red]" in COLOURS.sub("", in_terminal(db, ["runs"], 200))
    assert of(run, "state", "t1")["text"] == HOSTILE
    assert of(run, "runs")[0]["name"] == HOSTILE


@pytest.mark.parametrize("arguments", [["log", "t1"], ["log", "t1", "--json"], ["state", "t1"]], ids=" ".join)
def test_a_reader_that_goes_away_ends_the_command_quietly(run: Run, db: Path, arguments: list[str]) -> None:
    with es.open(db, durability="normal") as store:
        trace = store.start({"items": []}, reducers={"items": es.Reducer.APPEND}, id="t1")
        for _ in range(2000):
            with trace.step("add") as step:
                step.put("items", "x" * 100)
    command = [sys.executable, "-m", "eventstore", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.read(10)
        process.stdout.close()
        assert process.stderr.read() == b""


def test_a_stdout_of_another_encoding_gets_utf8(run: Run, db: Path) -> None:
    with es.open(db) as store:
        store.start({"place": "Zürich"}, id="t1", name="Zürich")
    environment = os.environ | {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    for arguments in (["runs"], ["state", "t1", "--json"]):
        command = [sys.executable, "-m", "eventstore", *arguments]
        done = subprocess.run(command, capture_output=True, env=environment, check=True)
        assert "Zürich" in done.stdout.decode()


def test_readers_work_while_another_process_writes_and_after_its_death(run: Run, db: Path) -> None:
    writer = (
        "import eventstore as es\n"
        "with es.open('eventstore.db', durability='normal') as store:\n"
        "    trace = store.start({'n': 0}, reducers={'n': 'sum'}, id='t1')\n"
        "    print('ready', flush=True)\n"
        "    while True:\n"
        "        with trace.step('count') as step:\n"
        "            step.put('n', 1)\n"
    )
    with subprocess.Popen([sys.executable, "-c", writer], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None and process.stdout.readline() == b"ready\n"
            seen = []
            for _ in range(5):
                seen.append(of(run, "state", "t1")["n"])
                assert of(run, "verify")["ok"]
                assert of(run, "log", "t1", "--after", str(seen[-1] * 2), "--limit", "1")[0]["seq"] == seen[-1] * 2 + 1
                assert of(run, "stats")["wal_bytes"] > 0
            assert seen == sorted(seen)
            assert seen[-1] > seen[0]
        finally:
            process.kill()
    assert of(run, "verify")["ok"]
    assert of(run, "state", "t1")["n"] >= seen[-1]
