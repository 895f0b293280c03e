"""`export jsonl` and `import` of what it wrote: files, pipes, compression, what is told and how it fails."""

from __future__ import annotations

import gzip
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

import eventstore as es
from eventstore.cli import main
from eventstore.transfer.loading import is_dump

Run = Callable[..., Result]


@pytest.fixture
def db(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store with three traces and a tombstone at `eventstore.db`, in the current folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("EVENTSTORE_DB", raising=False)
    with es.open("eventstore.db", durability="normal") as store:
        for name in ("chat", "code"):
            trace = store.start({"log": []}, id=f"{name}-1", name=name)
            for number in range(20):
                with trace.step("work") as step:
                    step.append("log", {"number": number, "text": "\x1b[31mgröße"})
        store.fork("chat-1", 5, id="fork-1", name="again").end()
        store.start({}, id="gone")
        store.erase("gone")
    return tmp_path / "eventstore.db"


@pytest.fixture
def run(db: Path) -> Run:
    def invoke(*arguments: str, code: int = 0) -> Result:
        result = CliRunner().invoke(main, list(arguments))
        assert result.exit_code == code, (result.output, result.exception)
        assert "Traceback" not in result.output
        return result

    return invoke


def files(run: Run, *arguments: str, code: int = 0) -> list[dict[str, Any]]:
    """What `import --json` tells of each file, without the time."""
    found = json.loads(run(*arguments, "--json", code=code).stdout)["files"]
    return [{name: value for name, value in file.items() if name != "seconds"} for file in found]


def figures(file: str, **counts: int) -> dict[str, Any]:
    zeros = dict.fromkeys(
        ("added", "continued", "present", "refused", "commits", "events", "tombstones", "problems"), 0
    )
    return {"file": file, **zeros, **counts}


@pytest.mark.parametrize("name", ["all.jsonl", "all.jsonl.gz", "all.dump", "all.GZ"])
def test_an_export_is_imported_into_an_equal_store(run: Run, db: Path, name: str) -> None:
    told = run("export", "jsonl", name)
    assert told.stdout.startswith(f"{name}: 3 traces, 44 steps, 84 events, 1 tombstone (")
    data = Path(name).read_bytes()
    assert (data[:2] == b"\x1f\x8b") is name.lower().endswith(".gz")
    assert Path(name).stat().st_mode & 0o777 == 0o600
    assert files(run, "--db", "b.db", "import", name) == [figures(name, added=3, commits=44, events=84, tombstones=1)]
    assert files(run, "--db", "b.db", "import", name) == [figures(name, present=3)]
    with es.open(db) as store, es.open("b.db") as other:
        assert store.verify().heads == other.verify().heads and other.verify().ok
        assert store.state_at("fork-1") == other.state_at("fork-1")
    assert [path.name for path in db.parent.glob(".*.part")] == []


def test_a_pipe_takes_the_lines(run: Run, db: Path) -> None:
    python = [sys.executable, "-m", "eventstore"]
    out = subprocess.run([*python, "export", "jsonl", "-"], capture_output=True, check=True)
    assert out.stderr.decode().startswith("3 traces, 44 steps")
    lines = [json.loads(line) for line in out.stdout.splitlines()]
    assert next(iter(lines[0])) == "eventstore" and lines[-1]["end"]["traces"] == 3
    refused = run("export", "jsonl", "-", "--json", code=2)
    assert "no room for --json" in refused.stderr
    with subprocess.Popen([*python, "export", "jsonl", "-"], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as reader:
        assert reader.stdout is not None and reader.stderr is not None
        reader.stdout.read(10)
        reader.stdout.close()
        assert b"Traceback" not in reader.stderr.read()


def test_traces_can_be_chosen(run: Run, db: Path) -> None:
    run("export", "jsonl", "a.jsonl", "fork")
    lines = [json.loads(line) for line in Path("a.jsonl").read_bytes().splitlines()]
    assert [line["trace"]["trace_id"] for line in lines if "trace" in line] == ["chat-1", "fork-1"]
    told = json.loads(run("export", "jsonl", "b.jsonl", "--name", "code", "--json").stdout)
    assert (told["traces"], told["commits"], told["tombstones"], told["damaged"]) == (1, 21, 0, 0)
    assert json.loads(run("export", "jsonl", "c.jsonl", "--status", "completed", "--json").stdout)["traces"] == 2
    assert "not both" in run("export", "jsonl", "d.jsonl", "code", "--name", "code", code=2).stderr
    assert "absent" in run("export", "jsonl", "d.jsonl", "absent", code=1).stderr
    assert not Path("d.jsonl").exists()


def test_an_export_replaces_its_file_when_it_is_whole(run: Run, db: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("a.jsonl").write_text("older", "utf-8")

    def fails(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("eventstore.cli.dumping.dump", fails)
        assert "No space left" in run("export", "jsonl", "a.jsonl", code=1).stderr
    assert Path("a.jsonl").read_text("utf-8") == "older" and list(db.parent.glob(".*")) == []
    run("export", "jsonl", "a.jsonl")
    assert is_dump(Path("a.jsonl").read_bytes()[:64])
    assert "no" in run("export", "jsonl", "absent/a.jsonl", code=1).stderr.lower()


@pytest.mark.parametrize(
    "target", ["eventstore.db", "eventstore.db-wal", "eventstore.db-lock", "./eventstore.db", "b.db"]
)
def test_an_export_never_replaces_a_store(run: Run, db: Path, target: str) -> None:
    with es.open("b.db") as other:
        other.start({}, id="precious")
    before = db.read_bytes()
    refused = run("export", "jsonl", target, code=2)
    assert "is the event store itself" in refused.stderr or "is an SQLite file" in refused.stderr
    assert db.read_bytes() == before
    with es.open("b.db") as other:
        assert other.open_trace("precious").version == 1


@pytest.mark.parametrize("side", ["-wal", "-shm", "-journal", "-lock", "-owners"])
@pytest.mark.parametrize("by", ["link.db", "folder/eventstore.db"])
def test_an_export_through_a_link_spares_the_files_beside_the_store(run: Run, db: Path, side: str, by: str) -> None:
    Path("link.db").symlink_to(db)
    Path("folder").symlink_to(db.parent)
    with es.open(db) as store:
        store.start({}, id="precious")
        there = Path(f"eventstore.db{side}").exists()
        for target in (f"eventstore.db{side}", f"folder/eventstore.db{side}"):
            refused = run("--db", by, "export", "jsonl", target, code=2)
            assert "is the event store itself" in refused.stderr
        assert Path(f"eventstore.db{side}").exists() is there
        Path("other.name").hardlink_to(db)
        assert "is the event store itself" in run("--db", by, "export", "jsonl", "other.name", code=2).stderr
    with es.open(db) as store:
        assert store.open_trace("precious").version == 1 and store.verify().ok


@pytest.mark.parametrize("side", ["-wal", "-shm", "-journal", "-lock", "-owners"])
def test_an_export_spares_what_belongs_to_another_store(run: Run, db: Path, side: str) -> None:
    with es.open("b.db"):
        pass
    there = Path(f"b.db{side}").exists()
    assert "belongs to" in run("export", "jsonl", f"b.db{side}", code=2).stderr
    assert Path(f"b.db{side}").exists() is there
    run("export", "jsonl", f"absent{side}")
    assert is_dump(Path(f"absent{side}").read_bytes()[:64])


@pytest.mark.parametrize("magic", ["377f0682", "377f0683"])
def test_an_export_never_replaces_a_write_ahead_log(run: Run, db: Path, magic: str) -> None:
    Path("moved").write_bytes(bytes.fromhex(magic) + b"\0" * 28)
    assert "is an SQLite file" in run("export", "jsonl", "moved", code=2).stderr
    assert Path("moved").stat().st_size == 32


def test_an_import_of_a_line_that_never_ends_stops_early(run: Run, db: Path) -> None:
    if not Path("/proc/self/status").exists():
        pytest.skip("the peak of a process is not told here")
    with gzip.open("bomb.jsonl.gz", "wb", compresslevel=1) as bomb:
        bomb.write(b'{"eventstore":{"x":"')
        for _ in range(200):
            bomb.write(b"a" * (1 << 20))
    code = (
        "import re, sys\nfrom eventstore.cli import main\n"
        "try: main(['--db', 'b.db', 'import', sys.argv[1]])\n"
        "except SystemExit as end: print(end.code, *re.findall(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read()))"
    )
    found = subprocess.run([sys.executable, "-c", code, "bomb.jsonl.gz"], capture_output=True, text=True, check=True)
    exit_code, peak_kib = map(int, found.stdout.split())
    assert exit_code == 1 and "longer than 1048576 bytes" in found.stderr
    assert peak_kib < 150 * 1024


def test_a_killed_export_leaves_nothing_under_the_name(run: Run, db: Path) -> None:
    code = (
        "import eventstore.cli.dumping as dumping, time\nfrom eventstore.cli import main\n"
        "def slow(*_, **__): print('now', flush=True); time.sleep(60)\n"
        "dumping.dump = slow\nmain(['export', 'jsonl', 'a.jsonl'])\n"
    )
    for number in (signal.SIGKILL, signal.SIGINT):
        with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            assert process.stdout is not None and process.stdout.readline() == b"now\n"
            process.send_signal(number)
            assert process.wait(20) in (-signal.SIGKILL, 130)
        assert not Path("a.jsonl").exists()


def test_an_import_goes_on_and_tells_what_it_refused(run: Run, db: Path) -> None:
    run("export", "jsonl", "a.jsonl")
    lines = Path("a.jsonl").read_bytes().splitlines(keepends=True)
    Path("cut.jsonl").write_bytes(b"".join(lines[:12]))
    cut = run("--db", "b.db", "import", "cut.jsonl", code=1)
    assert "refused: line 13: trace chat-1, seq 20: the dump is cut short" in cut.stderr
    assert cut.stdout.split()[-7:] == ["cut.jsonl", "0", "0", "0", "1", "9", cut.stdout.split()[-1]]
    Path("edited.jsonl").write_bytes(b"".join(lines).replace(b'"number":15', b'"number":51', 1))
    [told] = files(run, "--db", "b.db", "import", "edited.jsonl", code=1)
    assert told == figures("edited.jsonl", added=2, refused=1, problems=1, commits=30, events=57, tombstones=1)
    assert files(run, "--db", "b.db", "import", "a.jsonl") == [
        figures("a.jsonl", continued=1, present=2, commits=5, events=10)
    ]
    with es.open("b.db") as other:
        assert other.verify().ok
        other.erase("code-1")
    assert "code-1 was erased" in run("--db", "b.db", "import", "a.jsonl", code=1).stderr


def test_dumps_and_transcripts_are_told_apart(run: Run, db: Path) -> None:
    run("export", "jsonl", "a.jsonl")
    Path("runs.jsonl").write_text(json.dumps({"messages": [{"role": "user", "content": "hi"}]}) + "\n", "utf-8")
    Path("runs2.jsonl.gz").write_bytes(gzip.compress(Path("runs.jsonl").read_bytes()))
    told = run("--db", "b.db", "import", "runs.jsonl", "a.jsonl", "runs2.jsonl.gz").stdout.splitlines()
    assert [line.split()[0] for line in told] == ["file", "runs.jsonl", "runs2.jsonl.gz", "total", "file", "a.jsonl"]
    assert "refused" in told[4] and "skipped" in told[0]
    assert "not a .jsonl" in run("import", "eventstore.db", code=2).stderr


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b'{"eventstore":{"format":99}, "sum":""}\n', "dump format 99 was written by a newer version"),
        (b'{"eventstore":{"format":1},"sum":"\x1b[31m"}\n', "not a line of a dump"),
        (b'{"eventstore":{"format":1},"sum":"x"}\n', "not what was written"),
    ],
)
def test_what_cannot_be_read_at_all_is_one_line(run: Run, db: Path, text: bytes, words: str) -> None:
    Path("a.jsonl").write_bytes(text)
    refused = run("--db", "b.db", "import", "a.jsonl", code=1)
    assert (
        words in refused.stderr and refused.stderr.startswith("Error: a.jsonl: line 1") and "\x1b" not in refused.stderr
    )


def test_a_damaged_trace_is_told_and_the_rest_written(run: Run, db: Path, damage_file: Callable[..., int]) -> None:
    damage_file(db, "UPDATE log SET at_us = at_us + 1 WHERE trace = 1 AND first_seq = 10")
    told = run("export", "jsonl", "a.jsonl", code=1)
    assert "damaged: " in told.stderr and "chat-1 is damaged at seq 10" in told.stderr and "1 damaged" in told.stdout
    [counts] = files(run, "--db", "b.db", "import", "a.jsonl", code=1)
    assert (counts["added"], counts["refused"]) == (2, 1)


def test_a_terminal_gets_a_bar_and_a_coloured_line(run: Run, db: Path) -> None:
    fcntl, pty, termios = (pytest.importorskip(name) for name in ("fcntl", "pty", "termios"))
    for arguments in (["export", "jsonl", "a.jsonl.gz"], ["--db", "b.db", "import", "a.jsonl.gz"]):
        leader, follower = pty.openpty()
        fcntl.ioctl(follower, termios.TIOCSWINSZ, b"\x32\x00\x78\x00\x00\x00\x00\x00")
        environment = {
            name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES", "NO_COLOR")
        }
        with subprocess.Popen(
            [sys.executable, "-m", "eventstore", *arguments],
            stdout=follower,
            stderr=follower,
            env=environment | {"TERM": "xterm-256color"},
        ) as process:
            os.close(follower)
            shown = b""
            try:
                while chunk := os.read(leader, 65536):
                    shown += chunk
            except OSError:
                pass  # the other end is closed
        os.close(leader)
        assert process.returncode == 0
        assert b"a.jsonl.gz" in shown and b"\x1b[" in shown and b"Traceback" not in shown


def test_the_fifo_of_another_program_is_written_to(run: Run, db: Path) -> None:
    if not hasattr(os, "mkfifo"):
        pytest.skip("no named pipes here")
    os.mkfifo("pipe")
    with subprocess.Popen(["cat", "pipe"], stdout=subprocess.PIPE) as reader:
        run("export", "jsonl", "pipe")
        assert reader.stdout is not None and is_dump(reader.stdout.read())
    assert Path("pipe").is_fifo() and time.time() > 0
