"""A run becomes a trace whose last state is the run, one durable step an item, and never twice."""

from __future__ import annotations

import gzip
import json
import os
import signal
import subprocess
import sys
import threading
import time
import tracemalloc
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

import eventstore as es
from eventstore.transcripts import LISTS, Counts, MalformedRun, Transcript, import_transcript

DATA = Path(__file__).parents[2] / "shared" / "data"
REAL = ["airline_agent_runs.jsonl.gz", "coding_agent_runs.jsonl.gz"]
CHAT = {
    "task_id": 7,
    "reward": 1.0,
    "messages": [{"role": "user", "content": "Where is my order?"}, {"role": "assistant", "content": None}],
}
CODING = {"name": "crypto", "steps": [{"action": "open a.py\n"}, {"action": ""}], "messages": [{"role": "system"}]}


@pytest.fixture
def store(tmp_path: Path) -> Any:
    with es.open(tmp_path / "runs.db", durability="normal") as opened:
        yield opened


def real(name: str) -> Path:
    path = DATA / name
    if not path.exists():
        pytest.skip(f"no real runs here: {path} is absent")
    return path


def write_lines(path: Path, *runs: Any) -> Path:
    path.write_text("".join(json.dumps(run) + "\n" for run in runs), "utf-8")
    return path


def import_file(store: es.Store, path: Path, **options: Any) -> Counts:
    counts = Counts()
    import_transcript(store, Transcript(path), counts, **options)
    return counts


def states(store: es.Store) -> dict[str, Any]:
    return {info.trace_id: store.state_at(info.trace_id) for info in store.traces(limit=1000)}


def source_runs(path: Path) -> list[Any]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def by_json(runs: Any) -> list[str]:
    return sorted(json.dumps(run, sort_keys=True) for run in runs)


# What a run becomes


def test_the_last_state_is_the_run_and_each_item_a_step(store: es.Store, tmp_path: Path) -> None:
    counts = import_file(store, write_lines(tmp_path / "chat.jsonl", CHAT))
    assert counts == Counts(added=1, steps=2)
    (info,) = store.traces()
    assert (info.name, info.status) == ("task-7", "completed")
    trace = store.open_trace(info.trace_id)
    assert dict(trace.state) == CHAT
    assert list(trace.state) == list(CHAT)
    assert store.state_at(trace.id, 1) == CHAT | {"messages": []}
    assert store.state_at(trace.id, 3) == CHAT | {"messages": CHAT["messages"][:1]}
    assert [(entry.node_name, entry.metadata.duration_ms) for entry in trace.entries()] == [
        ("user", 0),
        ("assistant", 0),
    ]
    assert store.checkpoints.load_latest(trace.id) is not None


def test_steps_and_messages_of_one_run(store: es.Store, tmp_path: Path) -> None:
    assert import_file(store, write_lines(tmp_path / "coding.jsonl", CODING)).steps == 3
    (info,) = store.traces()
    assert info.name == "crypto"
    assert store.state_at(info.trace_id) == CODING
    assert [entry.node_name for entry in store.open_trace(info.trace_id).entries()] == ["system", "open", "step"]


@pytest.mark.parametrize("run", [{"messages": []}, {"steps": [], "messages": [], "n": 1.0}])
def test_a_run_without_items_is_a_trace_without_steps(store: es.Store, tmp_path: Path, run: Any) -> None:
    assert import_file(store, write_lines(tmp_path / "none.jsonl", run)) == Counts(added=1)
    (info,) = store.traces()
    assert (info.name, info.status, store.state_at(info.trace_id)) == ("none", "completed", run)


def test_hostile_roles_and_actions_are_data_and_no_node(store: es.Store, tmp_path: Path) -> None:
    run = {
        "messages": [{"role": "\x1b[2J"}, {"role": 5}, {"role": "x" * 65}],
        "steps": [{"action": ["ls"]}, {"action": "$(ls)"}],
    }
    import_file(store, write_lines(tmp_path / "odd.jsonl", run))
    (info,) = store.traces()
    assert store.state_at(info.trace_id) == run
    nodes = [entry.node_name for entry in store.open_trace(info.trace_id).entries()]
    assert nodes == ["message"] * 3 + ["step"] * 2


# Formats


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.json", "a.json.gz", "A.JSONL"])
@pytest.mark.parametrize("zipped", [False, True])
def test_every_format_gives_the_same_traces(store: es.Store, tmp_path: Path, name: str, zipped: bool) -> None:
    runs = [CHAT, CODING, CHAT]
    whole = ".jsonl" not in name.lower()
    data = json.dumps(runs, indent=2) if whole else "\n\n".join(map(json.dumps, runs))
    packed = ("\ufeff" + data).encode()
    path = tmp_path / name
    path.write_bytes(gzip.compress(packed) if zipped else packed)
    assert import_file(store, path) == Counts(added=3, steps=7)
    assert by_json(states(store).values()) == by_json(runs)
    assert import_file(store, write_lines(tmp_path / "other.jsonl", *runs)) == Counts(present=3)


def test_one_run_alone_in_a_json_file(store: es.Store, tmp_path: Path) -> None:
    path = tmp_path / "one.json"
    path.write_text(json.dumps(CHAT, indent=1), "utf-8")
    assert import_file(store, path) == Counts(added=1, steps=2)


def test_how_far_a_file_has_been_read(tmp_path: Path) -> None:
    for path in (write_lines(tmp_path / "a.jsonl", *[CHAT] * 500), tmp_path / "b.json"):
        if path.suffix == ".json":
            path.write_text(json.dumps([CHAT] * 500), "utf-8")
        transcript = Transcript(path)
        seen = [transcript.fraction for _ in transcript]
        assert seen == sorted(seen)
        assert seen[0] < 0.5
        assert transcript.fraction == 1.0


def test_an_unknown_suffix_is_refused() -> None:
    with pytest.raises(ValueError, match=r"notes\.txt: not a \.jsonl"):
        Transcript("notes.txt")


def test_a_long_file_is_never_held_whole(tmp_path: Path) -> None:
    path = tmp_path / "long.jsonl"
    line = json.dumps(CHAT) + "\n"
    path.write_text(line * 20_000, "utf-8")
    tracemalloc.start()
    try:
        assert sum(1 for _ in Transcript(path)) == 20_000
        assert tracemalloc.get_traced_memory()[1] < 1_000_000 < path.stat().st_size
    finally:
        tracemalloc.stop()


# Malformed runs

DEEP = b"[" * 200 + b"]" * 200
BAD_LINES = {
    b'{"messages": [}': "not JSON: Expecting value at column 15",
    b"[1]": "a run is an object, this is a list",
    b"null": "a run is an object, this is null",
    b'{"a": 1}': "the object has neither messages nor steps",
    b'{"messages": {}}': "messages is an object, not a list of objects",
    b'{"messages": null, "steps": []}': "messages is null, not a list of objects",
    b'{"steps": [{}, "x"]}': "steps[1] is a string, not an object",
    b'{"messages": [{"role": "\xff"}]}': "not UTF-8: invalid start byte at byte 25",
    b'{"messages": [{}, {"n": 18446744073709551616}]}': "value at 'messages[1].n' refused: 184467440737095",
    b'{"messages": [{}, {"n": NaN}]}': "not JSON: NaN is no JSON value",
    b'{"messages": [{}, {"n": 1e999}]}': "value at 'messages[1].n' refused: inf is not a JSON value",
    b'{"messages": [{}, {"s": "\\ud800"}]}': "value at 'messages[1].s' refused: a string holds a lone surrogate",
    b'{"messages": [], "x": {"s": "\\ud800"}}': "value at 'x.s' refused: a string holds a lone surrogate",
    b'{"messages": [], "a": 1, "a": 2}': "not JSON that can be kept: key 'a' stands twice",
    b'{"messages": [], "": 2}': "a key is a non-empty string",
    b'{"messages": [], "d": ' + DEEP + b"}": "value at 'd' refused: nested deeper than 128",
    b'{"messages": [], "d": ' + b"[" * 100_000 + b"]" * 100_000 + b"}": "nested too deep",
    b'{"messages": [], "n": ' + b"1" * 5000 + b"}": "a number of 5000 digits",
}


@pytest.mark.parametrize(("bad", "reason"), BAD_LINES.items(), ids=range(len(BAD_LINES)))
def test_a_malformed_line_stops_the_import_at_its_number(
    store: es.Store, tmp_path: Path, bad: bytes, reason: str
) -> None:
    path = tmp_path / "bad.jsonl"
    good = json.dumps(CHAT).encode()
    path.write_bytes(b"\n".join([good, b"", bad, json.dumps(CODING).encode()]))
    counts = Counts()
    with pytest.raises(MalformedRun) as raised:
        import_transcript(store, Transcript(path), counts)
    assert raised.value.line == 3
    assert str(raised.value).startswith(f"{path}:3: ")
    assert reason in raised.value.reason
    assert counts == Counts(added=1, steps=2)
    assert by_json(states(store).values()) == by_json([CHAT])


def test_malformed_lines_are_skipped_on_request(store: es.Store, tmp_path: Path) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_bytes(b"\n".join([*BAD_LINES, json.dumps(CHAT).encode()]))
    told: list[MalformedRun] = []
    counts = import_file(store, path, on_bad=told.append)
    assert counts == Counts(added=1, skipped=len(BAD_LINES), steps=2)
    assert [error.line for error in told] == list(range(1, len(BAD_LINES) + 1))
    assert store.verify().ok


def test_a_truncated_gzip_stream_is_reported_where_it_ends(store: es.Store, tmp_path: Path) -> None:
    path = tmp_path / "cut.jsonl.gz"
    lines = [json.dumps(CHAT | {"pad": os.urandom(200).hex()}) for _ in range(100)]
    whole = gzip.compress("\n".join(lines).encode())
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(MalformedRun, match="the gzip stream ends or breaks here") as raised:
        import_file(store, path)
    assert raised.value.line == len(store.traces(limit=1000)) + 1
    told: list[MalformedRun] = []
    counts = import_file(store, path, on_bad=told.append)
    assert (counts.added, counts.present, counts.skipped) == (0, raised.value.line - 1, 1)
    path.write_bytes(whole)
    assert import_file(store, path).added == 100 - raised.value.line + 1


@pytest.mark.parametrize(
    ("text", "line", "reason"),
    [
        ("", 1, "not JSON: Expecting value at column 1"),
        ('[\n{"messages": []},\n5]', 3, "a run is an object, this is a number"),
        ('[\n{"messages": []},\n{oops}]', 3, "not JSON: Expecting property name"),
        ('[{"messages": []}\n,\n]', 3, "not JSON: Expecting value"),
        ('[{"messages": []}', 1, "not JSON: Expecting ',' delimiter"),
        ('[{"messages": []}\n;]', 2, "not JSON: Expecting ',' delimiter"),
        ('{"messages": []}\n{"messages": []}\n', 2, "is it a .jsonl file?"),
    ],
)
def test_a_malformed_json_file_names_its_line(
    store: es.Store, tmp_path: Path, text: str, line: int, reason: str
) -> None:
    path = tmp_path / "bad.json"
    path.write_text(text, "utf-8")
    with pytest.raises(MalformedRun) as raised:
        import_file(store, path)
    assert raised.value.line == line
    assert reason in raised.value.reason


def test_a_line_or_file_beyond_the_limit_is_passed_over_unread(
    store: es.Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eventstore.transcripts.MAX_LINE_BYTES", 1000)
    monkeypatch.setattr("eventstore.transcripts.MAX_JSON_BYTES", 1000)
    long = {"messages": [{"content": "x" * 5000}]}
    told: list[MalformedRun] = []
    counts = import_file(store, write_lines(tmp_path / "a.jsonl", CHAT, long, CODING), on_bad=told.append)
    assert (counts.added, counts.skipped, told[0].line) == (2, 1, 2)
    import_file(store, write_lines(tmp_path / "b.json", long), on_bad=told.append)
    assert [error.reason.partition(";")[0] for error in told] == [
        "the line is longer than 1000 bytes",
        "longer than 1000 bytes",
    ]


def test_a_trace_of_that_id_with_other_content_is_left_alone(store: es.Store, tmp_path: Path) -> None:
    path = write_lines(tmp_path / "chat.jsonl", CHAT)
    with es.open(tmp_path / "other.db") as other:
        import_file(other, path)
        (info,) = other.traces()
    store.start({"messages": [{"role": "someone"}]}, id=info.trace_id)
    with pytest.raises(MalformedRun, match="has this run's id and other content"):
        import_file(store, path)
    assert store.state_at(info.trace_id) == {"messages": [{"role": "someone"}]}


# Once, and no more


def test_identical_runs_of_one_file_are_traces_of_their_own(store: es.Store, tmp_path: Path) -> None:
    again = dict(reversed(CHAT.items()))
    path = write_lines(tmp_path / "twice.jsonl", CHAT, again, CHAT | {"reward": 1})
    assert import_file(store, path) == Counts(added=3, steps=6)
    assert len({info.trace_id for info in store.traces()}) == 3
    assert import_file(store, path) == Counts(present=3)
    renamed = path.rename(tmp_path / "renamed.jsonl")
    renamed.write_text("\n" + renamed.read_text("utf-8"), "utf-8")
    assert import_file(store, renamed) == Counts(present=3)


def test_ids_are_uuids_of_version_8(store: es.Store, tmp_path: Path) -> None:
    import_file(store, write_lines(tmp_path / "two.jsonl", CHAT, CODING))
    assert {(UUID(trace_id).version, UUID(trace_id).variant) for trace_id in states(store)} == {
        (8, "specified in RFC 4122")
    }


@pytest.mark.parametrize("kept", range(7))
def test_an_import_cut_short_at_any_step_goes_on(tmp_path: Path, kept: int) -> None:
    path = write_lines(tmp_path / "runs.jsonl", CHAT, CODING, {"messages": [{"role": "user"}]})
    with es.open(tmp_path / "whole.db") as whole:
        import_file(whole, path)
        expected = states(whole)
    calls = 0

    def cut() -> None:
        nonlocal calls
        calls += 1
        if calls > kept:
            raise KeyboardInterrupt

    with es.open(tmp_path / "cut.db") as store:
        first = Counts()
        with pytest.raises(KeyboardInterrupt):
            import_transcript(store, Transcript(path), first, on_step=cut)
        second = import_file(store, path)
        assert first.steps + second.steps == 6
        assert second.added + second.continued + second.present == 3
        assert states(store) == expected
        assert all(info.status == "completed" for info in store.traces())
        assert all(entry.success for info in store.traces() for entry in store.open_trace(info.trace_id).entries())


def test_two_imports_at_once_write_each_step_once(tmp_path: Path) -> None:
    runs = [{"n": n, "messages": [{"i": i} for i in range(20)]} for n in range(20)]
    path = write_lines(tmp_path / "runs.jsonl", *runs)
    counts = [Counts() for _ in range(3)]

    def work(mine: Counts) -> None:
        with es.open(tmp_path / "runs.db", durability="normal") as store:
            import_transcript(store, Transcript(path), mine)

    threads = [threading.Thread(target=work, args=(mine,)) for mine in counts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with es.open(tmp_path / "runs.db") as store:
        assert by_json(states(store).values()) == by_json(runs)
        assert sum(mine.steps for mine in counts) == 400
        assert sum(mine.added for mine in counts) == 20
        assert store.verify().ok


# Real runs


@pytest.mark.parametrize("name", REAL)
def test_real_runs_come_back_as_they_were(store: es.Store, name: str) -> None:
    path = real(name)
    runs = source_runs(path)
    items = sum(len(run.get(key, [])) for run in runs for key in LISTS)
    assert import_file(store, path) == Counts(added=len(runs), steps=items)
    found = states(store)
    assert by_json(found.values()) == by_json(runs)
    version = {info.trace_id: info.version for info in store.traces(limit=1000)}
    assert import_file(store, path) == Counts(present=len(runs))
    assert {info.trace_id: info.version for info in store.traces(limit=1000)} == version
    store.drop_bases()
    assert states(store) == found


@pytest.mark.parametrize("name", REAL)
def test_a_real_run_can_be_looked_at_after_every_message(store: es.Store, name: str) -> None:
    path = real(name)
    import_file(store, path)
    for info in store.traces(limit=1000)[::10]:
        run = store.state_at(info.trace_id)
        held = {key: 0 for key in LISTS if key in run}
        for event in store.events(info.trace_id):
            if event.kind == "delta":
                held[event.event.key] += 1
            expected = {key: value[: held[key]] if key in held else value for key, value in run.items()}
            assert store.state_at(info.trace_id, event.seq) == expected


KILLED = """
import os, sys
import eventstore as es
from eventstore.transcripts import Counts, Transcript, import_transcript
counts, wanted = Counts(), int(sys.argv[3])
with es.open(sys.argv[1]) as store:
    import_transcript(store, Transcript(sys.argv[2]), counts,
                      on_step=lambda: counts.steps == wanted and os.kill(os.getpid(), 9))
"""


def test_kill_9_in_the_middle_of_a_real_import(tmp_path: Path) -> None:
    path, database = real(REAL[0]), tmp_path / "killed.db"
    with es.open(tmp_path / "whole.db", durability="normal") as whole:
        items = import_file(whole, path).steps
        expected = states(whole)
    done = 0
    for steps in (1, 3, 700, 801):
        process = subprocess.run([sys.executable, "-c", KILLED, str(database), str(path), str(steps)], check=False)
        assert process.returncode == -signal.SIGKILL
        done += steps
    with es.open(database) as store:
        begun = store.traces(limit=1000)
        assert 0 < len(begun) < len(expected)
        assert store.verify().ok
        counts = import_file(store, path)
        assert counts.steps == items - done
        assert counts.added == len(expected) - len(begun)
        assert counts.continued <= 1
        assert states(store) == expected
        assert {info.status for info in store.traces(limit=1000)} == {"completed"}
        assert store.verify().ok


def test_kill_9_at_any_moment(tmp_path: Path) -> None:
    path, database = real(REAL[0]), tmp_path / "killed.db"
    for begun in (1, 20, 60):
        command = [sys.executable, "-m", "eventstore", "--db", str(database), "import", str(path)]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
            await_traces(database, begun)
            process.kill()
    with es.open(database) as store:
        import_file(store, path)
        assert by_json(states(store).values()) == by_json(source_runs(path))
        assert store.verify().ok


def await_traces(database: Path, wanted: int) -> None:
    until = time.monotonic() + 60
    while time.monotonic() < until:
        try:
            with es.open(database, read_only=True, create=False) as store:
                if len(store.traces(limit=wanted)) == wanted:
                    return
        except es.StorageError:
            pass  # not there yet
        time.sleep(0.005)
    raise AssertionError("the import has not come that far in a minute")
